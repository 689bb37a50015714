"""Tests of the package imagemint.client.torch."""

import importlib
import sys

import pytest

from imagemint.client import torch as package


def test_public_names_exist():
    """The package has all names of `__all__`."""
    assert all(hasattr(package, name) for name in package.__all__)


def test_missing_torch_is_reported(monkeypatch):
    """Without PyTorch the import says what to install."""
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, package.__name__)
    with pytest.raises(ModuleNotFoundError, match="needs PyTorch"):
        importlib.import_module(package.__name__)
