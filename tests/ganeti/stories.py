"""What the stories about the provider under a real Ganeti are told with: a cluster with a store, an image and the provider; and the program that tells
them.

As a module: Site, expect, main.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.append(os.path.join(ROOT, "services/archipelago/scripts"))

from calls import REAL, Broken, Calls  # noqa: E402
from cluster import PROVIDERS, Cluster, ClusterError  # noqa: E402
from guestctl import Agent, GuestError  # noqa: E402

MIB = 1 << 20
# A guest that is emulated on a busy machine.
BOOT_TIMEOUT = 120
# Seconds after which an attachment ends that nobody needs: more than a migration takes.
UNUSED_TIME = 30
IMAGE = "image-1"
PROVIDER = os.path.join(PROVIDERS, "archipelago")


def expect(condition, what):
    """A story that is not true ends the program."""
    if not condition:
        raise ClusterError(what)


class Site:
    """The cluster with a store, an image in it, and the provider, whose calls are written down."""

    def __init__(self, state, archipelago, provider, nodes):
        self.cluster = Cluster(state, nodes)
        self.program = self.cluster.path("archipelago")
        self.store = "file:" + self.cluster.path("store")
        self.calls = None
        self._config = os.path.join(PROVIDER, REAL, "archipelago.toml")
        self._programs = (archipelago, provider)

    def start(self):
        """Installs the provider, makes a store with an image, and starts the cluster."""
        archipelago, provider = self._programs
        stage, srv = self.cluster.path("stage"), self.cluster.path("srv")
        subprocess.run(
            ["make", "--no-print-directory", "-s", "-C", ROOT, "install-extstorage", f"DESTDIR={stage}", f"PROVIDER={provider}",
             f"EXTSTORAGEDIR={PROVIDERS}", "HOOKSDIR=/etc/ganeti/hooks"],
            check=True,
        )
        shutil.move(os.path.join(stage, "srv"), srv)
        for node in self.cluster.nodes:
            shutil.copytree(os.path.join(stage, "etc/ganeti"), node.path("etc"), symlinks=True)
        assert os.path.isdir(os.path.join(stage, "var/log/ganeti/extstorage")), "the directory of logs is installed"
        shutil.copy(archipelago, self.program)
        installed = os.path.join(srv, os.path.relpath(PROVIDER, "/srv"))
        self.calls = Calls(installed, PROVIDER, self.cluster.path("calls"))
        for directory in (installed, os.path.join(installed, REAL)):
            with open(os.path.join(directory, "archipelago.toml"), "w", encoding="ascii") as file:
                file.write(f'store = "{self.store}"\nrun_dir = "{self.cluster.path("run")}"\nunused_time = {UNUSED_TIME}\n')
        shutil.copy(os.path.join(ROOT, ".demo/ganeti/disk.img"), self.cluster.path("guest.img"))
        config = os.path.join(installed, "archipelago.toml")
        for arguments in (
            ["init", "--block-size", "1M"],
            ["import", self.cluster.path("guest.img"), "source-1", "--format", "raw", "--snapshot", IMAGE],
            ["remove", "source-1"],
        ):
            subprocess.run([self.program, "--config", config, *arguments], check=True, stdout=subprocess.DEVNULL)
        self.cluster.start()

    def broken(self, verb, **how):
        """While it is entered, an action of the provider fails."""
        return Broken(self.calls, verb, **how)

    def archipelago(self, *arguments, stdin=None, status=0, node=None):
        """Runs the command line on a node; returns what it printed as JSON."""
        node = node or self.cluster.master
        code, output = node.run(self.program, "--config", self._config, "--json", *arguments, stdin=stdin)
        if code != status:
            raise ClusterError(f"archipelago {arguments} on {node.name}: status {code}, not {status}: {output}")
        return json.loads(output) if output and status == 0 else output

    def archipelago_text(self, *arguments, node=None):
        """The same for a command that prints nothing."""
        (node or self.cluster.master).ok(self.program, "--config", self._config, *arguments)

    def volumes(self):
        return {entry["name"]: entry for entry in self.archipelago("list")["entries"]}

    def attached(self, node=None):
        """What is attached on a node, by the names of volumes."""
        return {entry["name"]: entry for entry in self.archipelago("showmapped", node=node)}

    def nothing_is_attached(self):
        """Whether that is so on all nodes that run."""
        return not any(self.attached(node) for node in self.cluster.nodes if node.pid is not None)

    def wait_until(self, condition, what, timeout=BOOT_TIMEOUT):
        """Waits until something is so."""
        deadline = time.monotonic() + timeout
        while not condition():
            expect(time.monotonic() < deadline, what)
            time.sleep(0.1)

    def add(self, instance, *disks, os_type="plain", hypervisor="kvm", start=True, fails=False):
        """Adds an instance with these disks."""
        arguments = ["gnt-instance", "add", "-t", "ext", "-o", os_type, "-H", hypervisor, "-n", self.cluster.master.name, "--no-nics",
                     "--no-name-check", "--no-ip-check", "--no-wait-for-sync"]
        for index, disk in enumerate(disks):
            arguments += ["--disk", f"{index}:provider=archipelago,{disk}"]
        arguments += [] if start else ["--no-start"]
        do = self.cluster.fails if fails else self.cluster.ok
        return do(*arguments, instance)

    def guest(self, instance, node=None):
        """The guest's command port, when it answers."""
        agent = Agent((node or self.cluster.master).control(instance, "serial"))
        agent.connect(time.monotonic() + BOOT_TIMEOUT)
        return agent

    def sectors(self, instance, disk):
        agent = self.guest(instance)
        try:
            return int(agent.check(f"cat /sys/block/{disk}/size"))
        finally:
            agent.close()

    def live(self):
        """The disks that Ganeti has, as the guide says to ask for them."""
        return self.cluster.ok("gnt-instance", "list", "--no-headers", "-o", "disk.uuids")

    def orphans(self, *arguments):
        return self.archipelago("orphans", "--min-age", "0", "--none-live", *arguments, stdin=self.live())

    def expect_calls_as_written(self, *seen):
        """All calls since the last time had what docs/ganeti.md says, and each of these actions was among them."""
        calls = self.calls.taken()
        for call in calls:
            wrong = call.wrong()
            expect(wrong is None, f"{call.words()} with {call.env}: {wrong}")
        missing = set(seen) - {call.verb for call in calls}
        expect(not missing, f"{missing} were never called")

    def expect_well(self):
        """Ganeti finds nothing wrong but what is wrong with every node in namespaces, and nothing is left of anything."""
        output = self.cluster.run("gnt-cluster", "verify", "--error-codes")[1]
        errors = [line for line in output.splitlines() if re.search(r"ERROR", line) and "ENODESETUP" not in line]
        expect(not errors, "gnt-cluster verify says\n" + "\n".join(errors))
        expect(not self.orphans() and self.nothing_is_attached(), "nothing is left of anything")
        expect(self.archipelago("check")["result"] == "clean", "the store is clean")


def main(text, scope, nodes):
    """Tells stories, which are the functions of `scope` whose names begin with `story_`, on a cluster of so many nodes."""
    stories = {name[6:]: story for name, story in scope.items() if name.startswith("story_")}
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archipelago", default=os.path.join(ROOT, "target/release/archipelago"))
    parser.add_argument("--provider", default=os.path.join(ROOT, "target/release/extstorage-provider"))
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("stories", nargs="*", metavar="STORY", help=", ".join(stories))
    args = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("only root can make a cluster in namespaces")
    state = tempfile.mkdtemp(prefix="ganeti-test.", dir="/var/tmp")
    began = time.monotonic()
    site = None
    try:
        site = Site(state, os.path.abspath(args.archipelago), os.path.abspath(args.provider), nodes)
        site.start()
        print(f"ganeti: the cluster is up after {time.monotonic() - began:.0f} s", flush=True)
        for name in args.stories or stories:
            start = time.monotonic()
            stories[name](site)
            print(f"ganeti: {name.replace('_', ' ')}: {time.monotonic() - start:.0f} s", flush=True)
    except (ClusterError, GuestError, subprocess.SubprocessError) as error:
        sys.exit(f"ganeti: FAILED: {error}" + (f"\nthe cluster's files are in {state}" if args.keep else ""))
    finally:
        if site is not None:
            site.cluster.stop()
        if not args.keep:
            shutil.rmtree(state, ignore_errors=True)
    print(f"ganeti: all of it took {time.monotonic() - began:.0f} s")
