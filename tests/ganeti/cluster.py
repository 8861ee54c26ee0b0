#!/usr/bin/env python3
"""A real Ganeti of one node, in namespaces of its own: nothing of it is left on the machine when it ends.

    cluster.py EXTSTORAGE CONFIG [COMMAND...]

starts one with the provider in directory EXTSTORAGE and the file CONFIG beside it, runs COMMAND (a shell without one) inside of the node, and
takes all of it away. As a module: Cluster. Needs root and the packages of `install-deps ganeti`.

The node has its own mounts, host name, network and processes. Below STATE (a temporary directory) lies what it sees as /etc/ganeti,
/var/lib/ganeti, /var/log/ganeti, /etc/ssh, /root and /srv; /dev, and with it loop devices, are the machine's. No name of it is known
outside, and no network leads in.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

NODE = "node1.ganeti.test"
CLUSTER = "cluster.ganeti.test"
NETWORK = "192.168.77"
QEMU = "/usr/bin/qemu-system-x86_64"
# Host names of instances, vm1 to vmN.
INSTANCES = 16
# Ganeti's daemons that a master has, without those for machines that are asked about from outside.
STEP_TIMEOUT = 120
PROVIDERS = "/srv/ganeti/extstorage"

# Directories that the node has for itself, by the directory below STATE.
OWN = {
    "etc": "/etc/ganeti",
    "lib": "/var/lib/ganeti",
    "log": "/var/log/ganeti",
    "ssh": "/etc/ssh",
    "root": "/root",
    "srv": "/srv",
}

INIT = """
set -e
mount --make-rprivate /
mount -t proc proc /proc
mount -t sysfs sysfs /sys
{binds}
mount --bind {state}/hosts /etc/hosts
mount --bind {state}/default /etc/default/ganeti
mount -t tmpfs -o mode=755 tmpfs /run/ganeti
mkdir -p /run/sshd
hostname {node}
ip link set lo up
ip link add br0 type bridge forward_delay 0
ip link set br0 up
ip addr add {network}.1/24 dev br0
/usr/sbin/sshd
touch {state}/ready
trap 'exit 0' TERM
set +e
while :; do sleep 3600 & wait $!; done
"""


class ClusterError(Exception):
    """A command failed, or the cluster did not start. The text has the command's output."""


class Cluster:
    """One node that is its own master, with the KVM hypervisor (emulated) and the fake one, and disks of template ext."""

    def __init__(self, state):
        self.state = state
        self._process = None
        self._pid = None

    def path(self, *parts):
        """A path below STATE, as both sides see it."""
        return os.path.join(self.state, *parts)

    def start(self):
        """Starts the node and makes the cluster. The provider must lie below path("srv") already."""
        self._prepare()
        binds = "\n".join(f"mount --bind {self.path(own)} {seen}" for own, seen in OWN.items())
        script = INIT.format(binds=binds, state=self.state, node=NODE, network=NETWORK)
        with open(self.path("init.log"), "wb") as log:
            self._process = subprocess.Popen(
                ["unshare", "--mount", "--uts", "--net", "--pid", "--fork", "--kill-child", "--", "bash", "-c", script],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )
        self._wait(lambda: os.path.exists(self.path("ready")), "the node did not start")
        children = f"/proc/{self._process.pid}/task/{self._process.pid}/children"
        with open(children, encoding="ascii") as file:
            self._pid = int(file.read().split()[0])
        self._make_cluster()

    def run(self, *command, timeout=STEP_TIMEOUT, stdin=None, env=None):
        """Runs a command inside of the node. Returns its status and its output, both streams."""
        clean = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8", "TERM": "dumb"}
        inside = ["nsenter", "-t", str(self._pid), "-m", "-u", "-n", "-p", "-r", "-w", "--", *command]
        given = {"input": stdin} if stdin is not None else {"stdin": subprocess.DEVNULL}
        done = subprocess.run(
            inside, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout, check=False, text=True,
            errors="replace", env={**clean, **(env or {})}, **given,
        )
        return done.returncode, done.stdout

    def ok(self, *command, **options):
        """The same for a command that must succeed. Returns its output."""
        status, output = self.run(*command, **options)
        if status != 0:
            raise ClusterError(f"{' '.join(command)} ended with status {status}:\n{output}")
        return output

    def fails(self, *command, **options):
        """The same for a command that must fail."""
        status, output = self.run(*command, **options)
        if status == 0:
            raise ClusterError(f"{' '.join(command)} should have failed, but printed:\n{output}")
        return output

    def serial(self, instance):
        """The socket of an instance's serial port, reached through the node's own root."""
        return f"/proc/{self._pid}/root/run/ganeti/kvm-hypervisor/ctrl/{instance}.serial"

    def stop(self):
        """Ends everything inside of the node, after taking away loop devices that are left over files of STATE: only there their names are seen."""
        if self._pid is not None:
            listed = self.run("losetup", "--list", "--noheadings", "--output", "NAME,BACK-FILE")[1]
            for device, over in (line.split(None, 1) for line in listed.splitlines() if " " in line):
                if over.startswith(self.state + "/"):
                    self.run("losetup", "-d", device)
            os.kill(self._pid, signal.SIGKILL)  # the first process of the node: all others go with it
        if self._process is not None:
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _prepare(self):
        for own, seen in OWN.items():
            os.makedirs(self.path(own), exist_ok=True)
            os.makedirs(seen, exist_ok=True)
        os.makedirs("/run/ganeti", exist_ok=True)
        os.chmod(self.state, 0o755)
        os.chmod(self.path("root"), 0o700)
        os.makedirs(self.path("root", ".ssh"), mode=0o700)
        shutil.copytree("/etc/ganeti", self.path("etc"), symlinks=True, dirs_exist_ok=True)
        shutil.copytree("/etc/ssh", self.path("ssh"), symlinks=True, dirs_exist_ok=True)
        with open(self.path("ssh", "sshd_config"), "w", encoding="ascii") as file:
            file.write("PermitRootLogin yes\nUsePAM no\nStrictModes no\n")
        for kind in ("rsa", "ecdsa", "ed25519"):
            key = self.path("ssh", f"ssh_host_{kind}_key")
            if not os.path.exists(key):
                subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", key], check=True)
        with open(self.path("hosts"), "w", encoding="ascii") as file:
            file.write(f"127.0.0.1 localhost\n{NETWORK}.1 {NODE} node1\n{NETWORK}.100 {CLUSTER} cluster\n")
            for number in range(1, INSTANCES + 1):
                file.write(f"{NETWORK}.{100 + number} vm{number}.ganeti.test vm{number}\n")
        with open(self.path("default"), "w", encoding="ascii") as file:
            file.write("".join(f'{daemon}_ARGS=""\n' for daemon in ("NODED", "RAPI", "CONFD", "MOND", "WCONFD", "LUXID", "KVMD")))
        # Debian's package does not make the first, and without it Ganeti fails most actions of a provider.
        os.makedirs(self.path("log", "extstorage"))
        self._define_os()

    def _define_os(self):
        """Operating systems: "plain" touches nothing, "image" writes the guest's disk on the first disk, whatever its access."""
        image = self.path("guest.img")
        scripts = {
            "plain": {"create": "exit 0"},
            "image": {"create": f'exec dd if={image} of="$DISK_0_PATH" bs=1M conv=notrunc,fsync status=none'},
        }
        for name, own in scripts.items():
            directory = self.path("srv", "ganeti", "os", name)
            os.makedirs(directory)
            for action in ("create", "import", "export", "rename", "verify"):
                body = own.get(action, "exit 0")
                body = 'exec cat "$EXPORT_DEVICE"' if action == "export" else body
                with open(os.path.join(directory, action), "w", encoding="ascii") as file:
                    file.write(f"#!/bin/sh\n{body}\n")
                os.chmod(os.path.join(directory, action), 0o755)
            with open(os.path.join(directory, "ganeti_api_version"), "w", encoding="ascii") as file:
                file.write("20\n")
            open(os.path.join(directory, "parameters.list"), "w", encoding="ascii").close()

    def _make_cluster(self):
        bounds = (
            "min:memory-size=64,cpu-count=1,disk-count=0,disk-size=1,nic-count=0,spindle-use=1/"
            "max:memory-size=1024,cpu-count=2,disk-count=16,disk-size=1048576,nic-count=2,spindle-use=12"
        )
        self.ok(
            "gnt-cluster", "init", "--enabled-hypervisors=kvm,fake", "--enabled-disk-templates=ext,diskless",
            "--master-netdev=br0", "--master-netmask=24", "--no-etc-hosts", "-N", "mode=bridged,link=br0",
            "-H", f"kvm:kvm_path={QEMU},kernel_path=,initrd_path=,vnc_bind_address=,serial_console=true",
            "-B", "memory=128,vcpus=1", "--ipolicy-bounds-specs", bounds,
            "--ipolicy-std-specs", "memory-size=128,cpu-count=1,disk-count=1,disk-size=64,nic-count=0,spindle-use=1",
            "--ipolicy-disk-templates=ext,diskless", "--ipolicy-vcpu-ratio=64", CLUSTER,
        )

    def _wait(self, condition, what):
        deadline = time.monotonic() + 20
        while not condition():
            if self._process.poll() is not None or time.monotonic() > deadline:
                with open(self.path("init.log"), encoding="utf-8", errors="replace") as file:
                    raise ClusterError(f"{what}:\n{file.read()}")
            time.sleep(0.02)


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    state = tempfile.mkdtemp(prefix="ganeti-test.", dir="/var/tmp")
    cluster = Cluster(state)
    try:
        shutil.copytree(sys.argv[1], cluster.path("srv", "ganeti", "extstorage", "archipelago"))
        shutil.copy(sys.argv[2], cluster.path("srv", "ganeti", "extstorage", "archipelago", "archipelago.toml"))
        cluster.start()
        status, output = cluster.run(*(sys.argv[3:] or ["bash"]), timeout=3600)
        sys.stdout.write(output)
    except ClusterError as error:
        sys.exit(f"cluster: {error}")
    finally:
        cluster.stop()
        shutil.rmtree(state, ignore_errors=True)
    sys.exit(status)


if __name__ == "__main__":
    main()
