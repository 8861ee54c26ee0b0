"""What calls raise: an `OSError` with the errno and message of the C library, and a class of its own where a program may want to know."""

import errno
import os


class Error(OSError):
    """A call failed. `errno` says why, `strerror` says it in words, and what to do where something can be done."""


class NotFound(Error, FileNotFoundError):
    """There is no volume, snapshot or store of that name."""


class Exists(Error, FileExistsError):
    """The name is taken."""


class InvalidArgument(Error, ValueError):
    """An argument is out of its range."""


class Busy(Error):
    """The volume is open, here or in another process, in a way that forbids the call."""


class ReadOnly(Error):
    """A write to a snapshot, or to a volume that was opened read-only."""


class NoSpace(Error):
    """There is no room left in the store."""


class Closed(Error, ValueError):
    """The store, volume or queue was closed."""


class QueueFull(Error, BlockingIOError):
    """The queue has no room; completions have to be collected first."""


class Cancelled(Error):
    """A callback ended the call, or the queue was closed while it was waited for."""


_CLASSES: dict[int, type[Error]] = {
    errno.ENOENT: NotFound,
    errno.EEXIST: Exists,
    errno.EINVAL: InvalidArgument,
    errno.EBUSY: Busy,
    errno.EROFS: ReadOnly,
    errno.ENOSPC: NoSpace,
    errno.EBADF: Closed,
    errno.EAGAIN: QueueFull,
    errno.ECANCELED: Cancelled,
}


def error(number: int, message: str = "") -> Error:
    """The exception for an errno."""
    return _CLASSES.get(number, Error)(number, message or os.strerror(number))
