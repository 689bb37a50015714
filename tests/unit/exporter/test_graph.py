"""Tests of imagemint.exporter.graph, on the graph of the exported bundle where possible."""

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from imagemint.exporter.errors import ExportError
from imagemint.exporter.graph import OPSET, build_graph
from imagemint.training.trained import TrainedGenerator


@pytest.fixture(scope="module")
def model(exported):
    """The ONNX model of the exported bundle."""
    return onnx.load(exported.model_path)


def test_batch_normalisation_is_folded(model):
    """All three batch normalizations are folded, including the one after the projection."""
    operators = [node.op_type for node in model.graph.node]
    assert "BatchNormalization" not in operators
    # Two transposed convolutions remain, and the last one has become a product of blocks.
    assert (operators.count("Conv"), operators.count("MatMul")) == (2, 1)


def test_post_processing_is_part_of_the_graph(model):
    """Clamping, rounding, the cast and the layout change to NHWC are inside the graph."""
    assert [node.op_type for node in model.graph.node][-6:] == [
        *("Clip", "Round", "Cast"),
        *("Reshape", "Transpose", "Reshape"),
    ]


def test_operator_set_is_pinned(model):
    """The graph uses the standard operator set at the pinned version."""
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", OPSET)]


def test_file_has_no_trace_of_the_machine(model):
    """Apart from weights and manifest, the file has no path, source line or name of torch."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.metadata_props[:]
    content = "\n".join(_find_texts(bare))
    for trace in ("/", "\\", ".py", "File ", "torch", "aten", "forward", "stack"):
        assert trace not in content
    assert b"doc_string" not in str(bare).encode()
    assert [entry.key for entry in model.metadata_props] == ["imagemint.manifest"]
    assert not model.graph.value_info


def _find_texts(message):
    """Yields every string in a message and its submessages.

    Other bytes may contain the searched texts by chance.
    """
    for field, value in message.ListFields():
        for each in value if field.is_repeated else [value]:
            if field.message_type is not None:
                yield from _find_texts(each)
            elif isinstance(each, str):
                yield each


def test_weights_are_inside(model):
    """Every weight is in the file and is used."""
    used = {name for node in model.graph.node for name in node.input}
    for tensor in model.graph.initializer:
        assert tensor.name in used
        assert not tensor.external_data


class _Plain(nn.Module):
    """An unconditional generator of RGB images that consists of a projection."""

    def __init__(self):
        super().__init__()
        self.project = nn.Linear(8, 3 * 28 * 28)

    def forward(self, z):
        return 2.0 * self.project(z).unflatten(1, (3, 28, 28))


def test_unconditional_graph_takes_latents_only(trained):
    """Without class labels the module takes only z. Values beyond ±1 are clamped."""
    torch.manual_seed(0)
    module = _Plain().eval()
    model = build_graph(_change(trained, module=module, class_labels=(), image_channels=3))
    assert [value.name for value in model.graph.input] == ["z"]
    z = np.linspace(-3, 3, 5 * 8, dtype=np.float32).reshape(5, 8)
    (image,) = onnx.reference.ReferenceEvaluator(model).run(None, {"z": z})
    x = module(torch.from_numpy(z)).detach().numpy().transpose(0, 2, 3, 1)
    assert image.dtype == np.uint8
    assert {0, 255} <= set(image.ravel().tolist())
    assert np.abs(image - (np.clip(x, -1, 1) + 1) * 127.5).max() < 0.501


class _Ramp(nn.Module):
    """A generator that returns z as an image."""

    def forward(self, z):
        return z.unflatten(1, (1, 2, 4))


def test_rounding_is_half_to_even(trained):
    """Levels that end in .5 are rounded to the even neighbour, as in NumPy and the standard."""
    model = build_graph(_change(trained, module=_Ramp(), class_labels=(), image_size=0, z_dim=8))
    levels = np.float32([0.5, 1.5, 2.5, 100.5, 253.5, 254.5, -3, 300])
    z = ((levels - np.float32(127.5)) / np.float32(127.5))[np.newaxis]
    exact = z * np.float32(127.5) + np.float32(127.5)
    (image,) = onnx.reference.ReferenceEvaluator(model).run(None, {"z": z})
    assert image.ravel().tolist() == np.rint(np.clip(exact, 0, 255)).ravel().tolist()
    assert (exact % 1 == 0.5).sum() >= 4


class _Data(nn.Module):
    """A module whose control flow depends on its data, which no graph can express."""

    def forward(self, z):
        if z.sum() > 0:
            z = z + 1
        return z.unflatten(1, (1, 2, 4))


def test_module_without_a_graph_is_refused(trained):
    """A module that PyTorch cannot export raises an ExportError of one line with the cause."""
    said = "PyTorch cannot export the generator: .*: Could not guard on data-dependent expression"
    with pytest.raises(ExportError, match=said) as caught:
        build_graph(_change(trained, module=_Data(), class_labels=()))
    assert "\n" not in str(caught.value)


def _change(trained, **changed):
    fields = {name: getattr(trained, name) for name in TrainedGenerator.__dataclass_fields__}
    return TrainedGenerator(**fields | changed)
