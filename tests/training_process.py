"""One of two processes of a run on the CPU, which does the jobs of a file in order.

    imagemint's environment of a process (RANK and so on) ... python training_process.py JOBS.json

A job has the keys ``recipe``, ``options``, ``run`` (directory), and if it likes ``resume`` and
``stopped_rank`` with ``stopped_after``: the process that gets SIGTERM in that step. Each process
writes what it ends with: `<run>-<rank>.safetensors`, or `<run>-<rank>.txt` with the error; and the
seeds of PyTorch's generator in its steps, `<run>-<rank>.seeds`. At the end the processes call each
collective and write the results to `collectives-<rank>.json` beside the jobs.
"""

import json
import signal
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch
from safetensors.torch import save_file
from small_runs import CPU, small, train

from imagemint.training import distributed
from imagemint.training.distributed import start_distributed
from imagemint.training.errors import LossNotFinite, TrainingError
from imagemint.training.loop import health, monitor
from imagemint.training.loop.stats import Stats
from imagemint.training.recipes import RECIPES


class SignalledStats(Stats):
    """Statistics that send SIGTERM to this process in a given step."""

    left = 0
    seeds: ClassVar[list[int]] = []

    def collect(self):
        """Collects the values, notes the seed, and raises the signal in its step."""
        SignalledStats.seeds.append(torch.initial_seed())
        SignalledStats.left -= 1
        if SignalledStats.left == 0:
            signal.raise_signal(signal.SIGTERM)
        return super().collect()


def do(job, processes, device):
    """Trains as the job says."""
    SignalledStats.left = job["stopped_after"] if job.get("stopped_rank") == processes.rank else 0
    SignalledStats.seeds = []
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
    Path(f"{left}.seeds").write_text(json.dumps(SignalledStats.seeds))


def call_collectives(run, processes):
    """Calls the collectives with numbers that differ by rank, and writes the results."""
    rank, found = processes.rank, {}
    x = torch.tensor([[1.0 + rank], [3.0 + rank]], requires_grad=True)
    for name in ("all_reduce_sum", "all_reduce_mean", "all_gather"):
        result = getattr(processes, name)(x)
        weights = torch.arange(1.0, result.numel() + 1).reshape(result.shape)
        (gradient,) = torch.autograd.grad((result * weights * (1 + rank)).sum(), x)
        found[name] = [result.flatten().tolist(), gradient.flatten().tolist()]
    found["average"] = processes.average(float(rank))
    parameters = [torch.zeros(shape) for shape in ((2,), (1,), (7,), (2, 2), (1,))]
    for number, parameter in enumerate(parameters):
        if number != 1:
            parameter.grad = torch.arange(parameter.numel()).reshape(parameter.shape) + 2.0 * rank
    processes.average_gradients(parameters)
    gradients = [each.grad for each in parameters if each.grad is not None]
    found["gradients"] = [each.flatten().tolist() for each in gradients]
    processes.on_rank_zero(lambda: Path(f"{run}-ran-on-{rank}").touch())
    for error in (LossNotFinite("it is NaN"), OSError("no space")):
        try:
            processes.on_rank_zero(partial(throw, error))
        except (LossNotFinite, TrainingError, OSError) as caught:
            found.setdefault("errors", []).append(f"{type(caught).__name__}: {caught}")
    waiting, done = Path(f"{run}-waiting"), Path(f"{run}-done")
    if rank == 1:
        waiting.touch()
    with suppress(KeyError), processes.rank_zero_first():
        while not waiting.exists():  # the other process is about to enter
            pass
        found["first"] = not done.exists()
        done.touch()
        if rank == 0:
            raise KeyError("the other process must go on")
    Path(f"{run}-{rank}.json").write_text(json.dumps(found))


def throw(error):
    """Raises an error."""
    raise error


def main():
    """Joins the other process and does the jobs."""
    torch.set_num_threads(1)
    health.RECALIBRATION_BATCHES = 1
    monitor.plot_losses = monitor.animate_grids = lambda _: None
    sys.modules["imagemint.training.loop.training_loop"].Stats = SignalledStats
    processes, device = start_distributed(CPU, 2, 1)
    distributed._BUCKET_ELEMENTS = 1_000  # so that small networks fill several
    for job in json.loads(Path(sys.argv[1]).read_text()):
        do(job, processes, device)
    distributed._BUCKET_ELEMENTS = 4
    call_collectives(Path(sys.argv[1]).with_name("collectives"), processes)
    processes.barrier()


if __name__ == "__main__":
    main()
