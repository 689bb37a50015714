"""Tests of the calls of the CUDA runtime, with a fake library on host memory."""

import ctypes

import numpy as np
import pytest

from imagemint.engine.onnx import cuda as _cuda
from imagemint.engine.onnx.cuda import CudaRuntime


class FakeLibrary:
    """A libcudart whose device memory is host memory."""

    def __init__(self, code=0):
        self.code = code
        self.locked = {}
        self.cleared = 0

    def cudaHostRegister(self, address, size, flags):  # noqa: N802 - theirs
        """Records the range."""
        assert flags.value == 0
        self.locked[address.value] = size.value
        return self.code

    def cudaHostUnregister(self, address):  # noqa: N802 - theirs
        """Removes the range."""
        del self.locked[address.value]
        return self.code

    def cudaMemcpy(self, to, source, size, kind):  # noqa: N802 - theirs
        """Copies host memory."""
        assert kind.value == 2
        ctypes.memmove(to, source, size.value)
        return self.code

    def cudaGetLastError(self):  # noqa: N802 - theirs
        """Counts the calls."""
        self.cleared += 1
        return self.code


def test_pages_are_locked_and_unlocked():
    """Exactly the bytes of the array are locked."""
    library = FakeLibrary()
    runtime, array = CudaRuntime(library), np.zeros((3, 5), np.float32)
    assert runtime.pin(array)
    assert library.locked == {array.ctypes.data: 60}
    runtime.unpin(array)
    assert not library.locked


def test_failed_page_lock_is_logged(caplog):
    """The array works unlocked. CUDA's error is cleared so that ONNX Runtime does not read it."""
    library = FakeLibrary(code=2)
    assert not CudaRuntime(library).pin(np.zeros(4, np.uint8))
    assert library.cleared == 1
    assert "4 bytes could not be page-locked" in caplog.text


def test_images_are_copied_from_the_device():
    """`fetch` copies device memory to the host array."""
    device, host = np.arange(24, dtype=np.uint8).reshape(2, 3, 4), np.zeros((2, 3, 4), np.uint8)
    CudaRuntime(FakeLibrary()).fetch(host, device.ctypes.data)
    assert np.array_equal(host, device)


def test_failed_copy_is_an_error():
    """The error contains CUDA's code."""
    array = np.zeros(4, np.uint8)
    with pytest.raises(OSError, match="code 719"):
        CudaRuntime(FakeLibrary(code=719)).fetch(array, array.ctypes.data)


def test_missing_runtime_is_logged(caplog, monkeypatch):
    """Without the library `find` returns None, and the log names the consequence."""
    monkeypatch.setattr(_cuda, "_LIBRARIES", ("libcudart.so.imaginary",))
    assert CudaRuntime.find.__wrapped__(CudaRuntime) is None
    assert "not page-locked" in caplog.text
