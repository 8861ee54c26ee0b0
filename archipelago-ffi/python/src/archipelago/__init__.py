"""The Archipelago storage engine: images, disks and snapshots are maps over one pool of blocks.

A `Store` has volumes and snapshots by name; `Store.open` gives a `Volume`, whose bytes are read into and written from any contiguous
buffer without a copy. A `Queue` carries out many requests at once. All of them are context managers, and may be used from any thread; the
interpreter's lock is given up during every call. What fails raises an `Error`, which is an `OSError` with the errno of the C library.
"""

from ._library import release as _release
from .errors import (
    Busy,
    Cancelled,
    Closed,
    Error,
    Exists,
    InvalidArgument,
    NoSpace,
    NotFound,
    QueueFull,
    ReadOnly,
)
from .queue import Completion, Queue
from .store import Info, Kind, Store
from .volume import Extent, Volume
from .work import Progress

__all__ = [
    "Busy",
    "Cancelled",
    "Closed",
    "Completion",
    "Error",
    "Exists",
    "Extent",
    "Info",
    "InvalidArgument",
    "Kind",
    "NoSpace",
    "NotFound",
    "Progress",
    "Queue",
    "QueueFull",
    "ReadOnly",
    "Store",
    "Volume",
]

__version__ = _release()
