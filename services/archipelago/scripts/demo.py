#!/usr/bin/env python3
"""The demo: a real guest boots from a thin clone of an image, is snapshotted while it writes, and a second guest boots from
that snapshot. The second has another disk through shared memory, whose server is started anew while it is written. Prints what each step took. Ends in under 4 minutes, leaves no process, and no file unless KEEP=1.

Run it with `make demo`, which builds what it needs.
"""

import argparse
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import guestctl  # noqa: E402

CLONES = 1000
FILE_MIB = 32
ROOT_OFFSET = 64 << 20  # of the root file system in the image; guest-image lays it out
IMAGE = "debian-image"
IMAGE_SNAPSHOT = "debian-image-v1"
LIVE_SNAPSHOT = "first-guest-live"
SECOND = "second-guest"
SHARED = "shared-memory-disk"
# A guest boots in 3 to 10 s without KVM on an idle or busy host; the limits allow for a slow machine.
BOOT_SECONDS = 60

# Rewrites files for ever, each round synced before its number is noted in /run (which is memory, not disk).
CHURN = r"""
mkdir -p /root/churn
cat >/run/churn.sh <<'END'
n=0
while :; do
  n=$((n + 1))
  dd if=/dev/urandom of=/root/churn/$((n % 8)) bs=64k count=4 conv=fsync
  printf '%012d\n' $n | dd of=/root/churn/round conv=notrunc,fsync
  echo $n >/run/churn.new && mv /run/churn.new /run/churn.synced
done
END
setsid bash /run/churn.sh </dev/null >/dev/null 2>&1 &
"""


class Failure(Exception):
    """A step did not do what it must; the text says what was seen."""


class StepTimeout(Exception):
    """Raised by the alarm when a step outlives its limit."""


class Meter:
    """What the store takes on its file system, and what the device below it has been asked to write."""

    def __init__(self, store):
        self._store = store
        self._device = None
        device = os.stat(store).st_dev
        path = f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat"
        if os.path.exists(path):
            self._device = path

    def read(self):
        """Allocated bytes of the store, and bytes written to the device (None where the system does not tell)."""
        # So that the figures hold what the step wrote and not only what the kernel got to so far.
        subprocess.run(["sync", "-f", self._store], check=False)
        allocated = 0
        for directory, _, files in os.walk(self._store):
            for name in [".", *files]:
                try:
                    allocated += os.lstat(os.path.join(directory, name)).st_blocks * 512
                except FileNotFoundError:  # a background job of the server removed it
                    continue
        if self._device is None:
            return allocated, None
        with open(self._device, encoding="utf-8") as file:
            return allocated, int(file.read().split()[6]) * 512


def size_text(count):
    """A signed byte count in three digits and a unit."""
    if count is None:
        return "-"
    sign, count = ("-" if count < 0 else ""), abs(count)
    for unit in ("B", "KiB", "MiB"):
        if count < 1000:
            return f"{sign}{count:.3g} {unit}" if unit != "B" else f"{sign}{count} B"
        count /= 1024
    return f"{sign}{count:.3g} GiB"


class Table:
    """Prints one row per step as it ends, and times it out."""

    def __init__(self, meter):
        self._meter = meter
        self._began = time.monotonic()
        self.step = "start"
        print(f"{'step':<66} {'time':>8} {'store':>10} {'device':>10}")
        print("-" * 97, flush=True)

    def run(self, step, limit, action):
        """Runs `action`, which returns a note to print behind the step's name or None. `limit` is in seconds."""
        self.step = step
        before = self._meter.read()
        signal.alarm(limit)
        began = time.monotonic()
        try:
            note = action()
        except StepTimeout:
            raise Failure(f"not done within {limit} s") from None
        finally:
            signal.alarm(0)
        seconds = time.monotonic() - began
        after = self._meter.read()
        grown = after[0] - before[0]
        written = None if after[1] is None else after[1] - before[1]
        text = f"{step}: {note}" if note else step
        print(f"{text:<66} {seconds:>6.2f} s {size_text(grown):>10} {size_text(written):>10}", flush=True)

    def end(self):
        print("-" * 97)
        print(f"{'all':<66} {time.monotonic() - self._began:>6.2f} s")
        print("store: growth of the allocated bytes of the store's files.")
        print("device: bytes the block device below it wrote meanwhile, after a sync, for every program on this machine.")


class Demo:
    def __init__(self, arguments, directory, sockets):
        self._binary = os.path.abspath(arguments.archipelago)
        self._image = os.path.join(os.path.abspath(arguments.guest), "disk.img")
        self._accelerator = arguments.accelerator
        self._directory = directory
        self._sockets = sockets
        self._nbd = os.path.join(sockets, "nbd")
        self._vhost = os.path.join(sockets, "vhost")
        self._server = None
        self._machines = None
        self._server_log = os.path.join(sockets, "serve.log")
        self._guests = []
        self._sha = None
        self._rounds = None
        self.store = os.path.join(directory, "store")
        self.first = None

    # ---------------------------------------------------------------- the command line
    def _environment(self):
        return dict(os.environ, ARCHIPELAGO_STORE=f"file:{self.store}")

    def _archipelago(self, *arguments):
        done = subprocess.run(
            [self._binary, *arguments],
            env=self._environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )
        if done.returncode != 0:
            raise Failure(f"'archipelago {' '.join(arguments)}' ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def _names(self):
        return [entry["name"] for entry in json.loads(self._archipelago("list", "--json"))["entries"]]

    def _start_server(self, *arguments):
        """Starts a server, and waits until it says that it is ready."""
        ready, theirs = os.pipe()
        with open(self._server_log, "ab") as log:
            server = subprocess.Popen(
                [self._binary, "serve", *arguments, "--ready-fd", str(theirs)],
                env=self._environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=(theirs,),
                start_new_session=True, preexec_fn=guestctl.die_with_parent,
            )
        os.close(theirs)
        with open(ready, encoding="utf-8") as stream:
            if stream.readline() != "ready\n":
                raise Failure(f"'archipelago serve' ended with {server.wait()}")
        return server

    def _serve(self):
        self._server = self._start_server("--nbd", f"unix:{self._nbd}")

    def _serve_shared(self):
        self._machines = self._start_server("--vhost-user", f"unix:{self._vhost}={SHARED}")

    @staticmethod
    def _stop_server(server):
        server.terminate()
        if server.wait() != 0:
            raise Failure(f"'archipelago serve' ended with {server.returncode} when asked to stop")

    def _stop_serving(self):
        self._stop_server(self._server)
        self._server = None

    def _boot(self, name, vhost_user=None):
        drive = f"format=raw,cache=none,discard=unmap,file=nbd+unix:///{name}?socket={self._nbd}"
        guest = guestctl.Guest(name, drive, self._sockets, self._accelerator, vhost_user)
        self._guests.append(guest)
        guest.start(BOOT_SECONDS)
        return guest

    # ---------------------------------------------------------------- the steps
    def init(self):
        self._archipelago("init")

    def import_image(self):
        self._archipelago("import", self._image, IMAGE, "--format", "raw")
        return f"{os.stat(self._image).st_size >> 20} MiB, {os.stat(self._image).st_blocks >> 11} MiB in use"

    def snapshot_image(self):
        self._archipelago("snapshot", IMAGE, IMAGE_SNAPSHOT)

    def clone(self):
        before = set(self._names())
        self._archipelago("clone", IMAGE_SNAPSHOT, "guest", "--count", str(CLONES))
        clones = sorted(set(self._names()) - before)
        if len(clones) != CLONES:
            raise Failure(f"{len(clones)} volumes appeared, not {CLONES}")
        self.first, self._other = clones[CLONES // 2], clones[-1]
        return f"{clones[0]} to {clones[-1]}"

    def boot_first(self):
        self._serve()
        return self._boot(self.first).agent.check("uname -sr")

    def write_file(self):
        # The sum is of the stream, not of what was read back from the disk.
        self._sha = self._guests[0].agent.check(
            f"head -c {FILE_MIB}M /dev/urandom | tee /root/file | sha256sum && sync", 60
        ).split()[0]
        return f"{FILE_MIB} MiB, {self._sha[:12]}..."

    def write_on(self):
        agent = self._guests[0].agent
        agent.check(CHURN)
        while agent.run("test \"$(cat /run/churn.synced)\" -ge 3")[0] != 0:
            time.sleep(0.2)

    def snapshot_live(self):
        agent = self._guests[0].agent
        synced_before = int(agent.check("cat /run/churn.synced"))
        began = time.monotonic()
        self._archipelago("snapshot", self.first, LIVE_SNAPSHOT)
        seconds = time.monotonic() - began
        written_after = int(agent.check("cat /root/churn/round"))
        self._rounds = synced_before, written_after
        while int(agent.check("cat /run/churn.synced")) <= written_after:  # it did not stop writing
            time.sleep(0.1)
        return f"the command took {seconds * 1000:.0f} ms"

    def clone_live(self):
        self._archipelago("clone", LIVE_SNAPSHOT, SECOND)

    def boot_second(self):
        self._archipelago("create", SHARED, "--size", "256M")
        self._serve_shared()
        self._boot(SECOND, self._vhost)
        return "while the first runs"

    def read_back(self):
        agent = self._guests[1].agent
        self._compare(agent.check("sha256sum /root/file", 60).split()[0])
        found = int(agent.check("cat /root/churn/round"))
        if not self._rounds[0] <= found <= self._rounds[1]:
            raise Failure(f"round {found} of the writer is on the clone, and it must lie in {self._rounds}")
        return f"same; writer at round {found}"

    def check_file_system(self):
        # Read-only for the moment of the check: e2fsck needs a file system that does not change under it.
        self._guests[1].agent.check(
            "root=$(findmnt -no SOURCE /); mount -o remount,ro / && e2fsck -fn $root; status=$?; "
            "mount -o remount,rw /; exit $status", 120
        )
        return "clean"

    def stop_first(self):
        self._guests[0].power_off()
        # The server gives the volume up a moment after its client is gone.
        while json.loads(self._archipelago("info", self.first, "--json"))["open_by"] is not None:
            time.sleep(0.05)

    def remove(self):
        self._archipelago("remove", IMAGE_SNAPSHOT, IMAGE, self.first, LIVE_SNAPSHOT)
        left = self._names()
        if SECOND not in left or {IMAGE_SNAPSHOT, IMAGE, self.first, LIVE_SNAPSHOT} & set(left):
            raise Failure(f"after the removal the store lists {len(left)} volumes: {left[:5]}...")

    def read_again(self):
        agent = self._guests[1].agent
        agent.check("sync; echo 3 >/proc/sys/vm/drop_caches")
        self._compare(agent.check("sha256sum /root/file", 60).split()[0])
        return "same"

    def write_shared(self):
        agent = self._guests[1].agent
        agent.check("mkfs.ext4 -q /dev/vdb && mount /dev/vdb /mnt", 60)
        agent.check(CHURN.replace("/root/churn", "/mnt/churn"))
        while agent.run("test \"$(cat /run/churn.synced)\" -ge 3")[0] != 0:
            time.sleep(0.2)

    def serve_shared_anew(self):
        agent = self._guests[1].agent
        self._stop_server(self._machines)
        return self._serve_shared_on(agent)

    def _serve_shared_on(self, agent):
        before = int(agent.check("cat /run/churn.synced"))
        self._serve_shared()
        began = time.monotonic()
        while int(agent.check("cat /run/churn.synced")) < before + 2:
            time.sleep(0.05)
        return f"it writes on after {time.monotonic() - began:.1f} s"

    def kill_shared(self):
        agent = self._guests[1].agent
        # Answered, and not flushed by whoever wrote it.
        copy = "dd if=/run/direct of=/mnt/direct bs=4k oflag=direct status=none"
        agent.check(f"dd if=/dev/urandom of=/run/direct bs=4k count=1000 status=none && {copy}", 60)
        self._machines.kill()
        self._machines.wait()
        result = self._serve_shared_on(agent)
        agent.check("dd if=/mnt/direct bs=4k iflag=direct status=none | cmp - /run/direct", 60)
        return f"{result}; unflushed writes are there"

    def check_shared(self):
        agent = self._guests[1].agent
        agent.check("pkill -f '[c]hurn.sh'; sleep 1; umount /mnt && e2fsck -fn /dev/vdb && mount /dev/vdb /mnt", 120)
        noted, found = int(agent.check("cat /run/churn.synced")), int(agent.check("cat /mnt/churn/round"))
        if not noted <= found <= noted + 1:
            raise Failure(f"round {found} of the writer is on the disk, and {noted} was synced")
        agent.check("umount /mnt")
        return f"clean; writer at round {found}"

    def export_second(self):
        self._guests[1].power_off()
        self._stop_server(self._machines)
        self._machines = None
        self._stop_serving()
        exported, file = os.path.join(self._directory, "second.img"), os.path.join(self._directory, "file")
        self._archipelago("export", SECOND, exported)
        device = f"{exported}?offset={ROOT_OFFSET}"
        environment = dict(os.environ, PATH=os.environ["PATH"] + ":/usr/sbin:/sbin")
        done = subprocess.run(
            ["e2fsck", "-fn", device], env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise Failure(f"e2fsck -fn on the export ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        subprocess.run(
            ["debugfs", "-R", f"dump /root/file {file}", device], env=environment, capture_output=True, check=True
        )
        with open(file, "rb") as stream:
            self._compare(hashlib.file_digest(stream, "sha256").hexdigest())
        return "clean, file same"

    def compare_untouched(self):
        exported = os.path.join(self._directory, "untouched.img")
        self._archipelago("export", self._other, exported)
        if subprocess.run(["cmp", exported, self._image], check=False).returncode != 0:
            raise Failure(f"{self._other}, a clone that nobody wrote to, differs from the image")
        return "same"

    def _compare(self, seen):
        if seen != self._sha:
            raise Failure(f"the file reads back with sha256 {seen}; written was {self._sha}")

    # ---------------------------------------------------------------- the end, good or bad
    def tail(self):
        text = ""
        for guest in self._guests:
            text += f"---- {guest.name}, last lines of QEMU and the console:\n{guest.tail()}"
        try:
            with open(self._server_log, encoding="utf-8", errors="replace") as file:
                text += "---- archipelago serve, last lines:\n" + "".join(file.readlines()[-20:])
        except OSError:
            pass
        return text

    def stop(self):
        for guest in self._guests:
            guest.kill()
        for server in (self._server, self._machines):
            if server is not None and server.poll() is None:
                server.terminate()
                try:
                    server.wait(10)
                except subprocess.TimeoutExpired:
                    server.kill()
                    server.wait()


def play(demo, table):
    table.run("create a store", 20, demo.init)
    table.run("import the image", 90, demo.import_image)
    table.run("snapshot the image", 20, demo.snapshot_image)
    table.run(f"{CLONES} clones", 60, demo.clone)
    table.run("boot a clone over NBD", BOOT_SECONDS + 10, demo.boot_first)
    table.run("in it, write a file and sync", 60, demo.write_file)
    table.run("go on writing and syncing in the background", 60, demo.write_on)
    table.run("snapshot its disk meanwhile", 60, demo.snapshot_live)
    table.run("clone that snapshot", 20, demo.clone_live)
    table.run("boot the clone as a second guest", BOOT_SECONDS + 10, demo.boot_second)
    table.run("in it, read the file back", 60, demo.read_back)
    table.run("in it, e2fsck -fn of its root", 120, demo.check_file_system)
    table.run("power the first guest off", 60, demo.stop_first)
    table.run("remove the image, its snapshot, the first disk and its snapshot", 30, demo.remove)
    table.run("second guest reads the file again, caches dropped", 60, demo.read_again)
    table.run("in it, write to another disk, by vhost-user-blk", 90, demo.write_shared)
    table.run("start that disk's server anew meanwhile", 60, demo.serve_shared_anew)
    table.run("kill -9 that server, and start it again", 60, demo.kill_shared)
    table.run("in it, e2fsck -fn of that disk", 120, demo.check_shared)
    table.run("power it off, export its disk, check there", 120, demo.export_second)
    table.run("export a clone never written, compare to image", 120, demo.compare_untouched)


def raise_timeout(*_):
    raise StepTimeout


def leave(*_):
    sys.exit(143)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archipelago", required=True, help="the program under demonstration")
    parser.add_argument("--guest", required=True, help="directory that guest-image filled")
    parser.add_argument("--work", required=True, help="directory for the store; about 2 GiB are used for a while")
    parser.add_argument("--accelerator", choices=("tcg", "kvm"), default="tcg")
    arguments = parser.parse_args()
    signal.signal(signal.SIGALRM, raise_timeout)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)

    os.makedirs(arguments.work, exist_ok=True)
    directory = tempfile.mkdtemp(prefix="run-", dir=os.path.abspath(arguments.work))
    # Apart and short: a socket's path may not exceed 107 bytes.
    sockets = tempfile.mkdtemp(prefix="archipelago-demo-")
    demo = Demo(arguments, directory, sockets)
    os.mkdir(demo.store)
    table = Table(Meter(demo.store))
    status = 1
    try:
        play(demo, table)
        table.end()
        status = 0
    except (Failure, guestctl.GuestError, OSError, subprocess.SubprocessError) as error:
        print(f"\ndemo: FAILED at '{table.step}': {error}\n{demo.tail()}", file=sys.stderr)
    except KeyboardInterrupt:
        print(f"\ndemo: interrupted at '{table.step}'", file=sys.stderr)
        status = 130
    finally:
        demo.stop()
        shutil.rmtree(sockets, ignore_errors=True)
        if os.environ.get("KEEP") == "1":
            print(f"demo: the store is kept in {demo.store}", file=sys.stderr)
        else:
            shutil.rmtree(directory, ignore_errors=True)
    sys.exit(status)


if __name__ == "__main__":
    main()
