"""The generator as two models of MLServer: pixels, and PNG.

`settings.json` sets two parallel workers and disables `debug`, which would log every call. The
`model-settings.json` of each model enables adaptive batching. The main process forms the batches
and sends them to the workers in turn. Even a single request waits for a batch, and this cannot be
disabled, so the time is short.

Answers have the type BYTES, with one element for each image. MLServer stores numbers as Python
lists and packs them one by one, but leaves bytes unchanged.
"""

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput
from picture_model import PictureModel, encode_pngs


class Pixels(MLModel):
    """Raw pixels."""

    async def load(self) -> bool:
        """Opens the session, in each worker."""
        self._model = PictureModel()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Computes one batch. It may block the loop of this worker, which does nothing else."""
        inputs = {input_.name: NumpyCodec.decode_input(input_) for input_ in payload.inputs}
        data = self.encode_images(self._model.compute_images(inputs["z"], inputs["class_id"]))
        output = ResponseOutput(name="image", shape=[len(data), 1], datatype="BYTES", data=data)
        return InferenceResponse(model_name=self.name, outputs=[output])

    def encode_images(self, images: np.ndarray) -> list[bytes]:
        """Returns one element of the answer for each image."""
        return [image.tobytes() for image in images]


class Pngs(Pixels):
    """PNG files."""

    def encode_images(self, images: np.ndarray) -> list[bytes]:
        """Returns one element of the answer for each image."""
        return encode_pngs(images)
