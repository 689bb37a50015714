"""Checks that a server computes the correct pictures, by comparison with ONNX Runtime."""

import asyncio
import io
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from peers.messages import Content, decode_pixels, make_inputs
from PIL import Image

from imagemint.bench.mix import RequestKind
from imagemint.bench.target import CallFailed, Target
from imagemint.client import AsyncClient
from imagemint.client.errors import ImagemintError
from imagemint.engine.spec import ModelSpec

Pixels: TypeAlias = npt.NDArray[np.uint8]
Answers: TypeAlias = Callable[[RequestKind], Awaitable[Pixels]]
"""Requests the images of one kind, the first of the seed `SEED`."""

SEED = 7
# Batches of other sizes may use other kernels.
TOLERANCE = 1
_PAUSE_S = 0.03


class Runs(Protocol):
    """A server that is started."""

    @property
    def ended(self) -> int | None:
        """Exit status; None while it runs."""
        ...


class NotReady(Exception):  # noqa: N818 - the name says it
    """A server did not answer in time, or ended."""


class Truth:
    """The correct answers, computed by ONNX Runtime.

    Args:
        model: the ONNX file.
        spec: spec of the model.
    """

    def __init__(self, model: Path, spec: ModelSpec) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._spec = spec

    def compute_difference(self, kind: RequestKind, images: Pixels) -> int:
        """Returns the largest difference of a pixel of an answer, in levels.

        Raises:
            ValueError: the answer has another shape.
        """
        z, class_id = make_inputs(self._spec, kind, SEED, 0)
        (expected,) = self._session.run(None, {"z": z, "class_id": class_id})
        if images.shape != expected.shape:
            raise ValueError(f"shape {images.shape} instead of {expected.shape}")
        return int(np.abs(expected.astype(np.int16) - images).max())


def make_peer_answers(target: Target, spec: ModelSpec) -> Answers:
    """Returns a function that requests pixels from a peer."""

    async def request_once(kind: RequestKind) -> Pixels:
        async with target.connect() as connection:
            reply = await connection.prepare_unary(kind, SEED)(0)
        if not isinstance(reply.content, Content):
            raise TypeError(f"{type(reply.content).__name__} is not an answer of a peer")
        return decode_pixels(reply.content, kind, spec)

    return request_once


def make_own_answers(address: str, model: str) -> Answers:
    """Returns a function that requests pixels from imagemint, by seed and index."""

    async def request_once(kind: RequestKind) -> Pixels:
        async with AsyncClient(address) as client:
            if kind.format == "raw":
                return (await client.generate(model, kind.count, seed=SEED)).image
            files = await client.encoded(model, kind.count, seed=SEED, format=kind.format)
        images = np.stack([np.asarray(Image.open(io.BytesIO(file.data))) for file in files])
        return images if images.ndim == 4 else images[..., np.newaxis]  # noqa: PLR2004 - NHWC

    return request_once


async def check_answer(
    answers: Answers, kind: RequestKind, truth: Truth, server: Runs, until_s: float
) -> None:
    """Repeats a request until it is answered, and checks the answer.

    Args:
        answers: sends the request.
        kind: kind of the request.
        truth: computes the correct answer.
        server: the server; the check ends when it ends.
        until_s: deadline by time.monotonic().

    Raises:
        NotReady: there is no answer.
        ValueError: the picture is wrong.
    """
    while True:
        try:
            found = truth.compute_difference(kind, await answers(kind))
        except (CallFailed, ImagemintError) as error:
            if server.ended is not None:
                raise NotReady(f"ended with status {server.ended}") from None
            if time.monotonic() > until_s:
                raise NotReady(f"no answer: {error}") from None
            await asyncio.sleep(_PAUSE_S)
            continue
        if found > TOLERANCE:
            raise ValueError(f"{kind}: a pixel is {found} levels off")
        return
