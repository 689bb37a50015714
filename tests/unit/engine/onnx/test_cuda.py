"""The calls of the CUDA runtime, with memmove in the place of a GPU."""

import ctypes

import numpy as np
import pytest

from imagemint.engine.onnx import cuda as _cuda
from imagemint.engine.onnx.cuda import CudaRuntime


class FakeLibrary:
    """libcudart whose device memory is the host's."""

    def __init__(self, code=0):
        self.code = code
        self.locked = {}
        self.cleared = 0

    def cudaHostRegister(self, address, size, flags):  # noqa: N802 - theirs
        """Notes the range."""
        assert flags.value == 0
        self.locked[address.value] = size.value
        return self.code

    def cudaHostUnregister(self, address):  # noqa: N802 - theirs
        """Forgets it."""
        del self.locked[address.value]
        return self.code

    def cudaMemcpy(self, to, source, size, kind):  # noqa: N802 - theirs
        """Copies."""
        assert kind.value == 2
        ctypes.memmove(to, source, size.value)
        return self.code

    def cudaGetLastError(self):  # noqa: N802 - theirs
        """Counts."""
        self.cleared += 1
        return self.code


def test_pages_are_locked_and_let_go():
    """The whole array, and nothing beyond it."""
    library = FakeLibrary()
    runtime, array = CudaRuntime(library), np.zeros((3, 5), np.float32)
    assert runtime.pin(array)
    assert library.locked == {array.ctypes.data: 60}
    runtime.unpin(array)
    assert not library.locked


def test_refused_pages_are_no_failure(caplog):
    """The array works unlocked, and the error is not left for ONNX Runtime to find."""
    library = FakeLibrary(code=2)
    assert not CudaRuntime(library).pin(np.zeros(4, np.uint8))
    assert library.cleared == 1
    assert "4 bytes could not be page-locked" in caplog.text


def test_images_are_fetched():
    """What lies on the device lies in the array."""
    device, host = np.arange(24, dtype=np.uint8).reshape(2, 3, 4), np.zeros((2, 3, 4), np.uint8)
    CudaRuntime(FakeLibrary()).fetch(host, device.ctypes.data)
    assert np.array_equal(host, device)


def test_failed_fetch_is_an_error():
    """With CUDA's code."""
    array = np.zeros(4, np.uint8)
    with pytest.raises(OSError, match="code 719"):
        CudaRuntime(FakeLibrary(code=719)).fetch(array, array.ctypes.data)


def test_missing_runtime_is_said(caplog, monkeypatch):
    """Without the library there is none, and the log says what that costs."""
    monkeypatch.setattr(_cuda, "_LIBRARIES", ("libcudart.so.imaginary",))
    assert CudaRuntime.find.__wrapped__(CudaRuntime) is None
    assert "not page-locked" in caplog.text
