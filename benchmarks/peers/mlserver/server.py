"""The generator as two models of MLServer: pixels, and PNG.

`settings.json` has two parallel workers, and `debug` off, which would log every call; the
`model-settings.json` of each model switch adaptive batching on. Batches are formed in the main
process and go to the workers in turn. A batch is waited for even by a lonely request, and cannot be
had without, so the time is short.

Answers are of the type BYTES, one element for each image: MLServer keeps numbers as Python lists
and packs them one by one, and bytes as they are.
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
        """Computes one batch; nothing else waits for this worker's loop meanwhile."""
        inputs = {each.name: NumpyCodec.decode_input(each) for each in payload.inputs}
        data = self.encoded(self._model.images(inputs["z"], inputs["class_id"]))
        output = ResponseOutput(name="image", shape=[len(data), 1], datatype="BYTES", data=data)
        return InferenceResponse(model_name=self.name, outputs=[output])

    def encoded(self, images: np.ndarray) -> list[bytes]:
        """One element of the answer for each image."""
        return [image.tobytes() for image in images]


class Pngs(Pixels):
    """PNG files."""

    def encoded(self, images: np.ndarray) -> list[bytes]:
        """One element of the answer for each image."""
        return encode_pngs(images)
