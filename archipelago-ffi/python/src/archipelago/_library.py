"""The C library: its structs, its functions, and how buffers get there."""

import ctypes
import os
import pathlib
from ctypes import POINTER, c_char, c_char_p, c_int, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from types import TracebackType
from typing import TYPE_CHECKING, Any, Callable, Optional

from .errors import error

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

NAME_SIZE = 96
DIGEST_SIZE = 65

OPEN_READ_ONLY = 1
FUA = 1
ALLOCATE = 2
EXTENT_ZERO = 1
RESIZE_SHRINK = 1
INIT_GROUP = 1
STORE_DIRECT = 1
CHECK_REPAIR = 1
CHECK_DATA = 2
COLLECT_DRY_RUN = 1
QUEUE_INLINE = 1
READ, WRITE, FLUSH, DISCARD, WRITE_ZEROES = 1, 2, 3, 4, 5
KIND_DAMAGED = 255
INFO_READ_ONLY, INFO_OPEN, INFO_RECEIVING = 1, 2, 4
MAX_PARTS = 1024


class InitOptions(ctypes.Structure):
    _fields_ = [
        ("size", c_size_t),
        ("block_size", c_uint64),
        ("mode", c_uint32),
        ("flags", c_uint32),
        ("group", c_uint32),
        ("reserved", c_uint32),
    ]


class StoreOptions(ctypes.Structure):
    _fields_ = [
        ("size", c_size_t),
        ("node_cache", c_uint64),
        ("max_unfolded", c_uint64),
        ("flags", c_uint32),
        ("reserved", c_uint32),
    ]


class Info(ctypes.Structure):
    _fields_ = [
        ("size", c_size_t),
        ("name", c_char * NAME_SIZE),
        ("parent", c_char * NAME_SIZE),
        ("id", c_char * 24),
        ("kind", c_uint32),
        ("flags", c_uint32),
        ("volume_size", c_uint64),
        ("block_size", c_uint64),
        ("epoch", c_uint64),
        ("mapped", c_uint64),
        ("created", c_uint64),
        ("owner_pid", c_uint32),
        ("reserved", c_uint32),
        ("owner_host", c_char * 72),
        ("owner_command", c_char * 32),
    ]


class ListOptions(ctypes.Structure):
    _fields_ = [("size", c_size_t), ("prefix", c_char_p), ("after", c_char_p)]


class CreateOptions(ctypes.Structure):
    _fields_ = [("size", c_size_t), ("block_size", c_uint64), ("flags", c_uint32), ("reserved", c_uint32)]


class CloneOptions(ctypes.Structure):
    _fields_ = [("size", c_size_t), ("volume_size", c_uint64), ("flags", c_uint32), ("reserved", c_uint32)]


class GroupMember(ctypes.Structure):
    _fields_ = [("volume", c_char_p), ("snapshot", c_char_p)]


class Progress(ctypes.Structure):
    _fields_ = [
        ("size", c_size_t),
        ("phase", c_uint32),
        ("reserved", c_uint32),
        ("done", c_uint64),
        ("total", c_uint64),
    ]


PROGRESS_CALLBACK = ctypes.CFUNCTYPE(c_int, c_void_p, POINTER(Progress))


class Work(ctypes.Structure):
    _fields_ = [
        ("size", c_size_t),
        ("flags", c_uint32),
        ("reserved", c_uint32),
        ("rate", c_uint64),
        ("progress", PROGRESS_CALLBACK),
        ("user_data", c_void_p),
    ]


class Extent(ctypes.Structure):
    _fields_ = [("offset", c_uint64), ("length", c_uint64), ("flags", c_uint32), ("reserved", c_uint32)]


class Vector(ctypes.Structure):
    """`struct iovec`"""

    _fields_ = [("base", c_void_p), ("length", c_size_t)]


class QueueOptions(ctypes.Structure):
    _fields_ = [
        ("size", c_size_t),
        ("depth", c_uint32),
        ("threads", c_uint32),
        ("flags", c_uint32),
        ("reserved", c_uint32),
    ]


class Request(ctypes.Structure):
    _fields_ = [
        ("volume", c_uint64),
        ("operation", c_uint32),
        ("flags", c_uint32),
        ("offset", c_uint64),
        ("length", c_uint64),
        ("buffer", c_void_p),
        ("iov", c_void_p),
        ("iov_count", c_size_t),
        ("user_data", c_uint64),
    ]


class Completion(ctypes.Structure):
    _fields_ = [("user_data", c_uint64), ("result", ctypes.c_int32), ("reserved", c_uint32)]


_HANDLE = c_uint64
_OUT = POINTER(c_uint64)
_COUNT = POINTER(c_size_t)

# The arguments of every function that gives 0 or a negative errno.
_FUNCTIONS: dict[str, list[Any]] = {
    "text_length": [_HANDLE, _COUNT],
    "text_copy": [_HANDLE, c_size_t, c_void_p, c_size_t, _COUNT],
    "text_close": [_HANDLE],
    "store_init": [c_char_p, POINTER(InitOptions)],
    "store_open": [c_char_p, POINTER(StoreOptions), _OUT],
    "store_close": [_HANDLE],
    "store_status": [_HANDLE, _OUT],
    "list": [_HANDLE, POINTER(ListOptions), POINTER(Info), c_size_t, _COUNT, c_void_p],
    "get_info": [_HANDLE, c_char_p, POINTER(Info)],
    "create": [_HANDLE, c_char_p, c_uint64, POINTER(CreateOptions)],
    "clone": [_HANDLE, c_char_p, c_char_p, POINTER(CloneOptions)],
    "clone_many": [_HANDLE, c_char_p, POINTER(c_char_p), c_size_t, POINTER(CloneOptions)],
    "snapshot": [_HANDLE, c_char_p, c_char_p],
    "snapshot_group": [_HANDLE, POINTER(GroupMember), c_size_t],
    "remove": [_HANDLE, c_char_p],
    "rename": [_HANDLE, c_char_p, c_char_p],
    "resize": [_HANDLE, c_char_p, c_uint64, c_uint32],
    "hash": [_HANDLE, c_char_p, POINTER(Work), c_void_p],
    "check": [_HANDLE, POINTER(Work), _OUT],
    "scrub": [_HANDLE, POINTER(Work), _OUT],
    "collect": [_HANDLE, POINTER(Work), _OUT],
    "compact": [_HANDLE, c_size_t, POINTER(Work)],
    "send": [_HANDLE, c_char_p, c_char_p, c_int, POINTER(Work)],
    "receive": [_HANDLE, c_char_p, c_int, POINTER(Work)],
    "volume_open": [_HANDLE, c_char_p, c_uint32, _OUT],
    "volume_close": [_HANDLE],
    "volume_info": [_HANDLE, POINTER(Info)],
    "volume_size": [_HANDLE, _OUT],
    "pread": [_HANDLE, c_void_p, c_size_t, c_uint64],
    "preadv": [_HANDLE, POINTER(Vector), c_size_t, c_uint64],
    "pwrite": [_HANDLE, c_void_p, c_size_t, c_uint64, c_uint32],
    "pwritev": [_HANDLE, POINTER(Vector), c_size_t, c_uint64, c_uint32],
    "flush": [_HANDLE],
    "discard": [_HANDLE, c_uint64, c_uint64, c_uint32],
    "write_zeroes": [_HANDLE, c_uint64, c_uint64, c_uint32],
    "extents": [_HANDLE, c_uint64, c_uint64, POINTER(Extent), c_size_t, _COUNT],
    "queue_create": [POINTER(QueueOptions), _OUT],
    "queue_close": [_HANDLE],
    "queue_submit": [_HANDLE, POINTER(Request), c_size_t, _COUNT],
    "queue_wait": [_HANDLE, POINTER(Completion), c_size_t, c_size_t, c_int64, _COUNT],
    "queue_eventfd": [_HANDLE, POINTER(c_int)],
}


def _load() -> ctypes.CDLL:
    """The library that ARCHIPELAGO_LIBRARY names, else the one of this package, else the system's."""
    own = pathlib.Path(__file__).with_name("libarchipelago.so.1")
    library = ctypes.CDLL(os.environ.get("ARCHIPELAGO_LIBRARY") or (str(own) if own.exists() else own.name))
    library.archip_last_error.argtypes = []
    library.archip_last_error.restype = c_char_p
    library.archip_release.argtypes = []
    library.archip_release.restype = c_char_p
    for name, arguments in _FUNCTIONS.items():
        function = getattr(library, f"archip_{name}")
        function.argtypes = arguments
        function.restype = c_int
    return library


_library = _load()
_functions: dict[str, Callable[..., int]] = {name: getattr(_library, f"archip_{name}") for name in _FUNCTIONS}


def release() -> str:
    """The release of the library."""
    text: bytes = _library.archip_release()
    return text.decode()


def call(name: str, *arguments: Any) -> None:
    """Calls a function, and raises what it fails with."""
    result = _functions[name](*arguments)
    if result < 0:
        message: bytes = _library.archip_last_error()
        raise error(-result, message.decode())


def text(handle: int) -> str:
    """The content of a text, which is closed."""
    try:
        length = c_size_t()
        call("text_length", handle, ctypes.byref(length))
        buffer = ctypes.create_string_buffer(max(length.value, 1))
        call("text_copy", handle, 0, buffer, length.value, ctypes.byref(length))
        return buffer.raw[: length.value].decode()
    finally:
        call("text_close", handle)


class _PyBuffer(ctypes.Structure):
    """`Py_buffer` of CPython, whose layout is part of its stable interface."""

    _fields_ = [
        ("buf", c_void_p),
        ("obj", c_void_p),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", c_int),
        ("ndim", c_int),
        ("format", c_char_p),
        ("shape", c_void_p),
        ("strides", c_void_p),
        ("suboffsets", c_void_p),
        ("internal", c_void_p),
    ]


_get_buffer = ctypes.pythonapi.PyObject_GetBuffer
_get_buffer.argtypes = [ctypes.py_object, POINTER(_PyBuffer), c_int]
_get_buffer.restype = c_int
_release_buffer = ctypes.pythonapi.PyBuffer_Release
_release_buffer.argtypes = [POINTER(_PyBuffer)]
_release_buffer.restype = None


class Pinned:
    """A contiguous buffer at a fixed address, until it is released: nobody can resize the object meanwhile."""

    __slots__ = ("_buffer", "address", "length")

    def __init__(self, source: "ReadableBuffer", writable: bool) -> None:
        # PyBUF_WRITABLE or PyBUF_SIMPLE; either raises BufferError if the object cannot give that.
        self._buffer: Optional[_PyBuffer] = None
        buffer = _PyBuffer()
        _get_buffer(source, ctypes.byref(buffer), 1 if writable else 0)
        self._buffer = buffer
        self.address: Optional[int] = buffer.buf
        self.length: int = buffer.len

    def release(self) -> None:
        """Gives the buffer up; more than once does no harm."""
        buffer, self._buffer = self._buffer, None
        if buffer is not None:
            _release_buffer(ctypes.byref(buffer))

    def __enter__(self) -> "Pinned":
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], value: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.release()

    def __del__(self) -> None:
        self.release()
