"""Scores of images, computed by ONNX Runtime.

A critic runs on the CPU, one image at a time. A score therefore depends only on its image and
class, to the last bit, and not on the batch or the device of the generator. Convolutions on the CPU
compute a batch image by image anyway.
"""

import numpy as np
import numpy.typing as npt

from imagemint.engine.batch import Feed
from imagemint.engine.bundle import Bundle
from imagemint.engine.bundle.critic import CriticGraph
from imagemint.engine.errors import BackendFailed, BundleRefused
from imagemint.engine.filtering import Scores, ScoreSpec
from imagemint.engine.onnx.session import Session, create_cpu_session, get_first_line


class OnnxCritic:
    """Scores images. Thread-safe: each call computes on its own thread.

    Args:
        bundle: the bundle.
        graph: its critic; the file is read again and must be unchanged.

    Raises:
        BundleRefused: the runtime cannot load or run the graph.
    """

    def __init__(self, bundle: Bundle, graph: CriticGraph) -> None:
        self.spec: ScoreSpec = graph.scores
        """The scores that it computes."""
        self._names = graph.scores.names
        self._session: Session | None = create_cpu_session(
            bundle.read_model(graph), 1, bundle.directory
        )
        spec = bundle.spec
        image = np.zeros((1, *spec.image.row), np.uint8)
        try:
            self.score(image, np.zeros(1, np.int64) if spec.conditional else None)
        except BackendFailed as error:
            why = f"ONNX Runtime cannot run {graph.path.name}: {get_first_line(error.__cause__)}"
            raise BundleRefused(bundle.directory, why) from error

    def score(
        self, images: npt.NDArray[np.uint8], class_id: npt.NDArray[np.int64] | None
    ) -> Scores:
        """Returns the scores of images.

        Args:
            images: uint8 [N, H, W, C].
            class_id: classes int64 [N]; None for a model without classes.

        Raises:
            BackendFailed: the runtime failed, or the critic is closed.
        """
        session = self._session
        if session is None:
            raise BackendFailed("the model was closed")
        found = {name: np.empty(len(images), np.float32) for name in self._names}
        for row in range(len(images)):
            feed: Feed = {"image": images[row : row + 1]}
            if class_id is not None:
                feed["class_id"] = class_id[row : row + 1, np.newaxis]
            for name, value in zip(self._names, session.run_all(feed, self._names), strict=True):
                found[name][row] = value[0]
        return Scores(**found)

    def close(self) -> None:
        """Releases the graph. It can be called twice."""
        self._session = None
