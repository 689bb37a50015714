"""The generator behind BentoML.

There are two workers. Each has its own dispatcher, which learns from the traffic how long it can
wait for a batch. The batched argument must be a list or an array. BentoML's main service reads only
JSON and forms, and refuses pickles. The list therefore holds a Base64 string for each image, which
costs a fraction of numbers in JSON. Answers are plain bytes.
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
    """The service that a worker runs."""

    def __init__(self) -> None:
        self._model = PictureModel()

    @bentoml.api(batchable=True, max_batch_size=64)
    def raw(self, records: list[str], /) -> Pixels:
        """Returns raw pixels."""
        return [image.tobytes() for image in self._compute(records)]

    @bentoml.api(batchable=True, max_batch_size=64)
    def png(self, records: list[str], /) -> Pngs:
        """Returns PNG files."""
        return encode_pngs(self._compute(records))

    def _compute(self, records: list[str]) -> np.ndarray:
        body = b"".join(base64.b64decode(record) for record in records)
        return self._model.compute_images(*unpack(body, self._model.z_dim))
