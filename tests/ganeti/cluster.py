#!/usr/bin/env python3
"""A real Ganeti of one or more nodes, in namespaces of their own: nothing of it is left on the machine when it ends.

    cluster.py EXTSTORAGE CONFIG [COMMAND...]

starts one of one node with the provider in directory EXTSTORAGE and the file CONFIG beside it, runs COMMAND (a shell without one) inside of the
node, and takes all of it away. As a module: Cluster. Needs root and the packages of `install-deps ganeti`.

Each node has its own mounts, host name, network and processes. Below STATE (a temporary directory) lies what all see as /srv, and for each node a directory
with what it sees as /etc/ganeti, /var/lib/ganeti, /var/log/ganeti, /etc/ssh and /root. Sockets and whatever else belongs below /run are in file systems
in memory, one for each node. /dev, and with it loop devices, are the machine's; so are the kernel and its locks, and other files are what a file
system of a cluster would be. No name of a node is known outside, and no network leads in.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

DOMAIN = "ganeti.test"
NETWORK = "192.168.77"
QEMU = "/usr/bin/qemu-system-x86_64"
# Nodes that a cluster may have, and host names of instances, vm1 to vmN.
MAX_NODES = 4
INSTANCES = 16
STEP_TIMEOUT = 120
# A daemon that was just started answers after some seconds.
START_TIMEOUT = 20
PROVIDERS = "/srv/ganeti/extstorage"

# Directories that each node has for itself, by the directory below its own.
OWN = {
    "etc": "/etc/ganeti",
    "lib": "/var/lib/ganeti",
    "log": "/var/log/ganeti",
    "ssh": "/etc/ssh",
    "root": "/root",
}

INIT = """
set -e
mount --make-rprivate /
mount -t proc proc /proc
mount -t sysfs sysfs /sys
{binds}
mount --bind {shared}/srv /srv
mount --bind {shared}/hosts /etc/hosts
mount --bind {own}/default /etc/default/ganeti
mount -t tmpfs -o mode=755 tmpfs {shared}/run
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/ganeti /run/sshd /run/lock
hostname {name}
ip link set lo up
ip link add br0 type bridge forward_delay 0
ip link set br0 up
ip addr add {address}/24 dev br0
/usr/sbin/sshd
touch {own}/ready
trap 'exit 0' TERM
set +e
while :; do sleep 3600 & wait $!; done
"""


class ClusterError(Exception):
    """A command failed, or the cluster did not start. The text has the command's output."""


class Node:
    """One node: namespaces, and what runs in them."""

    def __init__(self, number, shared):
        self.number = number
        self.name = f"node{number}.{DOMAIN}"
        self.address = f"{NETWORK}.{number}"
        self._shared = shared
        self._own = os.path.join(shared, f"node{number}")
        self._process = None
        self.pid = None

    def path(self, *parts):
        """A path in the node's own directory, as everybody sees it."""
        return os.path.join(self._own, *parts)

    def start(self):
        """Starts the namespaces, with a server for SSH."""
        self._prepare()
        binds = "\n".join(f"mount --bind {self.path(own)} {seen}" for own, seen in OWN.items())
        script = INIT.format(binds=binds, shared=self._shared, own=self._own, name=self.name, address=self.address)
        with open(self.path("init.log"), "wb") as log:
            self._process = subprocess.Popen(
                ["unshare", "--mount", "--uts", "--net", "--pid", "--fork", "--kill-child", "--", "bash", "-c", script],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )
        deadline = time.monotonic() + START_TIMEOUT
        while not os.path.exists(self.path("ready")):
            if self._process.poll() is not None or time.monotonic() > deadline:
                with open(self.path("init.log"), encoding="utf-8", errors="replace") as file:
                    raise ClusterError(f"{self.name} did not start:\n{file.read()}")
            time.sleep(0.02)
        children = f"/proc/{self._process.pid}/task/{self._process.pid}/children"
        with open(children, encoding="ascii") as file:
            self.pid = int(file.read().split()[0])

    def run(self, *command, timeout=STEP_TIMEOUT, stdin=None, env=None):
        """Runs a command inside of the node. Returns its status and its output, both streams."""
        given = {"input": stdin} if stdin is not None else {"stdin": subprocess.DEVNULL}
        done = subprocess.run(
            self._inside(command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout, check=False, text=True,
            errors="replace", env=self._environment(env), **given,
        )
        return done.returncode, done.stdout

    def begin(self, *command, env=None):
        """Begins a command inside of the node. Returns its process, whose output, both streams, is to be read."""
        return subprocess.Popen(
            self._inside(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            env=self._environment(env),
        )

    def ok(self, *command, **options):
        """The same as `run` for a command that must succeed. Returns its output."""
        status, output = self.run(*command, **options)
        if status != 0:
            raise ClusterError(f"{' '.join(command)} on {self.name} ended with status {status}:\n{output}")
        return output

    def fails(self, *command, **options):
        """The same for a command that must fail."""
        status, output = self.run(*command, **options)
        if status == 0:
            raise ClusterError(f"{' '.join(command)} on {self.name} should have failed, but printed:\n{output}")
        return output

    def control(self, instance, port):
        """A socket of QEMU (`serial`, `monitor`, `qmp`), reached through the node's own root."""
        return f"/proc/{self.pid}/root/run/ganeti/kvm-hypervisor/ctrl/{instance}.{port}"

    def stop(self):
        """Ends everything inside, as a power cut does. Loop devices of the node do not outlive it, though they are the machine's."""
        devices = self._devices() if self.pid is not None else []
        if self.pid is not None:
            os.kill(self.pid, signal.SIGKILL)  # the first process of the node: all others go with it
            self.pid = None
        if self._process is not None:
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for device in devices:
            subprocess.run(["losetup", "-d", device], stderr=subprocess.DEVNULL, check=False)

    def _devices(self):
        """Loop devices over files of the node, and of nodes that a story made up: only as long as it runs the names of their files are seen."""
        others = [f"{self._shared}/run/node{number}.{DOMAIN}/" for number in range(1, MAX_NODES + 1) if number != self.number]
        listed = self.run("losetup", "--list", "--noheadings", "--output", "NAME,BACK-FILE")[1]
        pairs = [line.split(None, 1) for line in listed.splitlines() if " " in line]
        return [device for device, over in pairs if over.startswith(self._shared + "/") and not over.startswith(tuple(others))]

    def _inside(self, command):
        return ["nsenter", "-t", str(self.pid), "-m", "-u", "-n", "-p", "-r", "-w", "--", *command]

    @staticmethod
    def _environment(env):
        clean = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8", "TERM": "dumb"}
        return {**clean, **(env or {})}

    def _prepare(self):
        for own, seen in OWN.items():
            os.makedirs(self.path(own), exist_ok=True)
            os.makedirs(seen, exist_ok=True)
        os.chmod(self._own, 0o755)
        os.chmod(self.path("root"), 0o700)
        os.makedirs(self.path("root", ".ssh"), mode=0o700)
        shutil.copytree("/etc/ganeti", self.path("etc"), symlinks=True, dirs_exist_ok=True)
        shutil.copytree("/etc/ssh", self.path("ssh"), symlinks=True, dirs_exist_ok=True)
        with open(self.path("ssh", "sshd_config"), "w", encoding="ascii") as file:
            file.write("PermitRootLogin yes\nUsePAM no\nStrictModes no\n")
        # Of this node, and not of the machine.
        for kind in ("rsa", "ecdsa", "ed25519"):
            key = self.path("ssh", f"ssh_host_{kind}_key")
            for file in (key, f"{key}.pub"):
                if os.path.exists(file):
                    os.unlink(file)
            subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", key], check=True)
        with open(self.path("default"), "w", encoding="ascii") as file:
            file.write("".join(f'{daemon}_ARGS=""\n' for daemon in ("NODED", "RAPI", "CONFD", "MOND", "WCONFD", "LUXID", "KVMD")))
        # Debian's package does not make this one, and without it Ganeti fails most actions of a provider.
        os.makedirs(self.path("log", "extstorage"))


class Cluster:
    """Nodes, of which the first is the master, with the KVM hypervisor (emulated) and the fake one, and disks of template ext."""

    def __init__(self, state, nodes=1):
        if not 1 <= nodes <= MAX_NODES:
            raise ValueError(f"a cluster has 1 to {MAX_NODES} nodes, not {nodes}")
        self.state = state
        self.nodes = [Node(number, state) for number in range(1, nodes + 1)]
        self.master = self.nodes[0]
        # What is done on the master, which is all that there is of one node.
        self.run, self.ok, self.fails = self.master.run, self.master.ok, self.master.fails

    def path(self, *parts):
        """A path below STATE, as all sides see it."""
        return os.path.join(self.state, *parts)

    def start(self):
        """Starts the nodes and makes the cluster. The provider must lie below path("srv") already."""
        self._prepare()
        for node in self.nodes:
            node.start()
        for node in self.nodes[1:]:
            self._connect(node)
        self._make_cluster()
        for node in self.nodes[1:]:
            self._add(node)

    def stop(self):
        """Ends everything."""
        for node in reversed(self.nodes):
            node.stop()

    def _prepare(self):
        os.chmod(self.state, 0o755)
        for shared in ("srv", "run"):
            os.makedirs(self.path(shared), exist_ok=True)
        os.makedirs("/srv", exist_ok=True)
        with open(self.path("hosts"), "w", encoding="ascii") as file:
            file.write(f"127.0.0.1 localhost\n{NETWORK}.100 cluster.{DOMAIN} cluster\n")
            for number in range(1, MAX_NODES + 1):
                file.write(f"{NETWORK}.{number} node{number}.{DOMAIN} node{number}\n")
            for number in range(1, INSTANCES + 1):
                file.write(f"{NETWORK}.{100 + number} vm{number}.{DOMAIN} vm{number}\n")
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

    def _connect(self, node):
        """A cable from the bridge of the master to that of another node."""
        cable = f"node{node.number}"
        # The ends are made in the two networks; processes are counted as outside of the nodes.
        inside = ["nsenter", "-t", str(self.master.pid), "-n", "ip", "link", "add", cable, "type", "veth", "peer", "name", "node1"]
        subprocess.run([*inside, "netns", str(node.pid)], check=True)
        for end, name in ((self.master, cable), (node, "node1")):
            end.ok("ip", "link", "set", name, "master", "br0")
            end.ok("ip", "link", "set", name, "up")

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
            "--ipolicy-disk-templates=ext,diskless", "--ipolicy-vcpu-ratio=64", f"cluster.{DOMAIN}",
        )

    def _add(self, node):
        """Adds a node, which the master reaches by SSH."""
        keys = self.master.path("root", ".ssh")
        with open(node.path("root", ".ssh", "authorized_keys"), "a", encoding="ascii") as file:
            for name in sorted(os.listdir(keys)):
                if name.endswith(".pub"):
                    with open(os.path.join(keys, name), encoding="ascii") as key:
                        file.write(key.read())
        self.ok("gnt-node", "add", "--no-ssh-key-check", node.name)


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
