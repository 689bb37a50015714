"""Looks at the machine that a run is about to use."""

import os

import torch

from imagemint.training.networks.precision import Precision, choose_precision, compare_precisions

_SLOWER = 1.1  # times; less can be noise
_BUSY = 0.75  # of a core; the start of the run itself adds less


def find_machine_warnings(device: torch.device, precision: Precision) -> list[str]:
    """Returns reasons why a run on this machine is slower than it could be.

    Args:
        device: device of the networks.
        precision: precision of convolutions and dense layers.
    """
    warnings = find_busy_cores(device)
    if precision == "bf16" and choose_precision(device) == "fp32":
        ratio = compare_precisions(device)
        if ratio > _SLOWER:
            warnings.append(f"bf16 takes {ratio:.1f} times as long as fp32 on this machine")
    return warnings


def find_busy_cores(device: torch.device) -> list[str]:
    """Returns a warning if other programs use cores that the threads of a run on a CPU need."""
    if device.type != "cpu" or not hasattr(os, "getloadavg"):
        return []
    return compare_threads(torch.get_num_threads(), os.cpu_count() or 1, os.getloadavg()[0])


def compare_threads(threads: int, cores: int, load: float) -> list[str]:
    """Returns a warning if not all threads have a core of their own.

    An operation ends when its slowest thread ends, so one thread without a core slows down all.

    Args:
        threads: number of threads of an operation.
        cores: number of cores of the machine.
        load: number of cores that other programs use, on average.
    """
    if threads == 1 or load < _BUSY or threads <= cores - load:
        return []
    busy_cores = min(load, cores)  # more programs may wait for a core than there are
    warning = (
        f"other programs use about {busy_cores:.1f} of {cores} cores, and each operation of the run"
        f" waits for the slowest of {threads} threads; set OMP_NUM_THREADS to the number of free"
        " cores"
    )
    return [warning]
