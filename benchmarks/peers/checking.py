"""Whether a server computes the very pictures: its answers beside those of ONNX Runtime."""

import asyncio
import io
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from peers.asked import Content, inputs_of, pixels_of
from PIL import Image

from imagemint.bench.mix import RequestKind
from imagemint.bench.target import CallFailed, Target
from imagemint.client import AsyncClient
from imagemint.client.errors import ImagemintError
from imagemint.engine.spec import ModelSpec

Pixels: TypeAlias = npt.NDArray[np.uint8]
Answers: TypeAlias = Callable[[RequestKind], Awaitable[Pixels]]
"""Asks for the images of one request, the first of the reel `REEL`."""

REEL = 7
# Batches of other sizes may take other kernels.
TOLERANCE = 1
_PAUSE_S = 0.03


class Runs(Protocol):
    """A server that has been started."""

    @property
    def ended(self) -> int | None:
        """Its exit status; None while it runs."""
        ...


class NotReady(Exception):  # noqa: N818 - the name says it
    """A server did not answer in time, or ended."""


class Truth:
    """What ONNX Runtime itself computes.

    Args:
        model: the ONNX file.
        spec: of the model.
    """

    def __init__(self, model: Path, spec: ModelSpec) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._spec = spec

    def difference(self, ask: RequestKind, answer: Pixels) -> int:
        """Returns by how many levels a pixel of an answer differs at most.

        Raises:
            ValueError: the answer has another shape.
        """
        z, class_id = inputs_of(self._spec, ask, REEL, 0)
        (image,) = self._session.run(None, {"z": z, "class_id": class_id})
        if image.shape != answer.shape:
            raise ValueError(f"{answer.shape} in place of {image.shape}")
        return int(np.abs(image.astype(np.int16) - answer).max())


def peer_answers(target: Target, spec: ModelSpec) -> Answers:
    """Returns what asks a peer for pixels."""

    async def ask_once(ask: RequestKind) -> Pixels:
        async with target.connect() as connection:
            reply = await connection.unary(ask, REEL)(0)
        if not isinstance(reply.content, Content):
            raise TypeError(f"{type(reply.content).__name__} is no answer of a peer's")
        return pixels_of(reply.content, ask, spec)

    return ask_once


def minted_answers(address: str, model: str) -> Answers:
    """Returns what asks our own server for pixels, by seed and index."""

    async def ask_once(ask: RequestKind) -> Pixels:
        async with AsyncClient(address) as client:
            if ask.format == "raw":
                return (await client.generate(model, ask.count, seed=REEL)).image
            files = await client.encoded(model, ask.count, seed=REEL, format=ask.format)
        images = np.stack([np.asarray(Image.open(io.BytesIO(each.data))) for each in files])
        return images if images.ndim == 4 else images[..., np.newaxis]  # noqa: PLR2004 - NHWC

    return ask_once


async def right_answer(
    answers: Answers, ask: RequestKind, truth: Truth, server: Runs, until_s: float
) -> None:
    """Asks until there is an answer, and compares it.

    Args:
        answers: asks the server.
        ask: for what.
        truth: knows better.
        server: is given up when it ends.
        until_s: when it is given up otherwise, by time.monotonic().

    Raises:
        NotReady: there is no answer.
        ValueError: it is another picture.
    """
    while True:
        try:
            found = truth.difference(ask, await answers(ask))
        except (CallFailed, ImagemintError) as error:
            if server.ended is not None:
                raise NotReady(f"ended with status {server.ended}") from None
            if time.monotonic() > until_s:
                raise NotReady(f"no answer: {error}") from None
            await asyncio.sleep(_PAUSE_S)
            continue
        if found > TOLERANCE:
            raise ValueError(f"{ask}: a pixel is {found} levels off")
        return
