"""What has a handle: closed once, by its context, by hand, or at the latest when it goes."""

import warnings
from types import TracebackType
from typing import ClassVar, Optional, TypeVar

from ._library import call

_Self = TypeVar("_Self", bound="Handle")


class Handle:
    """An open object of the C library."""

    _close_function: ClassVar[str]

    def __init__(self, handle: int) -> None:
        # 0 is never a handle: the library answers that it is closed.
        self._handle = handle

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._handle == 0

    def close(self) -> None:
        """Closes it; waits for calls of other threads that are using it. Closing again does nothing."""
        handle, self._handle = self._handle, 0
        if handle:
            call(self._close_function, handle)

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], value: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # Not there if opening failed.
        if getattr(self, "_handle", 0):
            warnings.warn(f"{self!r} was not closed", ResourceWarning, source=self)
            try:
                self.close()
            except OSError:
                pass
