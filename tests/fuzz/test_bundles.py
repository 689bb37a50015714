"""Tests that damaged bundles with correct checksums load or are refused."""

import json
import os
import selectors
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto
from tiny_bundles import MANIFEST_KEY, write_bundle, write_sums

WAIT_S = 60.0
KINDS = {
    "conditional": {},
    "plain": {"conditional": False, "size": (5, 3, 3)},
    "styled": {"truncation": "psi"},
}
OPERATORS = sorted(
    {schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain}
    | {
        "FusedMatMul",
        "Gelu",
        "BiasGelu",
        "QAttention",
        "NhwcConv",
        "FusedConv",
        "EmbedLayerNormalization",
    }
)
EDGES = [0, 1, 2, 3, 8, 64, -1, -2, 255, 2**15, 2**31 - 1, 2**31, -(2**31), 2**63 - 1, -(2**63)]


class Reader:
    """A process that reads bundles. It is replaced after each crash."""

    def __init__(self):
        self._process = None

    def verdict(self, directory):
        """Returns the result of reading a bundle, or `crashed` or `hung`."""
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, Path(__file__).with_name("bundle_reader.py")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            )
        self._process.stdin.write(f"{directory}\n")
        self._process.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(WAIT_S):
                self.close()
                return "hung"
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        return f"crashed: {self._process.wait()}"

    def close(self):
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()


@pytest.fixture(scope="module")
def reader():
    """A reader process."""
    reader = Reader()
    yield reader
    reader.close()


@pytest.fixture(scope="module", params=KINDS, ids=str)
def original(request, tmp_path_factory):
    """A bundle of each kind, and a directory for its damaged copies."""
    directory = write_bundle(tmp_path_factory.mktemp("bundles"), "tiny", **KINDS[request.param])
    return (directory / "model.onnx").read_bytes(), directory


def judge_bytes(reader, directory, content):
    """Returns the verdict on other bytes with correct checksums."""
    (directory / "model.onnx").write_bytes(content)
    write_sums(directory)
    return reader.verdict(directory)


def test_original_loads(reader, original):
    """An undamaged bundle loads."""
    assert judge_bytes(reader, original[1], original[0]).startswith("loaded")


@st.composite
def edits(draw):
    """Draws changes of bytes: flips, cuts, insertions and truncations."""
    kind = draw(st.sampled_from(["flip", "cut", "splice", "truncate"]))
    places = st.floats(0, 1, exclude_max=True)
    return kind, draw(places), draw(places), draw(st.integers(1, 255))


def apply_edit(content, edit):
    """Returns the bytes after a change."""
    kind, one, other, number = edit
    start, source = int(one * len(content)), int(other * len(content))
    match kind:
        case "flip":
            return content[:start] + bytes([content[start] ^ number]) + content[start + 1 :]
        case "cut":
            return content[:start] + content[start + number :]
        case "splice":
            return content[:start] + content[source : source + number] + content[start:]
        case _:
            return content[:start]


def test_damaged_bytes_load_or_are_refused(reader, original, fuzz):
    """Bytes may be flipped, cut and inserted anywhere in the file."""
    content, directory = original

    @fuzz
    @given(st.lists(edits(), min_size=1, max_size=4))
    def read(changes):
        damaged = content
        for change in changes:
            damaged = apply_edit(damaged, change) or b"\0"
        found = judge_bytes(reader, directory, damaged)
        assert found.startswith(("loaded", "refused")), found

    read()


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.sampled_from(EDGES), st.floats(), st.text(max_size=20)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
    max_leaves=6,
)


def test_damaged_manifest_loads_or_is_refused(reader, original, fuzz):
    """Any value may replace any field of the manifest."""
    content, directory = original

    @fuzz
    @given(st.data())
    def read(data):
        model = onnx.load_model_from_string(content)
        (entry,) = [entry for entry in model.metadata_props if entry.key == MANIFEST_KEY]
        manifest = json.loads(entry.value)
        place = manifest
        name = data.draw(st.sampled_from(sorted(place)))
        while isinstance(place[name], dict) and data.draw(st.booleans()):
            place = place[name]
            name = data.draw(st.sampled_from(sorted(place)))
        if data.draw(st.booleans()):
            place[name] = data.draw(json_values)
        else:
            del place[name]
        entry.value = json.dumps(manifest)
        found = judge_bytes(reader, directory, model.SerializeToString())
        assert found.startswith(("loaded", "refused")), found

    read()


def test_deep_manifest_is_refused(reader, original):
    """A deeply nested manifest is refused without a crash."""
    content, directory = original
    model = onnx.load_model_from_string(content)
    for text in ("[" * 100_000, '{"latent":' * 50_000, '{"name": ' + "9" * 10_000 + "}"):
        model.metadata_props[0].value = text
        assert judge_bytes(reader, directory, model.SerializeToString()).startswith("refused")


@st.composite
def operations(draw):
    """Draws a change of the graph with its position and value."""
    kind = draw(
        st.sampled_from(
            [
                "operator",
                "attribute",
                "input",
                "output",
                "drop",
                "double",
                "swap",
                "dims",
                "type",
                "data",
                "opset",
                "ir",
                "io",
            ]
        )
    )
    return kind, draw(st.integers(0, 99)), draw(st.integers(0, 99)), draw(st.integers(0, 999))


def change(model, operation):  # noqa: C901, PLR0912 - one list of damages
    """Damages the graph."""
    kind, one, other, third = operation
    graph = model.graph
    if not graph.node or not graph.initializer:
        return
    node = graph.node[one % len(graph.node)]
    tensor = graph.initializer[one % len(graph.initializer)]
    names = [name for each in graph.node for name in (*each.input, *each.output)]
    edge = EDGES[third % len(EDGES)]
    match kind:
        case "operator":
            node.op_type = OPERATORS[third % len(OPERATORS)]
            node.domain = ["", "", "com.microsoft"][other % 3]
        case "attribute":
            name = ["axis", "to", "perm", "transB", "alpha", "axes"][other % 6]
            for old in [each for each in node.attribute if each.name == name]:
                node.attribute.remove(old)
            values = [edge, [edge, edge], float(edge), str(edge)]
            node.attribute.append(onnx.helper.make_attribute(name, values[third % 4]))
        case "input" if node.input:
            node.input[other % len(node.input)] = ["", *names][third % (len(names) + 1)]
        case "output" if node.output:
            node.output[other % len(node.output)] = names[third % len(names)]
        case "drop":
            graph.node.remove(node)
        case "double":
            graph.node.insert(other % len(graph.node), node)
        case "swap":
            twin = graph.node[other % len(graph.node)]
            node.op_type, twin.op_type = twin.op_type, node.op_type
        case "dims":
            if tensor.dims:
                tensor.dims[other % len(tensor.dims)] = edge
            else:
                tensor.dims.append(edge)
        case "type":
            tensor.data_type = other % 24
        case "data":
            raw = bytearray(tensor.raw_data or b"\0" * 8)
            raw[other % len(raw)] ^= third % 256
            tensor.raw_data = bytes(raw[: third % (len(raw) + 1)] if third % 2 else raw)
        case "opset":
            model.opset_import[0].version = [1, 6, 9, 13, 22, 99, 0, -1][third % 8]
        case "ir":
            model.ir_version = [0, 1, 3, 4, 9, 13, 99][third % 7]
        case "io":
            values = [*graph.input, *graph.output]
            value = values[other % len(values)].type.tensor_type
            value.elem_type = [TensorProto.FLOAT, TensorProto.STRING, 99][third % 3]
        case _:
            pass


def test_damaged_graph_loads_or_is_refused(reader, original, fuzz):
    """One to three operators, edges, attributes, shapes, types and versions are changed."""
    content, directory = original

    @fuzz
    @given(st.lists(operations(), min_size=1, max_size=3))
    def read(changes):
        model = onnx.load_model_from_string(content)
        for each in changes:
            change(model, each)
        found = judge_bytes(reader, directory, model.SerializeToString())
        assert found.startswith(("loaded", "refused")), found

    read()


def test_damaged_checksums_load_or_are_refused(reader, original, fuzz):
    """Any bytes may replace the checksums."""
    content, directory = original
    judge_bytes(reader, directory, content)
    right = (directory / "SHA256SUMS").read_bytes()

    @fuzz
    @given(st.lists(edits(), min_size=1, max_size=3))
    def read(changes):
        damaged = right
        for change_ in changes:
            damaged = apply_edit(damaged, change_) or b"\0"
        (directory / "SHA256SUMS").write_bytes(damaged)
        found = reader.verdict(directory)
        assert found.startswith(("loaded", "refused")), found

    read()
