"""Stores: what is in them, and making, renaming and removing it."""

import ctypes
import enum
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Optional, Union

from . import _library as lib
from ._handle import Handle
from ._library import call
from .volume import Volume
from .work import ProgressCallback, Work


class Kind(enum.IntEnum):
    """What a name stands for."""

    VOLUME = 1
    SNAPSHOT = 2
    OBJECT = 3
    #: Its header cannot be read; of the other facts only the name is right.
    DAMAGED = lib.KIND_DAMAGED


@dataclass(frozen=True)
class Info:
    """Facts about a volume or snapshot."""

    name: str
    kind: Kind
    #: 16 hexadecimal digits; no two volumes or snapshots of a store ever have the same.
    id: str
    #: Bytes.
    size: int
    #: Bytes.
    block_size: int
    epoch: int
    #: Bytes that are not known to be zero.
    mapped: int
    read_only: bool
    #: Being received.
    receiving: bool
    parent: Optional[str]
    #: Seconds since 1970.
    created: int
    #: Process, host and command name of who has it open for writing.
    open_by: Optional[tuple[int, str, str]]


def _info(raw: lib.Info) -> Info:
    owner = (raw.owner_pid, raw.owner_host.decode(), raw.owner_command.decode())
    return Info(
        name=raw.name.decode(),
        kind=Kind(raw.kind),
        id=raw.id.decode(),
        size=raw.volume_size,
        block_size=raw.block_size,
        epoch=raw.epoch,
        mapped=raw.mapped,
        read_only=bool(raw.flags & lib.INFO_READ_ONLY),
        receiving=bool(raw.flags & lib.INFO_RECEIVING),
        parent=raw.parent.decode() or None,
        created=raw.created,
        open_by=owner if raw.flags & lib.INFO_OPEN else None,
    )


def _location(place: Union[str, "os.PathLike[str]"]) -> bytes:
    text = os.fspath(place)
    return (text if text.startswith(("file:", "rados:")) else f"file:{os.path.abspath(text)}").encode()


class Store(Handle):
    """An open store: a directory, as a path or as `file:/path`, or a pool of a Ceph cluster, as `rados:pool`."""

    _close_function = "store_close"

    def __init__(
        self,
        location: Union[str, "os.PathLike[str]"],
        *,
        node_cache: int = 0,
        max_unfolded: int = 0,
        direct: bool = False,
    ) -> None:
        self._location = _location(location)
        flags = lib.STORE_DIRECT if direct else 0
        options = lib.StoreOptions(ctypes.sizeof(lib.StoreOptions), node_cache, max_unfolded, flags)
        handle = ctypes.c_uint64()
        call("store_open", self._location, ctypes.byref(options), ctypes.byref(handle))
        super().__init__(handle.value)

    def __repr__(self) -> str:
        return f"<archipelago.Store {self._location.decode()}>"

    @staticmethod
    def init(
        location: Union[str, "os.PathLike[str]"], *, block_size: int = 0, mode: int = 0, group: Optional[int] = None
    ) -> None:
        """Makes a store in a directory that is empty or does not exist; 0 stands for the engine's defaults."""
        flags = 0 if group is None else lib.INIT_GROUP
        options = lib.InitOptions(ctypes.sizeof(lib.InitOptions), block_size, mode, flags, group or 0)
        call("store_init", _location(location), ctypes.byref(options))

    def status(self) -> dict[str, Any]:
        """The state of the store."""
        return self._report("store_status")

    def _report(self, name: str, *arguments: Any, work: Optional[Work] = None) -> dict[str, Any]:
        handle = ctypes.c_uint64()
        (work.call if work else call)(name, self._handle, *arguments, ctypes.byref(handle))
        report: dict[str, Any] = json.loads(lib.text(handle.value))
        return report

    def list(self, prefix: str = "", after: Optional[str] = None, *, page: int = 256) -> Iterator[Info]:
        """Volumes and snapshots in byte order of their names, `page` at a time."""
        options = lib.ListOptions(ctypes.sizeof(lib.ListOptions), prefix.encode())
        entries = (lib.Info * page)()
        following = ctypes.create_string_buffer(lib.NAME_SIZE)
        count = ctypes.c_size_t()
        last = None if after is None else after.encode()
        while True:
            options.after = last
            if page:
                entries[0].size = ctypes.sizeof(lib.Info)
            call("list", self._handle, ctypes.byref(options), entries, page, ctypes.byref(count), following)
            # Before the array is used again.
            yield from [_info(entry) for entry in entries[: count.value]]
            last = following.value
            if not last:
                return

    def info(self, name: str) -> Info:
        """Facts about a volume or snapshot."""
        raw = lib.Info(ctypes.sizeof(lib.Info))
        call("get_info", self._handle, name.encode(), ctypes.byref(raw))
        return _info(raw)

    def create(self, name: str, size: int, *, block_size: int = 0) -> None:
        """Makes an empty volume of `size` bytes."""
        options = lib.CreateOptions(ctypes.sizeof(lib.CreateOptions), block_size)
        call("create", self._handle, name.encode(), size, ctypes.byref(options))

    def clone(self, snapshot: str, name: str, *, size: int = 0) -> None:
        """Makes a writable clone of a snapshot, in constant time; larger than that if `size` says so."""
        options = lib.CloneOptions(ctypes.sizeof(lib.CloneOptions), size)
        call("clone", self._handle, snapshot.encode(), name.encode(), ctypes.byref(options))

    def clone_many(self, snapshot: str, names: Iterable[str], *, size: int = 0) -> None:
        """Makes many clones in one commit: all of them, or none and an error."""
        options = lib.CloneOptions(ctypes.sizeof(lib.CloneOptions), size)
        encoded = [name.encode() for name in names]
        array = (ctypes.c_char_p * len(encoded))(*encoded)
        call("clone_many", self._handle, snapshot.encode(), array, len(encoded), ctypes.byref(options))

    def snapshot(self, volume: str, name: str) -> None:
        """Takes a snapshot of a volume, also of one that another process has open."""
        call("snapshot", self._handle, volume.encode(), name.encode())

    def snapshot_group(self, members: Mapping[str, str]) -> None:
        """Takes snapshots of several volumes at one instant, volume to name of its snapshot: all of them, or none and an error."""
        pairs = [lib.GroupMember(volume.encode(), name.encode()) for volume, name in members.items()]
        array = (lib.GroupMember * len(pairs))(*pairs)
        call("snapshot_group", self._handle, array, len(pairs))

    def remove(self, name: str) -> None:
        """Removes a volume or snapshot, in any order; what others use of it stays."""
        call("remove", self._handle, name.encode())

    def rename(self, name: str, new_name: str) -> None:
        """Gives a volume or snapshot another name."""
        call("rename", self._handle, name.encode(), new_name.encode())

    def resize(self, name: str, size: int, *, shrink: bool = False) -> None:
        """Sets the size of a volume; smaller only with `shrink`, and what is cut off is gone."""
        call("resize", self._handle, name.encode(), size, lib.RESIZE_SHRINK if shrink else 0)

    def open(self, name: str, *, read_only: bool = False) -> Volume:
        """Opens a volume, or a snapshot with `read_only`."""
        handle = ctypes.c_uint64()
        flags = lib.OPEN_READ_ONLY if read_only else 0
        call("volume_open", self._handle, name.encode(), flags, ctypes.byref(handle))
        return Volume(handle.value, name)

    def hash(self, name: str, *, rate: int = 0, progress: Optional[ProgressCallback] = None) -> str:
        """Gives every block of a snapshot a digest, in place; returns the top hash, as Pithos has it for a file of the same bytes."""
        work = Work(0, rate, progress)
        digest = ctypes.create_string_buffer(lib.DIGEST_SIZE)
        work.call("hash", self._handle, name.encode(), ctypes.byref(work.options), digest)
        return digest.value.decode()

    def check(
        self,
        *,
        repair: bool = False,
        data: bool = False,
        rate: int = 0,
        progress: Optional[ProgressCallback] = None,
    ) -> dict[str, Any]:
        """Looks at everything and says what is wrong, left over, or lost."""
        flags = (lib.CHECK_REPAIR if repair else 0) | (lib.CHECK_DATA if data else 0)
        work = Work(flags, rate, progress)
        return self._report("check", ctypes.byref(work.options), work=work)

    def scrub(self, *, rate: int = 0, progress: Optional[ProgressCallback] = None) -> dict[str, Any]:
        """Compares all data of ended epochs with its checksums, and makes those that are not there."""
        work = Work(0, rate, progress)
        return self._report("scrub", ctypes.byref(work.options), work=work)

    def collect(
        self, *, dry_run: bool = False, rate: int = 0, progress: Optional[ProgressCallback] = None
    ) -> dict[str, Any]:
        """Removes what nothing needs any more."""
        work = Work(lib.COLLECT_DRY_RUN if dry_run else 0, rate, progress)
        return self._report("collect", ctypes.byref(work.options), work=work)

    def send(
        self,
        snapshot: str,
        file: Union[int, BinaryIO],
        *,
        base: Optional[str] = None,
        progress: Optional[ProgressCallback] = None,
    ) -> None:
        """Writes a snapshot to a file or descriptor as a stream: whole, or only what differs from the snapshot `base`."""
        work = Work(0, 0, progress)
        if not isinstance(file, int):
            file.flush()
            file = file.fileno()
        encoded = None if base is None else base.encode()
        work.call("send", self._handle, snapshot.encode(), encoded, file, ctypes.byref(work.options))

    def receive(
        self, name: str, file: Union[int, BinaryIO], *, progress: Optional[ProgressCallback] = None
    ) -> None:
        """Receives a stream as the snapshot `name`. A file has to be unbuffered, or at its beginning."""
        work = Work(0, 0, progress)
        descriptor = file if isinstance(file, int) else file.fileno()
        work.call("receive", self._handle, name.encode(), descriptor, ctypes.byref(work.options))
