"""Open volumes: reading and writing."""

import ctypes
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional

from . import _library as lib
from ._handle import Handle
from ._library import Pinned, call
from .work import ProgressCallback, Work

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

_EXTENTS = 1024


@dataclass(frozen=True)
class Extent:
    """A range with or without data."""

    offset: int
    length: int
    #: Known to read as zeros, and takes no room.
    zero: bool


def vector(pins: "Sequence[Pinned]") -> "ctypes.Array[lib.Vector]":
    """The buffers as the C library wants them; they have to stay pinned."""
    return (lib.Vector * len(pins))(*[lib.Vector(pin.address, pin.length) for pin in pins])


def write_flags(fua: bool) -> int:
    """The flags of a write."""
    return lib.FUA if fua else 0


class Volume(Handle):
    """An open volume or snapshot. Buffers are anything contiguous (`bytes`, `bytearray`, `memoryview`, `mmap`, arrays): their bytes are read and
    written where they are."""

    _close_function = "volume_close"

    def __init__(self, handle: int, name: str) -> None:
        super().__init__(handle)
        self._name = name

    def __repr__(self) -> str:
        return f"<archipelago.Volume {self._name}>"

    @property
    def handle(self) -> int:
        """Its handle in the C library; 0 if it is closed."""
        return self._handle

    @property
    def size(self) -> int:
        """Its size in bytes, as it is now."""
        size = ctypes.c_uint64()
        call("volume_size", self._handle, ctypes.byref(size))
        return size.value

    def read(self, length: int, offset: int) -> bytearray:
        """The `length` bytes at `offset`."""
        buffer = bytearray(length)
        self.readinto(buffer, offset)
        return buffer

    def readinto(self, buffer: "WriteableBuffer", offset: int) -> None:
        """Fills a buffer with the bytes at `offset`."""
        with Pinned(buffer, writable=True) as pin:
            call("pread", self._handle, pin.address, pin.length, offset)

    def readinto_many(self, buffers: "Sequence[WriteableBuffer]", offset: int) -> None:
        """Fills buffers one after the other, at most 1024, with the bytes at `offset`: one request."""
        pins = [Pinned(buffer, writable=True) for buffer in buffers]
        call("preadv", self._handle, vector(pins), len(pins), offset)
        for pin in pins:
            pin.release()

    def write(self, buffer: "ReadableBuffer", offset: int, *, fua: bool = False) -> None:
        """Writes a buffer at `offset`. Durable after the next `flush`, or with `fua` when it returns."""
        with Pinned(buffer, writable=False) as pin:
            call("pwrite", self._handle, pin.address, pin.length, offset, write_flags(fua))

    def write_many(self, buffers: "Sequence[ReadableBuffer]", offset: int, *, fua: bool = False) -> None:
        """Writes buffers one after the other, at most 1024, at `offset`: one request."""
        pins = [Pinned(buffer, writable=False) for buffer in buffers]
        call("pwritev", self._handle, vector(pins), len(pins), offset, write_flags(fua))
        for pin in pins:
            pin.release()

    def flush(self) -> None:
        """Makes everything durable that was written before."""
        call("flush", self._handle)

    def discard(self, offset: int, length: int) -> None:
        """Frees the room of the whole sectors of 4096 bytes inside the range, which read as zeros from then on."""
        call("discard", self._handle, offset, length, 0)

    def write_zeroes(self, offset: int, length: int, *, allocate: bool = False, fua: bool = False) -> None:
        """Makes the range read as zeros; with `allocate` room is kept for it."""
        call("write_zeroes", self._handle, offset, length, write_flags(fua) | (lib.ALLOCATE if allocate else 0))

    def extents(self, offset: int = 0, length: Optional[int] = None) -> Iterator[Extent]:
        """The ranges of `offset` to `offset + length`, or to the end, in order."""
        end = self.size if length is None else offset + length
        found = (lib.Extent * _EXTENTS)()
        count = ctypes.c_size_t()
        while offset < end:
            call("extents", self._handle, offset, end - offset, found, _EXTENTS, ctypes.byref(count))
            extents = [Extent(e.offset, e.length, bool(e.flags & lib.EXTENT_ZERO)) for e in found[: count.value]]
            if not extents:
                return
            yield from extents
            offset = extents[-1].offset + extents[-1].length

    def compact(
        self, *, max_extents: int = 16, rate: int = 0, progress: Optional[ProgressCallback] = None
    ) -> None:
        """Gathers blocks that lie in more than `max_extents` pieces, while the volume is in use."""
        work = Work(0, rate, progress)
        work.call("compact", self._handle, max_extents, ctypes.byref(work.options))
