"""Exports a PyTorch generator to an ONNX graph from latents to pixels."""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import signature

import onnx
import torch
from torch import Tensor, nn

from imagemint.engine.onnx.session import get_first_line
from imagemint.exporter.errors import ExportError
from imagemint.exporter.surgery import fold_batch_norm, strip
from imagemint.training.trained import TrainedGenerator

OPSET = 18
"""Operator set: the oldest one that the dynamo exporter writes without conversion, so that the file
runs on as many runtimes as possible."""

_EXAMPLE_ROWS = 2  # the exporter treats a batch of one as a constant


class _Served(nn.Module):
    """The module that is exported: columns in, image uint8 [N, H, W, C] out.

    Args:
        generator: the generator.
        names: inputs after z: class_id int64 [N, 1], tokens int64 [N, L], truncation float32
            [N, 1].
    """

    def __init__(self, generator: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.generator = generator
        self.names = names

    def forward(self, z: Tensor, *columns: Tensor) -> Tensor:
        inputs = dict(zip(self.names, columns, strict=True))
        return to_levels(self.generator(z, **_make_arguments(inputs)))


def _make_arguments(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns the arguments of the generator: y int64 [N], the other inputs as they are."""
    arguments = {name: value for name, value in inputs.items() if name != "class_id"}
    if "class_id" in inputs:
        arguments["y"] = inputs["class_id"].squeeze(1)
    return arguments


def to_levels(x: Tensor) -> Tensor:
    """Returns levels [N, H, W, C] of images [N, C, H, W] in [-1, 1], rounded half to even."""
    levels = (x * 127.5 + 127.5).clamp(0, 255).round()
    return levels.to(torch.uint8).permute(0, 2, 3, 1)


def build_graph(trained: TrainedGenerator) -> onnx.ModelProto:
    """Returns the ONNX model of a generator, stripped and without a manifest.

    Args:
        trained: a generator on the CPU in evaluation mode, called as ``module(z)``, with ``y`` if
            it has class labels, ``tokens`` if it takes captions, and ``truncation`` if its
            truncation is psi.

    Raises:
        ExportError: PyTorch cannot export the module.
    """
    columns = {}
    if trained.class_labels:
        columns["class_id"] = torch.zeros(_EXAMPLE_ROWS, 1, dtype=torch.int64)
    if trained.captions is not None:
        length = trained.captions.max_words
        columns["tokens"] = torch.zeros(_EXAMPLE_ROWS, length, dtype=torch.int64)
    if trained.truncation == "psi":
        columns["truncation"] = torch.ones(_EXAMPLE_ROWS, 1)
    served = _Served(trained.module, tuple(columns))
    z = torch.zeros(_EXAMPLE_ROWS, trained.z_dim)
    return export_module(served, {"z": z, **columns}, ["image"], what="the generator")


def build_critic_graph(
    module: nn.Module, image_shape: tuple[int, int, int], scores: Sequence[str], *, classes: bool
) -> onnx.ModelProto:
    """Returns the ONNX model of a critic, stripped.

    Args:
        module: called as ``module(image)`` with uint8 [N, H, W, C], and with int64 [N, 1] as second
            argument if it takes classes; returns one [N] for each score.
        image_shape: height, width and channels.
        scores: names of the outputs.
        classes: whether the critic takes classes.

    Raises:
        ExportError: PyTorch cannot export the module.
    """
    inputs = {"image": torch.zeros(_EXAMPLE_ROWS, *image_shape, dtype=torch.uint8)}
    if classes:
        inputs["class_id"] = torch.zeros(_EXAMPLE_ROWS, 1, dtype=torch.int64)
    return export_module(module, inputs, scores, what="the critic")


def export_module(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    *,
    what: str,
    free_axes: Sequence[int] = (),
) -> onnx.ModelProto:
    """Returns the ONNX model of a module whose first axis is the batch, stripped.

    Args:
        module: takes the inputs in order.
        inputs: an example of each, with `_EXAMPLE_ROWS` rows.
        outputs: names of what it returns.
        what: the module in messages.
        free_axes: axes of the first input that are dynamic besides the batch.

    Raises:
        ExportError: PyTorch cannot export the module.
    """
    batch = {0: torch.export.Dim.DYNAMIC}
    first, *others = inputs.values()
    varying = any(p.kind is p.VAR_POSITIONAL for p in signature(module.forward).parameters.values())
    rest = [(batch,) * len(others)] if varying and others else [batch] * len(others)
    try:
        with _silence_logs():
            program = torch.onnx.export(
                module.eval(),
                (first, *others),
                input_names=list(inputs),
                output_names=list(outputs),
                dynamo=True,
                dynamic_shapes=(batch | dict.fromkeys(free_axes, torch.export.Dim.DYNAMIC), *rest),
                opset_version=OPSET,
                external_data=False,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise ExportError(f"PyTorch cannot export {what}: {_format_cause(error)}") from error
    if program is None:
        raise ExportError("PyTorch exported no program")
    model = onnx.ModelProto.FromString(program.model_proto.SerializeToString())
    fold_batch_norm(model)
    strip(model)
    onnx.checker.check_model(model, full_check=True)
    return model


def _format_cause(error: BaseException) -> str:
    """Returns type and first line of the error that an error began with.

    PyTorch's own errors say only in which of its steps they occurred.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {get_first_line(error)}"


@contextmanager
def _silence_logs() -> Iterator[None]:
    """Silences messages of PyTorch's exporter about itself."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns that torchvision is missing, which is not used
    try:
        with warnings.catch_warnings():
            # torch.export pickles pytree specs of a class its own code calls deprecated.
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)`", FutureWarning)
            yield
    finally:
        logger.setLevel(level)
