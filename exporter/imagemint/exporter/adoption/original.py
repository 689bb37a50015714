"""Runs the unchanged foreign file, whose images its bundle must reproduce."""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from imagemint.engine import BackendFailed, BundleRefused, draw_latents
from imagemint.engine.batch import Batch
from imagemint.engine.onnx.session import Session, create_cpu_session
from imagemint.exporter.adoption.foreign_model import ForeignModel
from imagemint.exporter.adoption.signature import Form, Input, Signature
from imagemint.exporter.errors import ExportError
from imagemint.exporter.parity import check_values

LEVELS = np.float32(255)
_TRIAL_ROWS = 32
# Activations of many large images do not fit into memory. A prime, because an axis of the image is
# rarely as long, and would be taken for the batch.
_MOST_ROWS = 7
_IMAGE_AXES = 4
_GRAY_AXES = 3
_CHANNELS = (1, 3)
_AS_FLOAT = ".as_float32"
_MOST_MIXED = 2.0  # levels; kernels for other batch sizes round otherwise, by far less

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
        is_flat: whether the output has one axis of values for each image, which the shape of an
            image arranges.
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
        self._check_rows(z, classes, output)
        self.is_flat = _is_flat(output, foreign)
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
            raise self._explain_failure(error, z, classes) from error

    def _explain_failure(
        self, error: BackendFailed, z: _Floats, classes: _Classes | None
    ) -> ExportError:
        """Returns the error of a run that failed, with the first class that fails alone."""
        path, labels = self._foreign.path, self._foreign.class_labels
        if classes is not None and self._can_run(z, np.zeros_like(classes)):
            for each, label in enumerate(labels):
                if not self._can_run(z, np.full_like(classes, each)):
                    return ExportError(
                        f"{path} takes class {each - 1} but not {each}, {label!r}: it has fewer"
                        f" than {len(labels)} classes. Correct --labels or --labels-file"
                    )
        return ExportError(f"{path} does not run: {error.__cause__}")

    def _can_run(self, z: _Floats, classes: _Classes) -> bool:
        try:
            self._run(z, classes, None)
        except BackendFailed:
            return False
        return True

    def _check_rows(self, z: _Floats, classes: _Classes | None, output: _Floats) -> None:
        """Compares the images with those of the same rows in other batches.

        Raises:
            ExportError: an image depends on the other images of its batch.
        """
        # Without the first row, each batch has other rows, also if the file takes one batch size.
        try:
            others = self._run(z[1:], None if classes is None else classes[1:], None)
        except BackendFailed as error:
            raise self._explain_failure(error, z, classes) from error
        low, high = self._foreign.value_range
        with np.errstate(invalid="ignore"):  # values that are not finite are reported later
            levels = float(np.nanmax(np.abs(others - output[1:]))) / (high - low) * 255
        if levels > _MOST_MIXED:
            raise ExportError(
                f"{self._foreign.path}: an image differs by up to {levels:.0f} levels of 255 if"
                " other images are in its batch, and a serial must always give the same image."
                " Batch normalization in training mode does this: export the model in evaluation"
                " mode (model.eval() in PyTorch). So does dynamic quantization: quantize statically"
            )

    def compute_pixels(self, batch: Batch) -> npt.NDArray[np.uint8]:
        """Returns images uint8 [N, H, W, C], scaled and rounded here.

        Raises:
            ExportError: the file does not run, or a value is NaN.
            ValueError: the batch has no latents.
        """
        step = self.batch or _MOST_ROWS
        parts = [batch[start : start + step] for start in range(0, len(batch), step)]
        try:
            # Converted in parts, because floats take four times the memory of levels.
            return np.concatenate([self._compute_levels(part) for part in parts])
        except BackendFailed as error:
            raise ExportError(f"{self._foreign.path} does not run: {error.__cause__}") from error

    def _compute_levels(self, batch: Batch) -> npt.NDArray[np.uint8]:
        if batch.z is None:
            raise ValueError("an adopted generator needs latents")
        values = self._arrange_images(self._run(batch.z, batch.class_id, batch.truncation))
        check_values(values, self._foreign.path.name)
        low, high = map(np.float32, self._foreign.value_range)
        levels = (values - low) * (LEVELS / (high - low))
        pixels: npt.NDArray[np.uint8] = np.rint(np.clip(levels, 0, 255)).astype(np.uint8)
        return pixels

    def _arrange_images(self, output: _Floats) -> _Floats:
        """Returns output values as [N, H, W, C]."""
        if self.is_flat and self._foreign.image_shape is not None:
            height, width, channels = self._foreign.image_shape
            sides = {"nchw": (channels, height, width), "nhwc": (height, width, channels)}
            output = output.reshape(len(output), *sides[self.layout])
        if self.layout == "nhw":
            return output[..., np.newaxis]
        return output.transpose(0, 2, 3, 1) if self.layout == "nchw" else output

    def _run(self, z: _Floats, classes: _Classes | None, psi: _Floats | None) -> _Floats:
        step = self.batch or _MOST_ROWS
        parts = []
        for start in range(0, len(z), step):
            part = slice(start, start + step)
            rows = len(z[part])
            size = self.batch or rows
            feed = self._feed(
                _pad(z[part], size),
                None if classes is None else _pad(classes[part], size),
                None if psi is None else _pad(psi[part], size),
            )
            output = np.asarray(self._session.run(feed), np.float32)
            if output.shape[:1] != (size,):
                reason = (
                    f"it gives an output {list(output.shape)} for {size} latents. Export it with"
                    " the batch as the first axis"
                )
                raise BackendFailed("the model failed to run") from ValueError(reason)
            parts.append(output[:rows])
        return np.concatenate(parts)

    def _feed(
        self, z: _Floats, classes: _Classes | None, psi: _Floats | None
    ) -> dict[str, npt.NDArray[np.generic]]:
        signature = self._signature
        rows = len(z)
        latent = signature.latent
        feed: dict[str, npt.NDArray[np.generic]] = {
            f"{latent.name}{_AS_FLOAT}": z.reshape(rows, *get_latent_sides(latent))
        }
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
        raise ExportError(
            f"Input {found} has no fixed size, so no constant can fill it. Export it with every"
            " axis but the first fixed"
        )
    sides = tuple(side or 0 for side in found.shape[1:])
    return (found.shape[0] or rows, *sides) if found.shape else ()


def _get_dtype(found: Input) -> np.dtype[np.generic]:
    return helper.tensor_dtype_to_np_dtype(found.dtype)


def _pad(values: npt.NDArray[_Number], rows: int) -> npt.NDArray[_Number]:
    return np.pad(values, [(0, rows - len(values)), *[(0, 0)] * (values.ndim - 1)])


def _open_session(model: onnx.ModelProto, signature: Signature, foreign: ForeignModel) -> Session:
    alone = onnx.ModelProto()
    alone.CopyFrom(model)
    # Float32 goes in and comes out, as in a bundle. On a CPU, ONNX Runtime computes float16 in
    # float32 and merges these casts with its own. Without them, it would round here and not there.
    latent, output = (f"{name}{_AS_FLOAT}" for name in (signature.latent.name, signature.output))
    before = helper.make_node("Cast", [latent], [signature.latent.name], to=signature.latent.dtype)
    after = helper.make_node("Cast", [signature.output], [output], to=TensorProto.FLOAT)
    nodes = [before, *alone.graph.node, after]
    del alone.graph.node[:]
    alone.graph.node.extend(nodes)
    declared = next(each for each in alone.graph.input if each.name == signature.latent.name)
    declared.name, declared.type.tensor_type.elem_type = latent, TensorProto.FLOAT
    del alone.graph.output[:]
    alone.graph.output.append(onnx.ValueInfoProto(name=output))
    try:
        return create_cpu_session(alone.SerializeToString(), 1, foreign.path)
    except BundleRefused as error:
        raise ExportError(f"{foreign.path}: {error.why}") from error


def _find_layout(output: _Floats, foreign: ForeignModel) -> str:
    """Returns the layout of an output: the declared one, or the one that its sides indicate."""
    if _is_flat(output, foreign):
        return _find_flat_layout(output, foreign)
    layout = _find_axes(output, foreign)
    if foreign.image_shape is not None:
        height, width, channels = foreign.image_shape
        arranged = {
            "nchw": (channels, height, width),
            "nhwc": (height, width, channels),
            "nhw": (height, width),
        }[layout]
        if output.shape[1:] != arranged or (layout == "nhw" and channels != 1):
            raise ExportError(
                f"The output {list(output.shape)} is {layout.upper()}, and --image-shape says"
                f" {height},{width},{channels}. Leave it out: only a flat output needs it"
            )
    return layout


def _is_flat(output: _Floats, foreign: ForeignModel) -> bool:
    """Returns whether an output is [N, values], or is declared to be, with axes of one element."""
    long = sum(side > 1 for side in output.shape[1:])
    return output.ndim == 2 or (foreign.image_shape is not None and long <= 1)  # noqa: PLR2004 - axes


def _find_flat_layout(output: _Floats, foreign: ForeignModel) -> str:
    values = output[0].size
    if foreign.image_shape is None:
        raise ExportError(
            f"The output is flat: {values} values for each image. Use --image-shape"
            " HEIGHT,WIDTH,CHANNELS, such as 28,28,1"
        )
    height, width, channels = foreign.image_shape
    shape = f"{height},{width},{channels}"
    if min(foreign.image_shape) < 1 or height * width * channels != values:
        raise ExportError(
            f"The output has {values} values for each image, and --image-shape says {shape}"
        )
    if foreign.layout == "auto" and channels > 1:
        raise ExportError(
            f"The output is flat, and its {channels} channels may come first or last. Use --layout"
            " nchw if all values of a channel follow each other, nhwc if the values of a pixel do"
        )
    return "nchw" if foreign.layout == "auto" else foreign.layout


def _find_axes(output: _Floats, foreign: ForeignModel) -> str:
    declared, sides = foreign.layout, output.shape[1:]
    if output.ndim == _GRAY_AXES:
        return "nhw"
    if output.ndim != _IMAGE_AXES:
        raise ExportError(f"The output is no batch of images: {list(output.shape)}")
    layouts = [name for name, at in (("nchw", 0), ("nhwc", -1)) if sides[at] in _CHANNELS]
    if layouts and declared not in {"auto", *layouts}:
        raise ExportError(
            f"The output {list(output.shape)} has no 1 or 3 channels as {declared.upper()}."
            f" Use --layout {layouts[0]}"
        )
    if declared in layouts:
        return declared
    if len(layouts) != 1:
        raise ExportError(
            f"The output {list(output.shape)} may be NCHW or NHWC. Use --layout nchw or nhwc"
            if layouts
            else f"The output {list(output.shape)} has no axis of 1 or 3 channels. Export the model"
            " with gray or RGB images, or name another output with --image-output"
        )
    return layouts[0]
