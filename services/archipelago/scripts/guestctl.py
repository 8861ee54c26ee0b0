#!/usr/bin/env python3
"""Starts the guest that guest-image builds under QEMU and runs commands in it.

As a module: Guest. As a program, for a guest that somebody else started with a serial port on a UNIX socket:

    guestctl.py SOCKET COMMAND...     prints the command's output, exits with its status

The protocol on the serial port is one line each way, see guest-init in guest-image.
"""

import base64
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time

MEMORY_MIB = 256
CONSOLE_TAIL_LINES = 25
# An answer longer than this is a mistake in the command; the whole of it is held in memory.
MAX_ANSWER = 16 << 20
# Until the first question is asked again; then twice as long each time.
FIRST_ANSWER_SECONDS = 0.5


def die_with_parent():
    """For Popen's preexec_fn: the child gets SIGKILL when this process ends, however it ends."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


class GuestError(Exception):
    """The guest did not start, did not answer in time, or a command in it failed."""


class Agent:
    """The command port of a running guest."""

    def __init__(self, path):
        self._path = path
        self._socket = None
        self._received = b""
        self._sequence = 0

    def connect(self, deadline):
        """Connects and waits until the guest answers; QEMU drops what is sent before the guest listens, so ask again."""
        while self._socket is None:
            attempt = socket.socket(socket.AF_UNIX)
            try:
                attempt.connect(self._path)
                self._socket = attempt
            except OSError:
                attempt.close()
                if time.monotonic() > deadline:
                    raise GuestError(f"nobody listens on the guest's command port {self._path}") from None
                time.sleep(0.05)
        # One that is slow has all questions to answer that it was asked meanwhile: longer each time.
        patience = FIRST_ANSWER_SECONDS
        while True:
            try:
                self._ask("true", min(deadline, time.monotonic() + patience))
                return
            except TimeoutError:
                if time.monotonic() > deadline:
                    raise GuestError("the guest did not answer in time") from None
                patience *= 2

    def run(self, command, timeout=30.0):
        """Runs a shell command in the guest. Returns its exit status and its output (both streams, text)."""
        try:
            return self._ask(command, time.monotonic() + timeout)
        except TimeoutError:
            raise GuestError(f"the guest did not end '{command}' within {timeout:.0f} s") from None

    def check(self, command, timeout=30.0):
        """Like run, but a status other than 0 is an error. Returns the output without the last line end."""
        status, output = self.run(command, timeout)
        if status != 0:
            raise GuestError(f"in the guest, '{command}' ended with status {status}:\n{output.rstrip()}")
        return output.rstrip()

    def close(self):
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _ask(self, command, deadline):
        # The tag tells this answer from a late one to a question that was given up.
        self._sequence += 1
        tag = f"q{self._sequence}"
        line = f"{tag} {base64.b64encode(command.encode()).decode()}\n"
        self._socket.settimeout(5)
        self._socket.sendall(line.encode())
        while True:
            words = self._line(deadline).split()
            if len(words) in (2, 3) and words[0] == f"@@{tag}":
                output = base64.b64decode(words[2]).decode(errors="replace") if len(words) == 3 else ""
                return int(words[1]), output

    def _line(self, deadline):
        while b"\n" not in self._received:
            left = deadline - time.monotonic()
            if left <= 0 or len(self._received) > MAX_ANSWER:
                raise TimeoutError
            self._socket.settimeout(left)
            try:
                data = self._socket.recv(65536)
            except ConnectionError:
                data = b""
            if not data:
                raise GuestError("the guest's command port was closed: QEMU ended or the guest stopped")
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        return line.decode(errors="replace")


class Guest:
    """One QEMU process with one disk. `drive` is the value of QEMU's -drive option without its "if" and "id". With `vhost_user`, the
    path of a vhost-user-blk socket, it has a second disk there (/dev/vdb); with `extra`, another such value, a second disk by that."""

    def __init__(self, name, drive, directory, accelerator="tcg", vhost_user=None, extra=None):
        self.name = name
        self.agent = Agent(os.path.join(directory, f"{name}.agent"))
        self.console = os.path.join(directory, f"{name}.console")
        self._errors = os.path.join(directory, f"{name}.qemu")
        self._process = None
        self._command = [
            "qemu-system-x86_64",
            "-name", name,
            "-accel", "kvm" if accelerator == "kvm" else "tcg,thread=multi",
            "-cpu", "host" if accelerator == "kvm" else "max",
            "-m", str(MEMORY_MIB), "-smp", "1",
            "-nodefaults", "-display", "none", "-no-reboot",
            "-serial", f"file:{self.console}",
            "-serial", f"unix:{self.agent._path},server=on,wait=off",
            "-drive", f"if=none,id=disk0,{drive}",
            "-device", "virtio-blk-pci,drive=disk0,bootindex=1",
        ]
        if extra is not None:
            self._command += ["-drive", f"if=none,id=extra,{extra}", "-device", "virtio-blk-pci,drive=extra"]
        if vhost_user is not None:
            self._command += [
                # Memory that the server can map, and a server that may come back.
                "-object", f"memory-backend-memfd,id=memory,size={MEMORY_MIB}M,share=on", "-machine", "memory-backend=memory",
                "-chardev", f"socket,id=disk1,path={vhost_user},reconnect=1",
                "-device", "vhost-user-blk-pci,chardev=disk1,num-queues=1",
            ]

    def start(self, timeout):
        """Powers the guest on and waits until its userspace answers."""
        deadline = time.monotonic() + timeout
        with open(self._errors, "wb") as errors:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                start_new_session=True,  # an interrupt at the terminal is for the caller, which ends the guest
                preexec_fn=die_with_parent,
            )
        while not os.path.exists(self.agent._path):
            if self._process.poll() is not None:
                raise GuestError(f"QEMU ended at once with status {self._process.returncode}:\n{self.tail()}")
            if time.monotonic() > deadline:
                raise GuestError("QEMU did not open the guest's command port")
            time.sleep(0.02)
        self.agent.connect(deadline)

    def power_off(self, timeout=30.0):
        """Shuts the guest down cleanly and waits until QEMU is gone."""
        self.agent.check("guest-off", timeout)
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise GuestError(f"the guest did not power off within {timeout:.0f} s") from None
        self.agent.close()

    def kill(self):
        """Ends QEMU, as a power cut does. Harmless when it has ended already."""
        self.agent.close()
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def tail(self):
        """The last lines of QEMU's messages and of the guest's console."""
        text = ""
        for path in (self._errors, self.console):
            try:
                with open(path, encoding="utf-8", errors="replace") as file:
                    text += "".join(line.rstrip() + "\n" for line in file.readlines()[-CONSOLE_TAIL_LINES:])
            except OSError:
                continue
        return text


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    agent = Agent(sys.argv[1])
    try:
        agent.connect(time.monotonic() + 60)
        status, output = agent.run(" ".join(sys.argv[2:]), 600)
    except GuestError as error:
        sys.exit(f"guestctl: {error}")
    sys.stdout.write(output)
    sys.exit(status)


if __name__ == "__main__":
    main()
