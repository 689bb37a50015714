"""Checks a ModelInferRequest as a whole and converts it to plain dataclasses."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from imagemint.engine.errors import (
    ClassUnsupported,
    InvalidRequest,
    Violation,
    quoted,
    shortened,
)
from imagemint.engine.sampling import drawn_classes_at
from imagemint.engine.spec import ModelSpec, Truncation, TruncationKind
from imagemint.open_inference import grpc_service_pb2 as messages
from imagemint.server.batching import Priority
from imagemint.server.images.row_request import RowRequest, SeedIndexPairs
from imagemint.server.repository import ModelRepository, ServedVersion
from imagemint.server.rpc.open_inference.tensors import Array, list_known_inputs, read_inputs

# A request may have many invalid inputs, and the details of a status have 8 KB in all.
_MOST_FAULTS = 12
# Most tensors and parameters of a request. It is far more than any model has, and few enough to
# check each one.
_MOST_PARTS = 1_024
MOST_ID_CHARACTERS = 256
"""Longest id of a request. The answer repeats the id."""
PRIORITIES = (Priority.HIGH, Priority.NORMAL)
"""Meaning of the values of the parameter ``priority``, from 1. The value 0 is NORMAL."""
_OUTPUTS = ("image", "class_id", "serial")
_REFUSED_OUTPUT_PARAMETERS = {
    "shared_memory_region": "shared memory is not supported",
    "classification": "classification is not supported",
}


@dataclass(frozen=True)
class InferCall:
    """A checked ModelInferRequest.

    Attributes:
        rows: rows of images to generate.
        outputs: names of the requested tensors.
        deadline: `time.monotonic` value after which no image is computed; from `timeout`.
        priority: priority in the queue; from `priority`.
    """

    rows: RowRequest
    outputs: tuple[str, ...]
    deadline: float
    priority: Priority

    @property
    def version(self) -> ServedVersion:
        """The version that computes the images."""
        return self.rows.version


def read_infer(request: messages.ModelInferRequest, repository: ModelRepository) -> InferCall:
    """Returns what a ModelInferRequest asks for.

    Raises:
        InvalidRequest: one or more fields are wrong; the error lists all of them.
        ModelNotFound, VersionNotFound, ModelNotReady: as in `ModelRepository.resolve`.
        ClassUnsupported: the request names a class, and the model is unconditional.
    """
    faults = list(_check_sizes(request))
    if faults:
        raise InvalidRequest(faults)
    priority = _read_priority(request, faults)
    timeout_us = _read_parameter(request, "timeout", faults)
    if not request.model_name:
        faults.append(Violation("model_name", "required"))
        _raise_violations(faults)
    version = repository.resolve(request.model_name, request.model_version)
    spec = version.spec
    names = {tensor.name for tensor in request.inputs}
    skipped = () if spec.conditional else ("class_id",)
    arrays = read_inputs(request, list_known_inputs(spec), version.max_images, faults, skipped)
    faults.extend(_check_source(names, spec))
    faults.extend(_check_values(arrays, spec))
    faults.extend(_check_outputs(request, spec, by_seed="z" not in names))
    if faults:
        _raise_violations(faults)
    if "class_id" in names and not spec.conditional:  # counts only if the fields are valid
        raise ClassUnsupported(spec.name)
    rows = RowRequest(
        version=version,
        count=len(next(iter(arrays.values()))),
        source=_read_source(arrays),
        class_id=_read_classes(arrays, spec),
        truncation=arrays["truncation"][:, 0] if "truncation" in arrays else None,
    )
    outputs = tuple(output.name for output in request.outputs) or ("image",)
    deadline = time.monotonic() + timeout_us / 1e6 if timeout_us else float("inf")
    return InferCall(rows, outputs, deadline, priority)


def _check_sizes(request: messages.ModelInferRequest) -> Iterator[Violation]:
    """Yields violations for parts that are too many or too long to check one by one."""
    for name in ("inputs", "outputs", "parameters", "raw_input_contents"):
        count = len(getattr(request, name))
        if count > _MOST_PARTS:
            yield Violation(name, f"{count} of them; a request has at most {_MOST_PARTS}")
    if len(request.id) > MOST_ID_CHARACTERS:
        given = f"{shortened(request.id, 20)!r} has {len(request.id)} characters"
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
    reel = names & {"seed", "index"}
    if "z" not in names:
        if not reel:
            yield Violation("inputs", "neither z nor seed with index is given")
        elif len(reel) == 1:
            yield Violation("inputs", "seed and index are required together")
        return
    if reel:
        yield Violation("inputs", "give either z, or seed and index")
    if spec.conditional and "class_id" not in names:
        yield Violation("inputs", "class_id is required with z")
    if "truncation" in names and not _takes_psi(spec):
        yield Violation("inputs", "truncation is not allowed with z")


def _takes_psi(spec: ModelSpec) -> bool:
    return spec.truncation is not None and spec.truncation.kind is TruncationKind.PSI


def _check_values(arrays: dict[str, Array], spec: ModelSpec) -> Iterator[Violation]:
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
    known = [name for name in _OUTPUTS if name != "class_id" or spec.conditional]
    seen: set[str] = set()
    for number, output in enumerate(request.outputs):
        where = f"outputs[{number}]"
        if output.name not in known:
            listed = ", ".join(known)
            yield Violation(f"{where}.name", f"no output {quoted(output.name)}; there are {listed}")
        elif output.name in seen:
            yield Violation(f"{where}.name", f"{output.name} is asked for twice")
        elif output.name == "serial" and not by_seed:
            yield Violation(f"{where}.name", "images of explicit latents have no serial")
        seen.add(output.name)
        for name, why in _REFUSED_OUTPUT_PARAMETERS.items():
            if name in output.parameters:
                yield Violation(f"{where}.parameters", why)


def _read_source(arrays: dict[str, Array]) -> SeedIndexPairs | npt.NDArray[np.float32]:
    if "z" in arrays:
        return arrays["z"]
    return SeedIndexPairs(arrays["seed"][:, 0], arrays["index"][:, 0])


def _read_classes(arrays: dict[str, Array], spec: ModelSpec) -> npt.NDArray[np.int64] | None:
    if not spec.conditional:
        return None
    if "class_id" in arrays:
        return arrays["class_id"][:, 0]
    return drawn_classes_at(arrays["seed"][:, 0], arrays["index"][:, 0], spec.num_classes)
