"""The signature of a foreign graph: which input and output is which, and in what form."""

import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper

from imagemint.exporter.adoption.foreign_model import ForeignModel
from imagemint.exporter.errors import ExportError

_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE}
_INTEGERS = {
    *(TensorProto.INT64, TensorProto.INT32, TensorProto.INT16, TensorProto.INT8),
    *(TensorProto.UINT64, TensorProto.UINT32, TensorProto.UINT16, TensorProto.UINT8),
}
_NUMBERS = {*_FLOATS, *_INTEGERS, TensorProto.BOOL}
_PSI_NAMES = {"psi", "truncation", "truncation_psi"}
_CLASS_NAMES = {"c", "y", "class", "classes", "class_id", "label", "labels", "class_labels"}

Form = Literal["index", "column", "one-hot"]
"""Form of an input with a number for each image: [N], [N, 1], or one-hot [N, classes]."""


@dataclass(frozen=True)
class Input:
    """One input of a foreign graph.

    Attributes:
        name: name of the input.
        dtype: its `TensorProto.DataType`.
        shape: its sides; None for a side that is not fixed.
    """

    name: str
    dtype: int
    shape: tuple[int | None, ...]

    @classmethod
    def of(cls, value: onnx.ValueInfoProto) -> "Input":
        """Reads a declared input."""
        tensor = value.type.tensor_type
        shape = (d.dim_value if d.dim_value > 0 else _read_zero(d) for d in tensor.shape.dim)
        return cls(value.name, tensor.elem_type, tuple(shape))

    def __str__(self) -> str:
        """Returns name, type and shape for messages."""
        dtype = TensorProto.DataType.Name(self.dtype).lower()
        return f"{self.name!r} ({dtype} [{', '.join('?' if s is None else str(s) for s in self.shape)}])"  # noqa: E501 - one text

    @property
    def is_empty(self) -> bool:
        """Whether it has no elements, such as the labels [N, 0] of an unconditional StyleGAN."""
        return 0 in self.shape[1:]


def _read_zero(dimension: onnx.TensorShapeProto.Dimension) -> int | None:
    return 0 if dimension.HasField("dim_value") and dimension.dim_value == 0 else None


@dataclass(frozen=True)
class Signature:
    """The meaning of each input of a foreign graph.

    Attributes:
        latent: the input for latents.
        z_dim: length of a latent.
        class_input: the input for classes; None for a model without classes.
        class_form: the form of the classes; None without a class input.
        truncation: the input for psi; None for a model without it.
        truncation_form: the form of psi; None without a truncation input.
        constants: inputs that always get the same number, with that number.
        output: name of the output that holds the images.
    """

    latent: Input
    z_dim: int
    class_input: Input | None
    class_form: Form | None
    truncation: Input | None
    truncation_form: Form | None
    constants: tuple[tuple[Input, float], ...]
    output: str

    @property
    def batch(self) -> int | None:
        """The only batch size that the file declares; None for any."""
        return self.latent.shape[0]


def read_signature(graph: onnx.GraphProto, foreign: ForeignModel) -> Signature:
    """Assigns every input of a graph.

    Raises:
        ExportError: an input or output is ambiguous, has an unknown form, or is not mapped. The
            message names the inputs and the options that map them.
    """
    inputs = {value.name: Input.of(value) for value in graph.input}
    _check_types(inputs)
    _check_names(inputs, foreign)
    constants = tuple(
        (input_, foreign.fixed_inputs.get(input_.name, 0.0))
        for input_ in inputs.values()
        if input_.name in foreign.fixed_inputs or input_.is_empty
    )
    free = [
        input_ for input_ in inputs.values() if all(input_ is not fixed for fixed, _ in constants)
    ]
    truncation = _find_truncation_input(free, foreign)
    free = [each for each in free if each is not truncation]
    class_input = _find_class_input(free, foreign)
    free = [each for each in free if each is not class_input]
    latent = _find_latent_input(free, foreign)
    _refuse_unmapped([each for each in free if each is not latent], foreign)
    return Signature(
        latent=latent,
        z_dim=_read_z_dim(latent),
        class_input=class_input,
        class_form=None if class_input is None else _find_class_form(class_input, foreign),
        truncation=truncation,
        truncation_form=None if truncation is None else _find_truncation_form(truncation, latent),
        constants=constants,
        output=_choose_output(graph, foreign),
    )


def _check_names(inputs: dict[str, Input], foreign: ForeignModel) -> None:
    names = [foreign.latent_input, foreign.class_input, foreign.truncation_input]
    for name in (*filter(None, names), *foreign.fixed_inputs):
        if name not in inputs:
            raise ExportError(f"There is no input {name!r}. The inputs are {_list(inputs)}")
    roles: dict[str, list[str]] = {}
    for role, chosen in zip(("latents", "classes", "psi"), names, strict=True):
        if chosen is not None:
            roles.setdefault(chosen, []).append(role)
    for name in foreign.fixed_inputs:
        roles.setdefault(name, []).append("a constant")
    for name, several in roles.items():
        if len(several) > 1:
            raise ExportError(
                f"Input {inputs[name]} cannot take {' and '.join(several)}. Name it in one option"
            )
    for name, value in foreign.fixed_inputs.items():
        _check_constant(inputs[name], value)


def _check_types(inputs: Mapping[str, Input]) -> None:
    for input_ in inputs.values():
        if input_.dtype not in _NUMBERS:
            raise ExportError(
                f"Input {input_} has a type that no bundle can fill. Export the model without it,"
                f" or with one of the types {_name_types(_NUMBERS)}"
            )


def _check_constant(found: Input, value: float) -> None:
    dtype = helper.tensor_dtype_to_np_dtype(found.dtype)
    if found.dtype in _FLOATS:
        fits = abs(value) <= float(np.finfo(dtype).max)
    elif found.dtype == TensorProto.BOOL:
        fits = value in {0, 1}
    else:
        limits = np.iinfo(dtype)
        fits = value == int(value) and limits.min <= value <= limits.max
    if not fits:
        raise ExportError(f"Input {found} cannot take {value:g}. Correct --fix-input {found.name}")


def _name_types(types: Iterable[int]) -> str:
    return ", ".join(sorted(TensorProto.DataType.Name(type_).lower() for type_ in types))


def _find_truncation_input(free: list[Input], foreign: ForeignModel) -> Input | None:
    name = foreign.truncation_input
    return _find_first(free, lambda each: each.name == name if name else each.name in _PSI_NAMES)


def _find_class_input(free: list[Input], foreign: ForeignModel) -> Input | None:
    if foreign.class_input is not None:
        if not foreign.class_labels:
            raise ExportError(
                f"Input {foreign.class_input!r} takes classes, but no label texts are given."
                " Use --labels or --labels-file"
            )
        return _find_first(free, lambda each: each.name == foreign.class_input)
    if not foreign.class_labels:
        return None
    others = [each for each in free if each.name != foreign.latent_input]
    integers = [other for other in others if other.dtype in _INTEGERS]
    one_hot = [other for other in others if other.shape[1:] == (len(foreign.class_labels),)]
    # If latents are as long as the number of classes, both inputs look one-hot, and one float for
    # each image may be anything; the name decides then.
    numbers = [other for other in others if other.shape[1:] in {(), (1,)}]
    matches = [each for each in (*one_hot, *numbers) if each.name.lower() in _CLASS_NAMES]
    candidates = integers or (one_hot if len(one_hot) == 1 else matches)
    if not candidates:
        wide = [other for other in others if other.name.lower() in _CLASS_NAMES and other.shape[1:]]
        found = f" Input {wide[0]} may take {wide[0].shape[1]} classes." if wide else ""
        raise ExportError(
            f"{len(foreign.class_labels)} labels are given, and no input takes as many classes."
            f"{found} The inputs are {_describe(others)}. Correct --labels, use --class-input, or"
            " leave out the labels if the model has no classes"
        )
    return _require_one("class input", candidates, others)


def _find_latent_input(free: list[Input], foreign: ForeignModel) -> Input:
    if foreign.latent_input is not None:
        latent = _find_first(free, lambda each: each.name == foreign.latent_input)
        if latent is None:
            raise ExportError(
                f"Input {foreign.latent_input!r} takes psi by its name. Name the input for psi with"
                " --truncation-input"
            )
        if latent.dtype not in _FLOATS:
            raise ExportError(f"Input {latent} cannot take latents: it takes no floats")
        return latent
    floats = [each for each in free if each.dtype in _FLOATS]
    if not floats:
        raise ExportError(
            "No input is left for the latents: it takes floats, and neither --fix-input nor"
            f" --ignore-input names it. Left is {_describe(free)}"
        )
    # One number for the whole batch or for each image is rarely a latent, and classes never are.
    likely = [
        each
        for each in floats
        if each.name.lower() not in _CLASS_NAMES and any(side != 1 for side in each.shape[1:])
    ]
    return _require_one("latent input", likely if len(likely) == 1 else floats, free)


def _refuse_unmapped(left: list[Input], foreign: ForeignModel) -> None:
    texts = []
    for each in left:
        text = f"Input {each} is not mapped."
        is_class = each.dtype in _INTEGERS or each.name.lower() in _CLASS_NAMES
        quoted = shlex.quote(each.name)
        fixed = f"--fix-input {shlex.quote(f'{each.name}=NUMBER')} or --ignore-input {quoted}"
        if foreign.class_labels or not is_class:
            is_psi = each.dtype in _FLOATS and each.shape[1:] in {(), (1,)} and each.shape
            psi = f"--truncation-input {quoted} if it takes psi, or " if is_psi else ""
            text += f" Use {psi}{fixed}."
        else:
            text += (
                f" Use --class-input {quoted} and --labels, or {fixed}, which fills it with zeros."
            )
        texts.append(text)
    if texts:
        raise ExportError(" ".join(texts))


def _choose_output(graph: onnx.GraphProto, foreign: ForeignModel) -> str:
    names = [value.name for value in graph.output]
    if foreign.output is None and len(names) != 1:
        raise ExportError(
            f"Which output holds the images? There is {_list(names)}. Use --image-output"
        )
    name = foreign.output or names[0]
    if name not in names:
        raise ExportError(f"There is no output {name!r}. The outputs are {_list(names)}")
    return name


def _read_z_dim(latent: Input) -> int:
    sides = [side for side in latent.shape[1:] if side is not None]
    if len(sides) < len(latent.shape[1:]):
        raise ExportError(
            f"Input {latent} has no fixed length. Export it with every axis but the first fixed"
        )
    long = [side for side in sides if side > 1] or sides[:1]
    if len(long) != 1 or not long[0]:
        raise ExportError(
            f"Input {latent} is no batch of latents [N, z]: it has"
            f" {len(long) if long and long[0] else 'no'} axes of more than one number. Export the"
            " model with one latent for each image. A model that takes pictures cannot be adopted"
        )
    return long[0]


def _find_class_form(found: Input, foreign: ForeignModel) -> Form:
    count = len(foreign.class_labels)
    if found.dtype in _NUMBERS:
        if len(found.shape) == 1:
            return "index"
        if found.shape[1:] == (1,) and count != 1:
            return "column"
        if found.shape[1:] in ((count,), (None,)):
            return "one-hot"
    raise ExportError(
        f"The class input {found} takes neither one number for each image nor one-hot vectors over"
        f" the {count} labels"
    )


def _find_truncation_form(found: Input, latent: Input) -> Form:
    if found.dtype in _FLOATS and found.shape[:1] == latent.shape[:1]:
        if len(found.shape) == 1:
            return "index"
        if found.shape[1:] == (1,):
            return "column"
    raise ExportError(
        f"Input {found} is one psi for a whole batch, and each image must have its own. Export it"
        f" with psi as [N, 1], or fix it: --fix-input {found.name}=1"
    )


def _require_one(what: str, candidates: list[Input], among: Iterable[Input]) -> Input:
    if len(candidates) != 1:
        option = what.replace(" ", "-")
        raise ExportError(f"Which is the {what}? There is {_describe(among)}. Use --{option}")
    return candidates[0]


def _describe(inputs: Iterable[Input]) -> str:
    return ", ".join(map(str, inputs)) or "none"


def _find_first(inputs: list[Input], predicate: Callable[[Input], bool]) -> Input | None:
    return next((input_ for input_ in inputs if predicate(input_)), None)


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
