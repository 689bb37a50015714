"""The generator behind BentoML.

Two workers, each with its own dispatcher, which learns from the traffic how long a batch may be
waited for. What is batched must come as a list or an array. BentoML's main service reads JSON and
forms only, pickle it refuses, so the list is one of Base64, a string for each image, which
costs a fraction of numbers in JSON. Answers are bare bytes.
"""

import base64
from typing import Annotated

import bentoml
import numpy as np
from bentoml.validators import ContentType
from picture_model import PictureModel, encode_pngs, pack, unpack
from pydantic import PlainSerializer

Pixels = Annotated[list[bytes], PlainSerializer(b"".join), ContentType("application/octet-stream")]
Pngs = Annotated[list[bytes], PlainSerializer(pack), ContentType("application/octet-stream")]


@bentoml.service(workers=2, threads=1, logging={"access": {"enabled": False}})
class Images:
    """What a worker does."""

    def __init__(self) -> None:
        self._model = PictureModel()

    @bentoml.api(batchable=True, max_batch_size=64)
    def raw(self, records: list[str], /) -> Pixels:
        """Raw pixels."""
        return [image.tobytes() for image in self._compute(records)]

    @bentoml.api(batchable=True, max_batch_size=64)
    def png(self, records: list[str], /) -> Pngs:
        """PNG files."""
        return encode_pngs(self._compute(records))

    def _compute(self, records: list[str]) -> np.ndarray:
        body = b"".join(base64.b64decode(record) for record in records)
        return self._model.images(*unpack(body, self._model.z_dim))
