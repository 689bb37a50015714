"""Runs the unchanged foreign file, whose images its bundle must reproduce."""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from imagemint.engine import BackendFailed, BundleRefused, draw_latents
from imagemint.engine.batch import Batch
from imagemint.engine.onnx.session import Session, create_cpu_session
from imagemint.exporter.adoption.foreign_model import ForeignModel
from imagemint.exporter.adoption.signature import Form, Input, Signature
from imagemint.exporter.errors import ExportError

LEVELS = np.float32(255)
_TRIAL_ROWS = 32
_IMAGE_AXES = 4
_GRAY_AXES = 3
_CHANNELS = (1, 3)

_Floats = npt.NDArray[np.float32]
_Classes = npt.NDArray[np.int64]
_Number = TypeVar("_Number", bound=np.generic)


class OriginalModel:
    """Runs the foreign file, in batches of the size that it takes.

    Args:
        model: the file's model.
        signature: the signature of the file.
        foreign: the description of the file by the user.

    Attributes:
        batch: the only batch size that the file takes; None for any.
        shape: height, width and channels of an image.
        layout: order of the axes of the output: `nchw`, `nhwc`, `nhw` for gray images without an
            axis of channels.
        trial: output values float32 [N, H, W, C] of the first latents of seed 0, not scaled.

    Raises:
        ExportError: ONNX Runtime cannot run the file, or its output is not a batch of images.
    """

    def __init__(self, model: onnx.ModelProto, signature: Signature, foreign: ForeignModel) -> None:
        self._signature = signature
        self._foreign = foreign
        self._session = _open_session(model, signature, foreign)
        self.batch = signature.batch
        z = draw_latents(0, 0, _TRIAL_ROWS, signature.z_dim, distribution=foreign.distribution)
        labels = len(foreign.class_labels)
        classes = np.arange(_TRIAL_ROWS) % labels if labels else None
        output = self._run_first(z, classes)
        self.layout = _find_layout(output, foreign)
        self.trial = self._arrange_images(output)
        height, width, channels = self.trial.shape[1:]
        self.shape = (height, width, channels)

    def _run_first(self, z: _Floats, classes: _Classes | None) -> _Floats:
        try:
            return self._run(z, classes, None)
        except BackendFailed as error:
            if self.batch is None:
                # The graph declares any batch size, but has a constant for one image.
                self.batch = 1
                try:
                    return self._run(z, classes, None)
                except BackendFailed:
                    self.batch = None
            raise ExportError(f"{self._foreign.path} does not run: {error.__cause__}") from error

    def compute_pixels(self, batch: Batch) -> npt.NDArray[np.uint8]:
        """Returns images uint8 [N, H, W, C], scaled and rounded here.

        Raises:
            ExportError: the file does not run.
            ValueError: the batch has no latents.
        """
        if batch.z is None:
            raise ValueError("an adopted generator needs latents")
        try:
            values = self._arrange_images(self._run(batch.z, batch.class_id, batch.truncation))
        except BackendFailed as error:
            raise ExportError(f"{self._foreign.path} does not run: {error.__cause__}") from error
        low, high = map(np.float32, self._foreign.value_range)
        levels = (values - low) * (LEVELS / (high - low))
        pixels: npt.NDArray[np.uint8] = np.rint(np.clip(levels, 0, 255)).astype(np.uint8)
        return pixels

    def _arrange_images(self, output: _Floats) -> _Floats:
        """Returns output values as [N, H, W, C]."""
        if self._foreign.image_shape is not None:
            height, width, channels = self._foreign.image_shape
            sides = {"nchw": (channels, height, width), "nhwc": (height, width, channels)}
            output = output.reshape(len(output), *sides[self.layout])
        if self.layout == "nhw":
            return output[..., np.newaxis]
        return output.transpose(0, 2, 3, 1) if self.layout == "nchw" else output

    def _run(self, z: _Floats, classes: _Classes | None, psi: _Floats | None) -> _Floats:
        size = self.batch or len(z)
        parts = []
        for start in range(0, len(z), size):
            part = slice(start, start + size)
            rows = len(z[part])
            feed = self._feed(
                _pad(z[part], size),
                None if classes is None else _pad(classes[part], size),
                None if psi is None else _pad(psi[part], size),
            )
            output = np.asarray(self._session.run(feed), np.float32)
            if output.shape[:1] != (size,):
                why = f"it gives an output {list(output.shape)} for {size} latents"
                raise BackendFailed("the model failed to run") from ValueError(why)
            parts.append(output[:rows])
        return np.concatenate(parts)

    def _feed(
        self, z: _Floats, classes: _Classes | None, psi: _Floats | None
    ) -> dict[str, npt.NDArray[np.generic]]:
        signature = self._signature
        rows = len(z)
        latent = signature.latent
        feed = {latent.name: z.reshape(rows, *get_latent_sides(latent)).astype(_get_dtype(latent))}
        if signature.class_input is not None and classes is not None:
            shaped = _FORMS[signature.class_form or "index"](
                classes, len(self._foreign.class_labels)
            )
            feed[signature.class_input.name] = shaped.astype(_get_dtype(signature.class_input))
        if signature.truncation is not None:
            strength = np.ones(rows, np.float32) if psi is None else psi
            shaped = _FORMS[signature.truncation_form or "index"](strength, 0)
            feed[signature.truncation.name] = shaped.astype(_get_dtype(signature.truncation))
        for each, value in signature.constants:
            feed[each.name] = np.full(compute_constant_shape(each, rows), value, _get_dtype(each))
        return feed


_FORMS: dict[Form, Callable[[npt.NDArray[np.generic], int], npt.NDArray[np.generic]]] = {
    "index": lambda values, _: values,
    "column": lambda values, _: values[:, np.newaxis],
    "one-hot": lambda values, count: np.eye(count)[values.astype(np.int64)],
}


def get_latent_sides(latent: Input) -> tuple[int, ...]:
    """Returns the sides of one latent in the form that the file takes; all are fixed."""
    return tuple(side or 0 for side in latent.shape[1:])


def compute_constant_shape(found: Input, rows: int) -> tuple[int, ...]:
    """Returns the shape of an input that gets a constant; an open first side is the batch.

    Raises:
        ExportError: another side is open, so no shape is known.
    """
    if None in found.shape[1:]:
        raise ExportError(f"Input {found} has no fixed size, so no constant can fill it")
    sides = tuple(side or 0 for side in found.shape[1:])
    return (found.shape[0] or rows, *sides) if found.shape else ()


def _get_dtype(found: Input) -> np.dtype[np.generic]:
    return helper.tensor_dtype_to_np_dtype(found.dtype)


def _pad(values: npt.NDArray[_Number], rows: int) -> npt.NDArray[_Number]:
    return np.pad(values, [(0, rows - len(values)), *[(0, 0)] * (values.ndim - 1)])


def _open_session(model: onnx.ModelProto, signature: Signature, foreign: ForeignModel) -> Session:
    alone = onnx.ModelProto()
    alone.CopyFrom(model)
    del alone.graph.output[:]
    alone.graph.output.append(onnx.ValueInfoProto(name=signature.output))
    try:
        return create_cpu_session(alone.SerializeToString(), 1, foreign.path)
    except BundleRefused as error:
        raise ExportError(f"{foreign.path}: {error.why}") from error


def _find_layout(output: _Floats, foreign: ForeignModel) -> str:
    """Returns the layout of an output: the declared one, or the one that its sides indicate."""
    declared, sides = foreign.layout, output.shape[1:]
    if foreign.image_shape is not None:
        if np.prod(sides) != np.prod(foreign.image_shape):
            raise ExportError(
                f"The output holds {list(output.shape)} values, and --image-shape says"
                f" {foreign.image_shape}"
            )
        return "nchw" if declared == "auto" else declared
    if output.ndim == 2:  # noqa: PLR2004 - axes
        raise ExportError(
            f"The output is flat: {sides[0]} values for each image. Use --image-shape"
            " HEIGHT,WIDTH,CHANNELS, such as 28,28,1"
        )
    if output.ndim == _GRAY_AXES:
        return "nhw"
    if output.ndim != _IMAGE_AXES:
        raise ExportError(f"The output is no batch of images: {list(output.shape)}")
    fits = [name for name, at in (("nchw", 0), ("nhwc", -1)) if sides[at] in _CHANNELS]
    if declared != "auto":
        if fits and declared not in fits:
            raise ExportError(
                f"The output {list(output.shape)} has no 1 or 3 channels as {declared.upper()}."
                f" Use --layout {fits[0]}"
            )
        return declared
    if len(fits) != 1:
        raise ExportError(
            f"The output {list(output.shape)} may be NCHW or NHWC. Use --layout nchw or nhwc"
            if fits
            else f"The output {list(output.shape)} has no axis of 1 or 3 channels"
        )
    return fits[0]
