"""Queues: many requests in flight at once, collected when they have ended."""

import ctypes
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Optional

from . import _library as lib
from ._handle import Handle
from ._library import Pinned, call
from .errors import Error, error
from .volume import Volume, vector, write_flags

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer


@dataclass(frozen=True)
class Completion:
    """The end of a request. `error` is `None` if it succeeded."""

    tag: Any
    error: Optional[Error]


class Queue(Handle):
    """Carries out requests for any volumes, in threads of its own, or with `inline` in the thread that submits them.

    A buffer belongs to the request until its completion was collected: it cannot be resized, and should not be read or written. Each
    completion comes with the `tag` of its request, which may be anything. `fileno` is a descriptor to poll, for `select` or an event loop.
    """

    _close_function = "queue_close"

    def __init__(self, depth: int = 256, *, threads: int = 0, inline: bool = False) -> None:
        flags = lib.QUEUE_INLINE if inline else 0
        options = lib.QueueOptions(ctypes.sizeof(lib.QueueOptions), depth, threads, flags)
        handle = ctypes.c_uint64()
        call("queue_create", ctypes.byref(options), ctypes.byref(handle))
        super().__init__(handle.value)
        self._depth = depth or 256
        self._lock = threading.Lock()
        self._next = 0
        #: What each request in flight has: its tag, its buffers, and their array.
        self._in_flight: dict[int, tuple[Any, list[Pinned], Any]] = {}

    def __repr__(self) -> str:
        return f"<archipelago.Queue of depth {self._depth}>"

    def __len__(self) -> int:
        """Requests that were submitted and not collected."""
        return len(self._in_flight)

    def close(self) -> None:
        """Carries out what was submitted, and closes the queue; completions that nobody collected are dropped."""
        super().close()
        for _, pins, _ in self._in_flight.values():
            for pin in pins:
                pin.release()
        self._in_flight.clear()

    def fileno(self) -> int:
        """A descriptor that is readable as long as there is something to collect; it is the queue's."""
        descriptor = ctypes.c_int()
        call("queue_eventfd", self._handle, ctypes.byref(descriptor))
        return descriptor.value

    def read(self, volume: Volume, buffer: "WriteableBuffer", offset: int, tag: Any = None) -> None:
        """Submits filling a buffer from `offset`. Raises `QueueFull` if there is no room, like the others."""
        self._submit(volume, lib.READ, 0, offset, 0, [Pinned(buffer, writable=True)], tag)

    def read_many(self, volume: Volume, buffers: "Sequence[WriteableBuffer]", offset: int, tag: Any = None) -> None:
        """Submits filling buffers one after the other from `offset`."""
        self._submit(volume, lib.READ, 0, offset, 0, [Pinned(buffer, writable=True) for buffer in buffers], tag)

    def write(
        self, volume: Volume, buffer: "ReadableBuffer", offset: int, tag: Any = None, *, fua: bool = False
    ) -> None:
        """Submits writing a buffer at `offset`."""
        self._submit(volume, lib.WRITE, write_flags(fua), offset, 0, [Pinned(buffer, writable=False)], tag)

    def write_many(
        self, volume: Volume, buffers: "Sequence[ReadableBuffer]", offset: int, tag: Any = None, *, fua: bool = False
    ) -> None:
        """Submits writing buffers one after the other at `offset`."""
        pins = [Pinned(buffer, writable=False) for buffer in buffers]
        self._submit(volume, lib.WRITE, write_flags(fua), offset, 0, pins, tag)

    def flush(self, volume: Volume, tag: Any = None) -> None:
        """Submits making durable what was collected before."""
        self._submit(volume, lib.FLUSH, 0, 0, 0, [], tag)

    def discard(self, volume: Volume, offset: int, length: int, tag: Any = None) -> None:
        """Submits freeing a range."""
        self._submit(volume, lib.DISCARD, 0, offset, length, [], tag)

    def write_zeroes(
        self,
        volume: Volume,
        offset: int,
        length: int,
        tag: Any = None,
        *,
        allocate: bool = False,
        fua: bool = False,
    ) -> None:
        """Submits making a range read as zeros."""
        flags = write_flags(fua) | (lib.ALLOCATE if allocate else 0)
        self._submit(volume, lib.WRITE_ZEROES, flags, offset, length, [], tag)

    def _submit(
        self, volume: Volume, operation: int, flags: int, offset: int, length: int, pins: list[Pinned], tag: Any
    ) -> None:
        array = vector(pins)
        with self._lock:
            number = self._next
            self._next += 1
            # Before it can complete.
            self._in_flight[number] = (tag, pins, array)
        request = lib.Request(
            volume=volume.handle,
            operation=operation,
            flags=flags,
            offset=offset,
            length=length,
            iov=ctypes.addressof(array) if pins else None,
            iov_count=len(pins),
            user_data=number,
        )
        submitted = ctypes.c_size_t()
        try:
            call("queue_submit", self._handle, ctypes.byref(request), 1, ctypes.byref(submitted))
        except BaseException:
            with self._lock:
                del self._in_flight[number]
            for pin in pins:
                pin.release()
            raise

    def wait(self, least: int = 1, timeout: Optional[float] = None) -> list[Completion]:
        """Waits until at least `least` requests have ended, or for `timeout` seconds, and collects all that have."""
        raw = (lib.Completion * self._depth)()
        count = ctypes.c_size_t()
        nanoseconds = -1 if timeout is None else max(0, min(int(timeout * 1e9), (1 << 63) - 1))
        call("queue_wait", self._handle, raw, self._depth, least, nanoseconds, ctypes.byref(count))
        ends = []
        for completion in raw[: count.value]:
            with self._lock:
                tag, pins, _ = self._in_flight.pop(completion.user_data)
            for pin in pins:
                pin.release()
            ends.append(Completion(tag, error(-completion.result) if completion.result < 0 else None))
        return ends

    def poll(self) -> list[Completion]:
        """Collects the requests that have ended, without waiting."""
        return self.wait(0, 0)
