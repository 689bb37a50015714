"""Starts a server, checks its answers, and stops it."""

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from peers.checking import NotReady, Truth, check_answer
from peers.processes import Tree, find_free_ports
from peers.servers import Model, Server, Started

from imagemint.bench.mix import RequestKind

READY_S = 120.0


@dataclass(frozen=True)
class Running:
    """A server whose answers are correct.

    Attributes:
        started: how it was started, and how to send requests.
        tree: its processes.
        ready_s: seconds from its start to its first correct answer.
    """

    started: Started
    tree: Tree
    ready_s: float


@contextmanager
def run_server(
    server: Server,
    model: Model,
    truth: Truth,
    kinds: Sequence[RequestKind],
    folder: Path,
    *,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Running]:
    """Runs a server inside the block.

    Args:
        server: the server.
        model: the model that it serves.
        truth: computes the correct answers.
        kinds: requests whose answers must be correct, one or more.
        folder: an empty folder, for its output and temporary files.
        environment: variables in addition to those of the server.

    Raises:
        NotReady: it did not start; the message has the end of its output.
        ValueError: an answer is wrong.
    """
    started = server.start(model, find_free_ports(server.ports))
    variables = {**started.environment, **(environment or {}), "TMPDIR": str(folder)}
    began_s = time.monotonic()
    tree = Tree(started.command, variables, folder)
    try:
        try:
            ready_s = asyncio.run(_wait_until_ready(started, truth, kinds, tree))
        except NotReady as error:
            raise NotReady(f"{error}; {tree.read_output()}") from None
        yield Running(started, tree, ready_s - began_s)
    finally:
        tree.stop()


async def _wait_until_ready(
    started: Started, truth: Truth, kinds: Sequence[RequestKind], tree: Tree
) -> float:
    """Returns the time of the first correct answer, after all checks have passed."""
    until_s = time.monotonic() + READY_S
    answered_s = []
    for kind in kinds:
        await check_answer(started.answers, kind, truth, tree, until_s)
        answered_s.append(time.monotonic())
    return answered_s[0]
