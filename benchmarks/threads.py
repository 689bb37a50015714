"""Measures training on all cores and on one, alone and beside a busy process.

The process has a session of its own, as a program of another terminal or a service has. Linux
shares the time of the cores between sessions first, so the niceness of the process has no effect.

A program that waits for its slowest thread loses more than the share that the other process takes.
Each round measures all four cases in turn; the result is the median of each, as a ratio to one
thread alone.

    python benchmarks/threads.py dcgan --rounds 3
"""

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from passes import draw_noise

from imagemint.training.loop.generator_task import GeneratorTask
from imagemint.training.loop.pace import measure_pace
from imagemint.training.loop.schedules import Schedule
from imagemint.training.networks.precision import PLAIN
from imagemint.training.recipes import RECIPES

_CASES = tuple((threads, busy) for busy in (False, True) for threads in (1, os.cpu_count() or 1))

_BUSY = "while True: pass"


@contextmanager
def run_busy_process(busy: bool) -> Iterator[None]:
    """Keeps one core busy meanwhile."""
    if not busy:
        yield
        return
    command = [sys.executable, "-c", _BUSY]
    with subprocess.Popen(command, start_new_session=True) as other:  # noqa: S603 - a program of this file
        try:
            yield
        finally:
            other.kill()


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("recipe", choices=sorted(RECIPES))
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    recipe = RECIPES[arguments.recipe]()
    task = GeneratorTask(recipe, draw_noise(type(recipe)))
    found: dict[tuple[int, bool], list[float]] = {case: [] for case in _CASES}
    for _ in range(arguments.rounds):
        for threads, busy in _CASES:
            torch.set_num_threads(threads)
            with run_busy_process(busy):
                pace = measure_pace(task, Schedule(), torch.device("cpu"), PLAIN)
            found[threads, busy].append(pace.images_per_s)
    alone = statistics.median(found[_CASES[0]])
    for (threads, busy), speeds in found.items():
        share = statistics.median(speeds) / alone
        spread = f"{min(speeds) / alone:.2f} to {max(speeds) / alone:.2f}"
        load = "beside a busy process" if busy else "alone"
        print(f"{threads} threads, {load}: {share:.2f} times one thread alone ({spread})")


if __name__ == "__main__":
    main()
