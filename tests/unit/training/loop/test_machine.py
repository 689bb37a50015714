"""Warnings about a machine that other programs use."""

import json
import os

import pytest
import torch

from imagemint.client.cli import main
from imagemint.training.loop import machine
from imagemint.training.loop.machine import compare_threads


@pytest.mark.parametrize(
    ("threads", "cores", "load", "warns"),
    [
        (2, 2, 0.0, False),
        (2, 2, 0.7, False),
        (2, 2, 1.0, True),
        (1, 2, 5.0, False),
        (6, 8, 2.0, False),
        (7, 8, 2.0, True),
        (8, 8, 30.0, True),
    ],
)
def test_threads_without_a_core_are_told(threads, cores, load, warns):
    """The warning comes when threads and other programs together want more cores than there are."""
    found = compare_threads(threads, cores, load)
    assert len(found) == warns
    if warns:
        assert f"use about {min(load, cores):.1f} of {cores} cores" in found[0]
        assert f"slowest of {threads} threads" in found[0]


@pytest.mark.usefixtures("toy_mnist")
def test_dry_run_warns_of_a_busy_machine(tmp_path, monkeypatch, capsys):
    """The load average before the run's own first steps counts."""
    monkeypatch.setattr(os, "getloadavg", lambda: (9.0, 0.0, 0.0))
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    small = ["--generator-channels", "4", "--discriminator-channels", "1", "--batch-size", "8"]
    assert main(["train", "mnist", "--out", str(tmp_path / "run"), "--dry-run", *small]) == 0
    warnings = json.loads(capsys.readouterr().out)["warnings"]
    assert [text for text in warnings if "use about 4.0 of 4 cores" in text] == warnings[-1:]


@pytest.mark.parametrize(
    ("precision", "ratio", "warns"),
    [("bf16", 1.7, True), ("bf16", 1.05, False), ("bf16", 0.4, False), ("fp32", 1.7, False)],
)
def test_slow_precision_is_told(monkeypatch, precision, ratio, warns):
    """A run in bf16 on a processor that computes it slowly would be slow without a reason."""
    monkeypatch.setattr(machine, "compare_precisions", lambda _: ratio)
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    found = machine.find_machine_warnings(torch.device("cpu"), precision)
    assert found == ["bf16 takes 1.7 times as long as fp32 on this machine"] * warns


def test_gpu_that_supports_bf16_is_not_measured(monkeypatch):
    """A small convolution would say that bf16 is slower, because it starts more kernels."""
    monkeypatch.setattr(machine, "choose_precision", lambda _: "bf16")
    monkeypatch.setattr(machine, "compare_precisions", lambda _: 1.7)
    monkeypatch.setattr(machine, "find_busy_cores", lambda _: [])
    assert machine.find_machine_warnings(torch.device("cuda"), "bf16") == []
