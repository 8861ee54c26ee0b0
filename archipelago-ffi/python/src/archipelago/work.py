"""Long work: how far it is, and ending it."""

import ctypes
from dataclasses import dataclass
from typing import Any, Callable, Optional

from . import _library as lib
from ._library import call


@dataclass(frozen=True)
class Progress:
    """How far long work is. `total` is 0 if it is not known; `phase` counts those of a collection."""

    done: int
    total: int
    phase: int


#: Is told how far long work is; ends it by `False`, which raises `Cancelled`, or by raising something.
ProgressCallback = Callable[[Progress], Optional[bool]]


class Work:
    """Options of long work, with a callback into Python whose exception comes out again."""

    def __init__(self, flags: int, rate: int, progress: Optional[ProgressCallback]) -> None:
        self._raised: Optional[BaseException] = None
        self._progress = progress
        # Without a function behind it the callback is null.
        self._callback = lib.PROGRESS_CALLBACK(self._told) if progress else lib.PROGRESS_CALLBACK(0)
        self.options = lib.Work(ctypes.sizeof(lib.Work), flags, 0, rate, self._callback, None)

    def _told(self, _: object, progress: Any) -> int:
        try:
            assert self._progress is not None
            now = progress.contents
            return int(self._progress(Progress(now.done, now.total, now.phase)) is False)
        except BaseException as exception:
            self._raised = exception
            return 1

    def call(self, name: str, *arguments: Any) -> None:
        try:
            call(name, *arguments)
        except OSError:
            if self._raised is not None:
                raise self._raised from None
            raise
