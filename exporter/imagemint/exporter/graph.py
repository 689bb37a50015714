"""From a PyTorch generator to an ONNX graph that takes latents and yields pixels."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import onnx
import torch
from torch import Tensor, nn

from imagemint.exporter.errors import ExportError
from imagemint.exporter.surgery import fold_batch_norm, strip
from imagemint.training.checkpoints import TrainedGenerator

OPSET = 18
"""Operator set: the oldest the dynamo exporter writes without converting, so that the file runs on
as many runtimes as can be. Newer ones hold nothing that a convolutional generator needs."""

_EXAMPLE_ROWS = 2  # a batch of one would be taken for a constant


class _ConditionalPixels(nn.Module):
    """The graph of a bundle: class_id int64 [N, 1] in, image uint8 [N, H, W, C] out."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, z: Tensor, class_id: Tensor) -> Tensor:
        return _pixels(self.generator(z, class_id.squeeze(1)))


class _Pixels(nn.Module):
    """The same without a class."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, z: Tensor) -> Tensor:
        return _pixels(self.generator(z))


def _pixels(x: Tensor) -> Tensor:
    """Levels 0 to 255 [N, H, W, C] of images [N, C, H, W] in [-1, 1], rounded half to even."""
    levels = (x * 127.5 + 127.5).clamp(0, 255).round()
    return levels.to(torch.uint8).permute(0, 2, 3, 1)


def build_graph(trained: TrainedGenerator) -> onnx.ModelProto:
    """The ONNX model of a generator, stripped to what decides pixels and without a manifest.

    Args:
        trained: a generator on the CPU in evaluation mode. With class labels it is called as
            ``module(z, y)``, without as ``module(z)``.

    Raises:
        ExportError: PyTorch cannot express the module as such a graph.
    """
    z = torch.zeros(_EXAMPLE_ROWS, trained.z_dim)
    inputs = {"z": z}
    served: nn.Module = _Pixels(trained.module)
    if trained.class_labels:
        inputs["class_id"] = torch.zeros(_EXAMPLE_ROWS, 1, dtype=torch.int64)
        served = _ConditionalPixels(trained.module)
    batch = torch.export.Dim.DYNAMIC
    try:
        with _quiet():
            program = torch.onnx.export(
                served.eval(),
                tuple(inputs.values()),
                input_names=list(inputs),
                output_names=["image"],
                dynamo=True,
                dynamic_shapes={name: {0: batch} for name in inputs},
                opset_version=OPSET,
                external_data=False,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        first = str(error).strip().splitlines()[0]
        raise ExportError(f"PyTorch cannot export the generator: {first}") from error
    if program is None:
        raise ExportError("PyTorch exported no program")
    model = onnx.ModelProto.FromString(program.model_proto.SerializeToString())
    fold_batch_norm(model)
    strip(model)
    onnx.checker.check_model(model, full_check=True)
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences what PyTorch's exporter says about itself."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # that torchvision, which nothing here uses, is missing
    try:
        with warnings.catch_warnings():
            # torch.export pickles pytree specs of a class its own code calls deprecated.
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)`", FutureWarning)
            yield
    finally:
        logger.setLevel(level)
