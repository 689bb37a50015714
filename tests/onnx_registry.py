"""A fixture for tests that export models. Imported by name, as held_backend is."""

import functools

import pytest


@pytest.fixture(autouse=True, scope="session")
def keep_registry():
    """Builds PyTorch's table of ONNX functions once per process.

    The exporter builds it for every model, which takes half of the time of a small one.
    """
    from torch.onnx._internal.exporter._registration import ONNXRegistry  # noqa: PLC0415 - slow

    with pytest.MonkeyPatch.context() as patch:
        once = functools.cache(ONNXRegistry.from_torchlib)
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(once))
        yield
