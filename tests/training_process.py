"""One of two processes of a run on the CPU, which does the jobs of a file in order.

    imagemint's environment of a process (RANK and so on) ... python training_process.py JOBS.json

A job has the keys ``recipe``, ``options``, ``run`` (directory), and if it likes ``resume`` and
``stopped_rank`` with ``stopped_after``: the process that gets SIGTERM in that step. Each process
writes what it ends with: `<run>-<rank>.safetensors`, or `<run>-<rank>.txt` with the error.
"""

import json
import signal
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from small_runs import CPU, small, train

from imagemint.training.distributed import start_distributed
from imagemint.training.errors import TrainingError
from imagemint.training.loop import health, monitor
from imagemint.training.loop.stats import Stats
from imagemint.training.recipes import RECIPES


class SignalledStats(Stats):
    """Statistics that send SIGTERM to this process in a given step."""

    left = 0

    def collect(self):
        """Collects the values, and raises the signal in its step."""
        SignalledStats.left -= 1
        if SignalledStats.left == 0:
            signal.raise_signal(signal.SIGTERM)
        return super().collect()


def do(job, processes, device):
    """Trains as the job says."""
    SignalledStats.left = job["stopped_after"] if job.get("stopped_rank") == processes.rank else 0
    recipe = small(RECIPES[job["recipe"]], **job["options"])
    left = f"{job['run']}-{processes.rank}"
    try:
        state = train(
            recipe,
            Path(job["run"]),
            device=device,
            processes=processes,
            resume=job.get("resume", False),
        )
    except TrainingError as error:
        Path(f"{left}.txt").write_text(f"{type(error).__name__}: {error}")
    else:
        save_file(state.collect_tensors(), f"{left}.safetensors")


def main():
    """Joins the other process and does the jobs."""
    torch.set_num_threads(1)
    health.RECALIBRATION_BATCHES = 1
    monitor.plot_losses = monitor.animate_grids = lambda _: None
    sys.modules["imagemint.training.loop.training_loop"].Stats = SignalledStats
    processes, device = start_distributed(CPU, 2, 1)
    for job in json.loads(Path(sys.argv[1]).read_text()):
        do(job, processes, device)
    processes.barrier()


if __name__ == "__main__":
    main()
