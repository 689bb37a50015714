"""Calls of the CUDA runtime that the Python API of ONNX Runtime lacks."""

import ctypes
import functools
import logging
from typing import Any, Self

import numpy.typing as npt

_log = logging.getLogger(__name__)

# ONNX Runtime loads one of these before it has a session on a GPU; the newest first.
_LIBRARIES = ("libcudart.so.13", "libcudart.so.12")
_DEVICE_TO_HOST = 2


class CudaRuntime:
    """Page-locks arrays, and copies from the device into them.

    Args:
        library: libcudart.
    """

    def __init__(self, library: Any) -> None:  # noqa: ANN401 - its functions are known to ctypes alone
        self._library = library
        self._address = ctypes.c_void_p
        self._size = ctypes.c_size_t

    @classmethod
    @functools.cache
    def find(cls) -> Self | None:
        """Returns the CUDA runtime of this process; logs a warning and returns None without one."""
        for name in _LIBRARIES:
            try:
                return cls(ctypes.CDLL(name))
            except OSError:
                continue
        _log.warning("no %s: buffers are not page-locked", " or ".join(_LIBRARIES))
        return None

    def pin(self, array: npt.NDArray[Any]) -> bool:
        """Page-locks the memory of an array, and returns whether that succeeded. It is optional."""
        locked = not self._library.cudaHostRegister(
            self._address(array.ctypes.data), self._size(array.nbytes), ctypes.c_uint(0)
        )
        if not locked:
            self._library.cudaGetLastError()  # or ONNX Runtime would report it as its own error
            _log.warning("%d bytes could not be page-locked", array.nbytes)
        return locked

    def unpin(self, array: npt.NDArray[Any]) -> None:
        """Unlocks the memory of an array; call it before the array is freed."""
        self._library.cudaHostUnregister(self._address(array.ctypes.data))

    def fetch(self, array: npt.NDArray[Any], address: int) -> None:
        """Copies from the device into a contiguous array; blocks without holding the GIL.

        Raises:
            OSError: the copy failed.
        """
        code = self._library.cudaMemcpy(
            self._address(array.ctypes.data),
            self._address(address),
            self._size(array.nbytes),
            ctypes.c_int(_DEVICE_TO_HOST),
        )
        if code:
            raise OSError(f"cudaMemcpy failed with code {code}")
