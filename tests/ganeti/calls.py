"""What Ganeti called the provider with, and calls that fail because a story wants them to.

As a module: Calls and Broken. In the place of each executable of the provider lies a script that runs it, and writes down the call. What is written down is
compared with what is written about each action here and in docs/ganeti.md (`Call.wrong`).
"""

import os
import re

# All but `verify`, which Ganeti never calls, and behind which the hooks are.
VERBS = ("create", "attach", "detach", "remove", "grow", "setinfo", "snapshot", "open", "close")
# Where the executables are that a script runs, below the provider's directory, and where it looks whether it is to fail.
REAL = ".real"
FAIL = ".fail"

SCRIPT = """#!/bin/sh
call={calls}/$(date +%s.%N)-$$
[ ! -e {provider}/{fail}/{verb} ] || . {provider}/{fail}/{verb}
status=1
if [ "$how" != instead ]; then
  {provider}/{real}/{verb} "$@" >$call.out 2>$call.err
  status=$?
  cat $call.err >&2
  cat $call.out
fi
if [ -n "$how" ]; then echo 'injected failure' >&2; fi
env -0 | grep -zE '^(VOL|EXTP)_' >$call.env
echo "$(hostname) {verb} $# $status $how" >$call.new
mv $call.new $call.call
[ -z "$how" ] || exit 1
exit $status
"""

# Variables that come with every call, and those of an action. A disk with a name has VOL_CNAME besides, but for `snapshot`.
ALWAYS = {"VOL_NAME", "EXTP_PROVIDER", "EXTP_ACCESS"}
OF_ACTION = {
    "create": {"VOL_UUID", "VOL_SIZE"},
    "attach": {"VOL_UUID"},
    "detach": {"VOL_UUID"},
    "remove": {"VOL_UUID"},
    "grow": {"VOL_UUID", "VOL_SIZE", "VOL_NEW_SIZE"},
    "setinfo": {"VOL_UUID", "VOL_METADATA"},
    "snapshot": {"VOL_SNAPSHOT_NAME", "VOL_SNAPSHOT_SIZE"},
    "open": {"VOL_UUID", "VOL_OPEN_EXCLUSIVE"},
    "close": {"VOL_UUID"},
}
DEVICE = re.compile(r"/dev/(loop|nbd)\d+\n")
DEVICE_AND_URI = re.compile(r"(/dev/(loop|nbd)\d+)?\nkvm:nbd\+unix:///[^\s,]+\?socket=/[^\s,]+\n")


class Call:
    """One call: on which node, of which action, in which environment, and how it ended."""

    def __init__(self, path):
        with open(path, encoding="ascii") as file:
            self.node, self.verb, arguments, status, *how = file.read().split()
        self.arguments, self.status, self.injected = int(arguments), int(status), bool(how)
        base = path.removesuffix(".call")
        with open(f"{base}.env", encoding="utf-8") as file:
            self.env = dict(text.split("=", 1) for text in file.read().split("\0") if text)
        self.out, self.err = (self._text(f"{base}.{stream}") for stream in ("out", "err"))

    @staticmethod
    def _text(path):
        try:
            with open(path, encoding="utf-8") as file:
                return file.read()
        except FileNotFoundError:
            return ""

    def words(self):
        """The call in short: `node1 open False`."""
        return " ".join([self.node.split(".")[0], self.verb, *filter(None, [self.env.get("VOL_OPEN_EXCLUSIVE")])])

    def wrong(self):
        """What differs from what is written about the action; None if nothing does."""
        wanted = ALWAYS | OF_ACTION[self.verb]
        parameters = {"EXTP_ORIGIN", "EXTP_ORIGIN_SIZE"}
        optional = parameters if self.verb == "snapshot" else parameters | {"VOL_CNAME"}
        if not wanted <= set(self.env) <= wanted | optional:
            return f"its variables are {sorted(self.env)}"
        if self.arguments != 0:
            return f"it had {self.arguments} arguments"
        if self.injected:
            return None
        if self.status != 0:
            said = self.err.splitlines()
            if self.out or not said or not said[-1].startswith("What to do: "):
                return f"it failed, and printed {self.out!r} and {self.err!r}"
            return None
        if self.verb != "attach":
            return f"it printed {self.out!r}" if self.out else None
        shape = DEVICE_AND_URI if self.env["EXTP_ACCESS"] == "userspace" else DEVICE
        return None if shape.fullmatch(self.out) else f"it printed {self.out!r}"


class Calls:
    """The record of all calls, kept in a directory."""

    def __init__(self, provider, seen_provider, directory):
        """For the provider in directory `provider`, which nodes see as `seen_provider`."""
        self.provider, self.directory = provider, directory
        for made in (directory, os.path.join(provider, REAL), os.path.join(provider, FAIL)):
            os.makedirs(made)
        for verb in VERBS:
            path = os.path.join(provider, verb)
            os.rename(path, os.path.join(provider, REAL, verb))
            with open(path, "w", encoding="ascii") as file:
                file.write(SCRIPT.format(calls=directory, provider=seen_provider, fail=FAIL, real=REAL, verb=verb))
            os.chmod(path, 0o755)

    def taken(self):
        """All calls since the last time, in the order in which they began."""
        names = sorted(name for name in os.listdir(self.directory) if name.endswith(".call"))
        calls = []
        for name in names:
            path = os.path.join(self.directory, name)
            calls.append(Call(path))
            os.unlink(path)
        return calls


class Broken:
    """An action of the provider that fails, after or instead of doing its work; on one node, or for one value of VOL_OPEN_EXCLUSIVE, if that is
    said."""

    def __init__(self, calls, verb, after=False, node=None, exclusive=None):
        self._path = os.path.join(calls.provider, FAIL, verb)
        conditions = []
        if node is not None:
            conditions.append(f'[ "$(hostname)" = {node} ]')
        if exclusive is not None:
            conditions.append(f'[ "$VOL_OPEN_EXCLUSIVE" = {exclusive} ]')
        self._text = " && ".join([*conditions, f"how={'after' if after else 'instead'}"]) + "\n"

    def __enter__(self):
        with open(self._path, "w", encoding="ascii") as file:
            file.write(self._text)

    def __exit__(self, *_):
        os.unlink(self._path)
