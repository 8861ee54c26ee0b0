"""A guest that writes, reads and verifies while it is moved, and what is seen of that from outside.

As a module: Workload, Pauses.

Two loops run in the guest, both past its page cache. One writes numbers, one after the other, each into the next of SLOTS slots of 4 KiB, makes it durable, and
reads one of the last 100 again. The other writes 4 MiB at a time, of two kinds in turn, and compares all of it.
"""

import os
import threading
import time

from guestctl import GuestError

DISK = "/dev/vda"
PAGE = 4096
# Behind the image that the guest was booted from.
FIRST_SLOT = (40 << 20) // PAGE
SLOTS = 128
LARGE = 48 << 20
# How long a number may take: a move, and a guest that is emulated on a busy machine.
STEP_TIMEOUT = 120
# Between two looks at the files of a store.
LOOK = 0.004

SCRIPT = f"""
numbers() {{
  n=0 longest=0
  read last _ </proc/uptime; last=${{last%.*}}${{last#*.}}
  while [ ! -e /stop ]; do
    n=$((n + 1))
    printf '%-{PAGE - 1}s\\n' $n |
      dd of={DISK} bs={PAGE} seek=$(({FIRST_SLOT} + n % {SLOTS})) iflag=fullblock oflag=direct conv=notrunc,fsync 2>/errors.dd ||
      {{ echo "writing $n: $(tail -n 1 /errors.dd)" >>/errors; break; }}
    if [ $n -gt 100 ]; then
      back=$((n - 1 - n * 7919 % 99))
      found=$(dd if={DISK} bs={PAGE} skip=$(({FIRST_SLOT} + back % {SLOTS})) count=1 iflag=direct 2>/dev/null | head -n 1)
      [ "${{found%% *}}" = $back ] || echo "in the place of $back is '${{found%% *}}'" >>/errors
    fi
    read now _ </proc/uptime; now=${{now%.*}}${{now#*.}}
    [ $((now - last)) -le $longest ] || longest=$((now - last))
    last=$now
    echo "$n $longest ." >/done
  done
}}
large() {{
  for kind in a b; do head -c 4194304 /dev/zero | tr '\\0' $kind >/kind.$kind; done
  while [ ! -e /stop ]; do
    for kind in a b; do
      dd if=/kind.$kind of={DISK} bs=256k seek={LARGE >> 18} oflag=direct conv=notrunc,fsync 2>/dev/null || {{ echo "writing 4 MiB" >>/errors; return; }}
      dd if={DISK} bs=256k skip={LARGE >> 18} count=16 iflag=direct 2>/dev/null | cmp -s - /kind.$kind || echo "4 MiB of $kind differ" >>/errors
      usleep 300000
    done
  done
}}
rm -f /stop /done
: >/errors
numbers &
large &
wait
: >/ended
"""


class Workload:
    """The loops in a guest that is reached by an agent."""

    @staticmethod
    def begin(agent):
        """Begins them."""
        agent.check(f"rm -f /ended; cat >/workload <<'END'\n{SCRIPT}END\nsetsid sh /workload >/workload.log 2>&1 </dev/null &")
        Workload.proceed(agent, SLOTS)

    @staticmethod
    def look(agent):
        """The last number that is durable, and the longest time in seconds from one to the next, by the guest's clock. Errors are errors of the story."""
        errors = agent.check("cat /errors")
        if errors:
            raise GuestError(f"what the guest wrote is not what it read: {errors}")
        for _ in range(100):
            words = agent.run("cat /done")[1].split()
            if len(words) == 3:  # it is just being written otherwise
                return int(words[0]), int(words[1]) / 100
            time.sleep(0.05)
        raise GuestError(f"the workload does not run: {agent.run('cat /workload.log')[1]}")

    @staticmethod
    def proceed(agent, numbers):
        """Waits until so many numbers more are durable. Returns what `look` does."""
        deadline = time.monotonic() + STEP_TIMEOUT
        begin = None
        while True:
            try:
                seen = Workload.look(agent)
            except GuestError:
                if begin is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
                continue
            begin = begin if begin is not None else seen[0]
            if seen[0] >= begin + numbers:
                return seen
            if time.monotonic() > deadline:
                raise GuestError(f"the guest wrote no more than {seen[0] - begin} of {numbers} numbers in {STEP_TIMEOUT} s")
            time.sleep(0.1)

    @staticmethod
    def end(agent):
        """Ends them, and compares all that they wrote. Returns the last number."""
        agent.check(": >/stop; while [ ! -e /ended ]; do usleep 50000; done", STEP_TIMEOUT)
        last = Workload.look(agent)[0]
        Workload.expect_durable(agent, last)
        return last

    @staticmethod
    def expect_durable(agent, last):
        """Every slot has the number that was written to it last: one up to `last` or, of loops that ran on, later."""
        text = agent.check(f"dd if={DISK} bs={PAGE} skip={FIRST_SLOT} count={SLOTS} iflag=direct 2>/dev/null | tr -s ' '", STEP_TIMEOUT)
        found = [int(line) for line in text.split()]
        newest = max(found)
        wanted = sorted(range(newest - SLOTS + 1, newest + 1), key=lambda number: number % SLOTS)
        if newest < last or found != wanted:
            raise GuestError(f"the guest wrote numbers up to {last} at least, and its disk has {found}")

    @staticmethod
    def life(agent):
        """Which boot the guest lives in, and for how many seconds."""
        boot, uptime = agent.check("cat /proc/sys/kernel/random/boot_id /proc/uptime").splitlines()
        return boot, float(uptime.split()[0])


class Pauses:
    """The longest time in which nothing was written to a store, seen by the times of its files while it is entered."""

    def __init__(self, store):
        self._store = store
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.longest = 0.0

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()

    def _watch(self):
        last = None
        while not self._over.wait(LOOK):
            newest = self._newest(self._store)
            if last is not None and newest > last:
                self.longest = max(self.longest, (newest - last) / 1e9)
            last = max(last or 0, newest)

    def _newest(self, directory):
        newest = 0
        try:
            for entry in os.scandir(directory):
                if entry.is_dir(follow_symlinks=False):
                    newest = max(newest, self._newest(entry.path))
                elif entry.is_file(follow_symlinks=False):
                    newest = max(newest, entry.stat(follow_symlinks=False).st_mtime_ns)
        except FileNotFoundError:
            pass  # taken away meanwhile
        return newest
