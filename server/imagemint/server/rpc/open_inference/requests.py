"""Checks a ModelInferRequest as a whole and converts it to plain dataclasses."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from imagemint.engine.captions import Captions
from imagemint.engine.errors import (
    CaptionUnsupported,
    ClassUnsupported,
    ImagemintError,
    InvalidRequest,
    Violation,
    quote,
    shorten,
)
from imagemint.engine.sampling import Run, draw_classes_at, group_runs
from imagemint.engine.serial import hash_source
from imagemint.engine.spec import ModelSpec, Truncation
from imagemint.open_inference import grpc_service_pb2 as messages
from imagemint.server.batching import Priority
from imagemint.server.images.conditions import CaptionPerImage, ClassPerImage, Condition
from imagemint.server.images.request import ImageRequest
from imagemint.server.repository import ServedVersion
from imagemint.server.rpc.open_inference.tensors import Array, list_known_inputs, read_inputs

# A request may have many invalid inputs, and the details of a status have 8 KB in all.
_MOST_FAULTS = 12
# Most tensors and parameters of a request. It is far more than any model has, and few enough to
# check each one.
_MOST_PARTS = 1_024
MOST_ID_CHARACTERS = 256
"""Longest id of a request. The answer repeats the id."""
# The search for similar words takes time, so not every wrong caption of a request is described.
_MOST_CAPTIONS_REFUSED = 3
PRIORITIES = (Priority.HIGH, Priority.NORMAL)
"""Meaning of the values of the parameter ``priority``, from 1. The value 0 is NORMAL."""
_CONDITIONS = {"class_id", "text", "tokens"}
_OUTPUTS = ("image", "class_id", "caption", "serial")
_REFUSED_OUTPUT_PARAMETERS = {
    "shared_memory_region": "shared memory is not supported",
    "classification": "classification is not supported",
}


@dataclass(frozen=True)
class InferCall:
    """A checked ModelInferRequest.

    Attributes:
        image_request: the images to generate.
        outputs: names of the requested tensors.
        deadline: `time.monotonic` value after which no image is computed; from `timeout`.
        sources: sources uint8 [N, height, width, depth] of a model that translates them.
    """

    image_request: ImageRequest
    outputs: tuple[str, ...]
    deadline: float
    sources: npt.NDArray[np.uint8] | None = None


def check_parts(request: messages.ModelInferRequest) -> None:
    """Checks the parts that do not depend on the model.

    Raises:
        InvalidRequest: a part is too long to be checked, or the model is not named.
    """
    faults = list(_check_sizes(request))
    if not faults and not request.model_name:
        _read_priority(request, faults)
        _read_parameter(request, "timeout", faults)
        faults.append(Violation("model_name", "required"))
    if faults:
        _raise_violations(faults)


def read_infer(request: messages.ModelInferRequest, version: ServedVersion) -> InferCall:
    """Converts a ModelInferRequest for a version; call `check_parts` first.

    Raises:
        InvalidRequest: one or more fields are wrong; the error lists all of them.
        ClassUnsupported, CaptionUnsupported: the request names what the model does not take.
    """
    faults: list[Violation] = []
    priority = _read_priority(request, faults)
    timeout_us = _read_parameter(request, "timeout", faults)
    spec = version.spec
    names = {tensor.name for tensor in request.inputs}
    unsupported = dict(_find_unsupported(names, spec))
    forms = list_known_inputs(spec)
    arrays = read_inputs(request, forms, version.max_images, faults, unsupported)
    faults.extend(_check_source(names, spec))
    faults.extend(_check_values(arrays, spec))
    condition = _read_condition(arrays, spec, faults)
    faults.extend(_check_outputs(request, spec, by_seed="z" not in names))
    if faults:
        _raise_violations(faults)
    for error in unsupported.values():  # counts only if the fields are valid
        raise error
    image_request = ImageRequest(
        version=version,
        count=len(next(iter(arrays.values()))),
        latents=_read_latents(arrays, spec),
        condition=condition,
        # The conversion goes through text, so that float32 0.7 is spelled 0.7, like float64 0.7.
        truncation=[float(str(value)) for value in arrays["truncation"][:, 0]]
        if "truncation" in arrays
        else None,
        priority=priority,
    )
    outputs = tuple(output.name for output in request.outputs) or ("image",)
    sources = arrays.get("source")
    if sources is not None and "serial" in outputs:
        image_request.sources = [hash_source(source) for source in sources]
    deadline = time.monotonic() + timeout_us / 1e6 if timeout_us else float("inf")
    return InferCall(image_request, outputs, deadline, sources)


def _find_unsupported(names: set[str], spec: ModelSpec) -> Iterator[tuple[str, ImagemintError]]:
    """Yields the conditions in a request that the model does not take, with their errors."""
    if "class_id" in names and not spec.conditional:
        takes_caption = spec.captions is not None
        yield "class_id", ClassUnsupported(spec.name, takes_caption=takes_caption)
    if spec.captions is None:
        yield from ((name, CaptionUnsupported(spec.name)) for name in names & {"text", "tokens"})


def _check_sizes(request: messages.ModelInferRequest) -> Iterator[Violation]:
    """Yields violations for parts that are too many or too long to check one by one."""
    for name in ("inputs", "outputs", "parameters", "raw_input_contents"):
        count = len(getattr(request, name))
        if count > _MOST_PARTS:
            yield Violation(name, f"{count} of them; a request has at most {_MOST_PARTS}")
    if len(request.id) > MOST_ID_CHARACTERS:
        given = f"{shorten(request.id, 20)!r} has {len(request.id)} characters"
        yield Violation("id", f"{given}; at most {MOST_ID_CHARACTERS}")


def _read_priority(request: messages.ModelInferRequest, faults: list[Violation]) -> Priority:
    level = _read_parameter(request, "priority", faults)
    if level > len(PRIORITIES):
        most = len(PRIORITIES)
        faults.append(
            Violation("parameters.priority", f"{level} is not 0 to {most}, 1 the highest")
        )
        level = 0
    return PRIORITIES[level - 1] if level else Priority.NORMAL


def _raise_violations(faults: list[Violation]) -> None:
    left = len(faults) - _MOST_FAULTS
    if left > 0:
        faults = [*faults[:_MOST_FAULTS], Violation("request", f"{left} more violations")]
    raise InvalidRequest(faults)


def _read_parameter(request: messages.ModelInferRequest, name: str, faults: list[Violation]) -> int:
    """Returns an integer parameter of 0 or more. Default: 0, as Triton's clients expect."""
    if name not in request.parameters:
        return 0
    parameter = request.parameters[name]
    kind = parameter.WhichOneof("parameter_choice")
    if kind not in ("int64_param", "uint64_param"):
        faults.append(Violation(f"parameters.{name}", "not an integer"))
        return 0
    value: int = getattr(parameter, kind)
    if value < 0:
        faults.append(Violation(f"parameters.{name}", f"{value} is negative"))
        return 0
    return value


def _check_source(names: set[str], spec: ModelSpec) -> Iterator[Violation]:
    seeded = names & {"seed", "index"}
    if spec.source is not None and "source" not in names:
        yield Violation("inputs", "source is required")
    if not spec.z_dim and not seeded and (not spec.num_choices or names & _CONDITIONS):
        return  # nothing to draw
    if "z" not in names:
        if not seeded:
            given = "z nor seed with index" if spec.z_dim else "a condition nor seed with index"
            yield Violation("inputs", f"neither {given} is given")
        elif len(seeded) == 1:
            yield Violation("inputs", "seed and index are required together")
        return
    if seeded:
        yield Violation("inputs", "give either z, or seed and index")
    if spec.conditional and "class_id" not in names:
        yield Violation("inputs", "class_id is required with z")
    if spec.captions is not None and not names & {"text", "tokens"}:
        yield Violation("inputs", "text or tokens is required with z")
    if "truncation" in names and not spec.takes_psi:
        yield Violation("inputs", "truncation is not allowed with z")


def _check_values(arrays: dict[str, Array], spec: ModelSpec) -> Iterator[Violation]:
    if "source" in arrays and spec.source is not None and spec.source.is_free:
        height, width = arrays["source"].shape[1:3]
        source = spec.source
        if height % source.step or width % source.step:
            yield Violation("inputs.source", f"its sides are not multiples of {source.step}")
        if height > source.height or width > source.width:
            most = f"{source.height} x {source.width}"
            yield Violation("inputs.source", f"{height} x {width} pixels; at most {most} here")
    if "z" in arrays and not np.isfinite(arrays["z"]).all():
        yield Violation("inputs.z", "an element is not finite")
    if "class_id" in arrays:
        ids = arrays["class_id"]
        wrong = np.unique(ids[(ids < 0) | (ids >= spec.num_classes)]).tolist()
        if wrong:
            some = ", ".join(map(str, wrong[:5]))
            last = spec.num_classes - 1
            yield Violation("inputs.class_id", f"{some} out of range; classes are 0 to {last}")
    if "truncation" in arrays and spec.truncation is not None:
        yield from _check_truncation(arrays["truncation"], spec.truncation)


def _check_truncation(values: Array, accepted: Truncation) -> Iterator[Violation]:
    # The limits have the precision of the input, because 0.7 as FP32 is below 0.7.
    least, most = np.array([accepted.minimum, accepted.maximum], values.dtype)
    wrong = values[~((values >= least) & (values <= most))]  # NaN is neither
    if wrong.size:
        yield Violation("inputs.truncation", f"{wrong[0]} is not {least} to {most}")


def _check_outputs(
    request: messages.ModelInferRequest, spec: ModelSpec, *, by_seed: bool
) -> Iterator[Violation]:
    missing = {
        *(() if spec.conditional else ("class_id",)),
        *(() if spec.captions is not None else ("caption",)),
    }
    known = [name for name in _OUTPUTS if name not in missing]
    seen: set[str] = set()
    for number, output in enumerate(request.outputs):
        where = f"outputs[{number}]"
        if output.name not in known:
            listed = ", ".join(known)
            yield Violation(f"{where}.name", f"no output {quote(output.name)}; there are {listed}")
        elif output.name in seen:
            yield Violation(f"{where}.name", f"{output.name} is asked for twice")
        elif output.name == "serial" and not by_seed:
            yield Violation(f"{where}.name", "images of explicit latents have no serial")
        seen.add(output.name)
        for name, why in _REFUSED_OUTPUT_PARAMETERS.items():
            if name in output.parameters:
                yield Violation(f"{where}.parameters", why)


def _read_latents(arrays: dict[str, Array], spec: ModelSpec) -> list[Run] | Array:
    if "z" in arrays:
        return arrays["z"]
    if not spec.z_dim:
        return [Run(0, 0, len(arrays["source"]))]
    thresholds = None
    if "truncation" in arrays and not spec.takes_psi:
        thresholds = arrays["truncation"][:, 0]
    return group_runs(arrays["seed"][:, 0], arrays["index"][:, 0], thresholds)


def _read_condition(
    arrays: dict[str, Array], spec: ModelSpec, faults: list[Violation]
) -> Condition | None:
    """Returns the class or caption of each row; without one, the drawn class or caption."""
    if spec.captions is not None and {"text", "tokens"} & arrays.keys():
        return _read_captions(arrays, spec.captions, faults)
    if "class_id" in arrays:
        return ClassPerImage(arrays["class_id"][:, 0])
    if not spec.num_choices or not {"seed", "index"} <= arrays.keys():
        return None
    if len(arrays["seed"]) != len(arrays["index"]):
        return None  # a recorded violation
    drawn = draw_classes_at(arrays["seed"][:, 0], arrays["index"][:, 0], spec.num_choices)
    if spec.captions is None:
        return ClassPerImage(drawn)
    examples = [spec.captions.examples[number] for number in drawn.tolist()]
    return CaptionPerImage(examples, spec.captions.example_tokens[drawn])


def _read_captions(
    arrays: dict[str, Array], known: Captions, faults: list[Violation]
) -> CaptionPerImage | None:
    if {"text", "tokens"} <= arrays.keys():
        faults.append(Violation("inputs", "give either text or tokens"))
        return None
    if "tokens" in arrays:
        try:
            return CaptionPerImage(known.decode(arrays["tokens"]), arrays["tokens"])
        except ValueError as error:
            faults.append(Violation("inputs.tokens", str(error)))
            return None
    texts = arrays["text"][:, 0].tolist()
    captions = {}
    before = len(faults)
    for text in dict.fromkeys(texts):
        try:
            captions[text] = known.parse(text.decode())
        except ValueError as error:  # UnicodeDecodeError is a ValueError
            faults.append(Violation("inputs.text", str(error)))
            if len(faults) == before + _MOST_CAPTIONS_REFUSED:
                break
    if len(faults) > before:
        return None
    ordered = [captions[text] for text in texts]
    return CaptionPerImage(ordered, known.encode(ordered))
