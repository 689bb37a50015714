"""Tensors of the Open Inference Protocol: a model's inputs and outputs, and their elements.

Every tensor has one row per image. The elements of a request are either raw, little-endian and
row-major, or typed, in one field per datatype. Answers are always raw.
"""

import math
import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from imagemint.engine.errors import Violation, quote
from imagemint.engine.spec import ANY_SIDE, ModelSpec
from imagemint.open_inference import grpc_service_pb2 as messages

# For each accepted datatype, the NumPy name and the field of its typed elements.
_ELEMENTS = {
    "FP32": ("<f4", "fp32_contents"),
    "FP64": ("<f8", "fp64_contents"),
    "INT64": ("<i8", "int64_contents"),
    "UINT64": ("<u8", "uint64_contents"),
    "UINT8": ("|u1", "uint_contents"),
    "BYTES": ("object", "bytes_contents"),
}
_INPUT_DATATYPES = {"<f4": "FP32", "<i8": "INT64", "|u1": "UINT8"}
_LARGEST_BYTE = 255
_OUTPUT_DATATYPES = {"<i8": "INT64", "|u1": "UINT8"}
# In raw elements of BYTES, each text follows its length.
_LENGTH = struct.Struct("<I")
# Most elements of a shape that are checked. A message does not quote the last one.
_LONGEST_SHAPE = 6

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class TensorForm:
    """The required form of a tensor.

    Attributes:
        name: name in requests and answers.
        datatype: datatype, such as `FP32`.
        row: shape of one row, without the batch dimension; -1 for a free side.
        optional: whether a request may omit the tensor.
    """

    name: str
    datatype: str
    row: tuple[int, ...]
    optional: bool = False

    def fits(self, row: tuple[int, ...]) -> bool:
        """Whether a row may have a shape."""
        return len(row) == len(self.row) and all(
            side == expected or (expected == ANY_SIDE and side > 0)
            for side, expected in zip(row, self.row, strict=True)
        )


def list_graph_inputs(spec: ModelSpec) -> list[TensorForm]:
    """Returns the inputs of a model's graph, in order. Psi of 1 is the default of truncation."""
    return [
        TensorForm(
            name, _INPUT_DATATYPES[input_.dtype.str], input_.row, optional=name == "truncation"
        )
        for name, input_ in spec.inputs.items()
    ]


def list_graph_outputs(spec: ModelSpec) -> list[TensorForm]:
    """Returns the output of a model's graph."""
    return [TensorForm("image", "UINT8", spec.image_row)]


def list_known_inputs(spec: ModelSpec) -> dict[str, TensorForm]:
    """Returns the inputs of a request by name: those of the graph, and those that replace them."""
    forms = [*list_graph_inputs(spec), TensorForm("seed", "UINT64", (1,))]
    forms.append(TensorForm("index", "UINT64", (1,)))
    if spec.captions is not None:
        forms.append(TensorForm("text", "BYTES", (1,)))
    if spec.takes_threshold:
        # FP64, because the threshold determines the latents: 0.7 as FP32 differs from the serial's
        # threshold.
        forms.append(TensorForm("truncation", "FP64", (1,), optional=True))
    return {form.name: form for form in forms}


def read_inputs(
    request: messages.ModelInferRequest,
    forms: Mapping[str, TensorForm],
    most_rows: int,
    faults: list[Violation],
    skipped: Collection[str] = (),
) -> dict[str, Array]:
    """Returns the inputs of a request by name, each [N, *row] with the same N.

    Args:
        request: the request.
        forms: the accepted inputs.
        most_rows: largest N.
        faults: every violation is appended here; an input with a violation is omitted.
        skipped: inputs that are neither checked nor returned.
    """
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        faults.append(
            Violation("raw_input_contents", f"{len(raw)} entries for {len(request.inputs)} inputs")
        )
    arrays: dict[str, Array] = {}
    seen: set[str] = set()
    for number, tensor in enumerate(request.inputs):
        if tensor.name in skipped:
            continue
        where = f"inputs[{number}]"
        before = len(faults)
        faults.extend(_check_form(where, tensor, forms, seen, most_rows))
        seen.add(tensor.name)
        if len(faults) == before and not (raw and len(raw) != len(request.inputs)):
            form = forms[tensor.name]
            content = raw[number] if raw else None
            faults.extend(_check_content(where, number, tensor, form, content))
            if len(faults) == before:
                arrays[form.name] = _make_array(tensor, form, content)
    counts = {len(array) for array in arrays.values()}
    if len(counts) > 1:
        listed = ", ".join(f"{name} {len(array)}" for name, array in arrays.items())
        faults.append(Violation("inputs", f"numbers of rows differ: {listed}"))
    return arrays


def _check_form(
    where: str,
    tensor: messages.ModelInferRequest.InferInputTensor,
    forms: Mapping[str, TensorForm],
    seen: set[str],
    most_rows: int,
) -> Iterator[Violation]:
    form = forms.get(tensor.name)
    if form is None:
        known = ", ".join(forms)
        yield Violation(f"{where}.name", f"no input {quote(tensor.name)}; there are {known}")
        return
    if tensor.name in seen:
        yield Violation(f"{where}.name", f"{tensor.name} is given twice")
    if tensor.datatype != form.datatype:
        yield Violation(
            f"{where}.datatype",
            f"{form.name} is {form.datatype}, not {quote(tensor.datatype)}",
        )
    shape = tuple(tensor.shape[:_LONGEST_SHAPE])  # enough to find and quote a violation
    if not form.fits(shape[1:]) or not shape or not 1 <= shape[0] <= most_rows:
        row = ", ".join(map(str, form.row))
        yield Violation(
            f"{where}.shape",
            f"{form.name} is [N, {row}], N 1 to {most_rows}, not {_format_shape(shape)}",
        )
    if "shared_memory_region" in tensor.parameters:
        yield Violation(f"{where}.parameters", "shared memory is not supported")


def _check_content(
    where: str,
    number: int,
    tensor: messages.ModelInferRequest.InferInputTensor,
    form: TensorForm,
    raw: bytes | None,
) -> Iterator[Violation]:
    dtype, field = _ELEMENTS[form.datatype]
    size = math.prod(tensor.shape)
    if raw is None:
        others = [each.name for each, _ in tensor.contents.ListFields() if each.name != field]
        if others:
            yield Violation(f"{where}.contents", f"{form.datatype} elements belong in {field} only")
        given = len(getattr(tensor.contents, field))
        if given != size:
            yield Violation(f"{where}.contents.{field}", f"{given} elements, not {size}")
        elif form.datatype == "UINT8" and _exceeds_byte(tensor):
            yield Violation(f"{where}.contents.{field}", "an element is above 255")
        return
    if tensor.HasField("contents"):
        yield Violation(f"{where}.contents", "must be empty if raw_input_contents is used")
    if form.datatype == "BYTES":
        yield from _check_texts(number, raw, size, form)
        return
    expected = size * np.dtype(dtype).itemsize
    if len(raw) != expected:
        yield Violation(
            f"raw_input_contents[{number}]", f"{len(raw)} bytes; {form.name} has {expected}"
        )


def _exceeds_byte(tensor: messages.ModelInferRequest.InferInputTensor) -> bool:
    return max(tensor.contents.uint_contents, default=0) > _LARGEST_BYTE


def _check_texts(number: int, raw: bytes, size: int, form: TensorForm) -> Iterator[Violation]:
    try:
        found = len(_split_texts(raw, size))
    except ValueError as error:
        yield Violation(f"raw_input_contents[{number}]", str(error))
        return
    if found != size:
        yield Violation(
            f"raw_input_contents[{number}]", f"{found} elements; {form.name} has {size}"
        )


def _split_texts(raw: bytes, most: int) -> list[bytes]:
    """Returns the texts of raw elements of BYTES, or one more than `most` if there are more.

    Raises:
        ValueError: a length exceeds the bytes that are left.
    """
    texts: list[bytes] = []
    place = 0
    while place < len(raw) and len(texts) <= most:
        start = place + _LENGTH.size
        if start > len(raw) or (stop := start + _LENGTH.unpack_from(raw, place)[0]) > len(raw):
            raise ValueError(f"element {len(texts)} is longer than the {len(raw)} bytes")
        texts.append(raw[start:stop])
        place = stop
    return texts


def _make_array(
    tensor: messages.ModelInferRequest.InferInputTensor, form: TensorForm, raw: bytes | None
) -> Array:
    dtype, field = _ELEMENTS[form.datatype]
    if raw is None:
        flat = np.array(getattr(tensor.contents, field), dtype)
    elif form.datatype == "BYTES":
        flat = np.array(_split_texts(raw, math.prod(tensor.shape)), dtype)
    else:
        flat = np.frombuffer(raw, dtype)
    return flat.reshape(tuple(tensor.shape))


def add_output(response: messages.ModelInferResponse, name: str, array: Array) -> None:
    """Adds an output of INT64 or UINT8 elements to a response."""
    datatype = _OUTPUT_DATATYPES[array.dtype.str]
    response.outputs.add(name=name, datatype=datatype, shape=array.shape)
    response.raw_output_contents.append(array.tobytes())


def add_texts(response: messages.ModelInferResponse, name: str, texts: Sequence[str]) -> None:
    """Adds an output of BYTES, [N, 1], to a response: each text follows its length."""
    response.outputs.add(name=name, datatype="BYTES", shape=(len(texts), 1))
    encoded = [text.encode() for text in texts]
    response.raw_output_contents.append(
        b"".join(_LENGTH.pack(len(each)) + each for each in encoded)
    )


def _format_shape(shape: tuple[int, ...]) -> str:
    listed = ", ".join(map(str, shape[: _LONGEST_SHAPE - 1]))
    return f"[{listed}, …]" if len(shape) == _LONGEST_SHAPE else f"[{listed}]"
