"""A model of a running server as a source of images for `imagemint evaluate`.

The command finds it by the entry-point group `imagemint.sources`, under the scheme of its
addresses. The two sides share only the interface of this class.
"""

import hashlib
import re
import string
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from imagemint.client.commands import Connection
from imagemint.client.errors import NotFound
from imagemint.client.models import Manifest, Model
from imagemint.client.requests import Cycle
from imagemint.client.settings import read_environment

_TIMEOUT_S = 600.0  # time limit of one chunk; a measurement can wait
_UNESCAPED = frozenset(string.ascii_letters + string.digits + "-")
_REFERENCES = ("", "fp32")  # name of model.onnx in an answer
_ADDRESS = re.compile(r"(?P<target>.+)/(?P<model>[^/@]+)(?:@(?P<version>[^/@]+))?")


class RemoteModel:
    """Images of a served model by seed and index, with the classes in turn, or translations.

    Args:
        address: ``HOST:PORT/MODEL`` or ``HOST:PORT/MODEL@VERSION``; without a version, the server's
            default one at this moment. The source keeps that version, and the variant that the
            server runs now. TLS and API key come from the same variables as for `imagemint
            generate`, such as ``IMAGEMINT_API_KEY``.

    Raises:
        NotFound: the address is malformed, or the server has no such model or version.
        UsageError: a variable of the connection has an invalid value.
        ImagemintError: any other failure.
    """

    def __init__(self, address: str) -> None:
        parts = _ADDRESS.fullmatch(address)
        if parts is None:
            raise NotFound(f"{address!r} is not HOST:PORT/MODEL or HOST:PORT/MODEL@VERSION")
        self._client = read_environment(
            Connection, server=parts["target"], timeout_s=_TIMEOUT_S
        ).open_client()
        try:
            model = self._client.model(parts["model"])
            self._version = parts["version"] or model.default_version
            self.sha256, self._variant, manifest = _find_ready_version(model, self._version)
        except BaseException:
            self._client.close()
            raise
        self._model = model.name
        self.name = f"{model.name}@{self._version} served at {parts['target']}"
        self.trained_on = manifest.trained_on
        self.dataset = manifest.trained_on.rpartition("/")[0] or None
        self.class_labels: tuple[str, ...] | None = manifest.class_labels
        self.num_classes = len(manifest.class_labels)
        self.takes_captions = manifest.captions is not None
        self.image_shape: tuple[int, int, int] | None = (
            manifest.height,
            manifest.width,
            manifest.channels,
        )

        source = manifest.source
        self.takes_source = source is not None
        self.source_size = (source.height, source.width) if source and source.height else None

    def draw(
        self, seed: int, first: int, count: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64] | None]:
        """Returns images uint8 [count, H, W, C] at these indices, and their classes int64."""
        condition = Cycle() if self.num_classes else None
        chunks = list(
            self._client.stream(
                self._model,
                count,
                seed=seed,
                first_index=first,
                condition=condition,
                version=self._version,
                variant=self._variant,
            )
        )
        images = np.concatenate([chunk.image for chunk in chunks])
        classes = [chunk.class_id for chunk in chunks if chunk.class_id is not None]
        return images, np.concatenate(classes) if classes else None

    def draw_captions(self, seed: int, first: int, texts: Sequence[str]) -> NDArray[np.uint8]:
        """Returns images uint8 [N, H, W, C] of N captions at indices from ``first`` on.

        Raises:
            InvalidRequest: the model does not understand a caption.
        """
        variant_suffix = "" if self._variant in _REFERENCES else f"+{self._variant}"
        prefix = f"{self._model}@{self._version}{variant_suffix}/{seed}"
        serials = [
            f"{prefix}/{index}?caption={_percent_encode(text)}"
            for index, text in enumerate(texts, first)
        ]
        return self._client.mint(serials).image

    def translate(self, sources: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Returns the results uint8 [N, H', W', C] of sources uint8 [N, H, W, depth], seed 0."""
        results = self._client.translate_stream(
            self._model, list(sources), seed=0, version=self._version, variant=self._variant
        )
        return np.stack([result.image for result in results])

    def close(self) -> None:
        """Closes the connection."""
        self._client.close()


def _percent_encode(text: str) -> str:
    """Returns a caption as a serial number spells it: letters, digits, hyphens and %XX."""
    return "".join(
        chr(byte) if chr(byte) in _UNESCAPED else f"%{byte:02X}" for byte in text.encode()
    )


def _find_ready_version(model: Model, version: str) -> tuple[str, str, Manifest]:
    """Returns what determines the images of a ready version, its variant, and its manifest."""
    for candidate in model.versions:
        if candidate.version == version and candidate.manifest is not None:
            digest = candidate.bundle_sha256
            if candidate.variant not in _REFERENCES:
                digest = hashlib.sha256(f"{digest} {candidate.variant}".encode()).hexdigest()
            return digest, candidate.variant, candidate.manifest
    raise NotFound(f"model {model.name}: version {version or '(default)'} is not ready")
