"""ModelInferRequest in: what is taken, what is refused, and that every fault is named."""

import math
import time

import numpy as np
import pytest

from imagemint.engine.errors import (
    ClassUnsupported,
    ImagemintError,
    InvalidRequest,
    ModelNotFound,
    VersionNotFound,
)
from imagemint.engine.sampling import cut_runs, drawn_classes, latents, latents_of
from imagemint.open_inference import grpc_service_pb2 as pb
from imagemint.server.batching import Priority
from imagemint.server.rpc.open_inference.requests import check_parts, read_infer
from imagemint.server.rpc.v1.requests import read_generate, require_model
from imagemint.v1 import generation_service_pb2

DATATYPES = {
    "float32": "FP32",
    "float64": "FP64",
    "int64": "INT64",
    "uint64": "UINT64",
    "int32": "INT32",
}
FIELDS = {
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "INT64": "int64_contents",
    "UINT64": "uint64_contents",
}


def column(dtype, *values):
    """One value for each row."""
    return np.array(values, dtype).reshape(-1, 1)


def reel(*indices, seed=5):
    """The inputs that name images by seed and index."""
    return {
        "seed": column(np.uint64, *[seed] * len(indices)),
        "index": column(np.uint64, *indices),
    }


def infer(model="tiny", *, typed=False, outputs=(), parameters=None, version="", **inputs):
    """A request; raw contents unless `typed`."""
    request = pb.ModelInferRequest(model_name=model, model_version=version)
    for name, array in inputs.items():
        datatype = DATATYPES[array.dtype.name]
        tensor = request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        if typed:
            getattr(tensor.contents, FIELDS[datatype]).extend(array.ravel().tolist())
        else:
            request.raw_input_contents.append(array.tobytes())
    for name in outputs:
        request.outputs.add(name=name)
    for name, (kind, value) in (parameters or {}).items():
        setattr(request.parameters[name], kind, value)
    return request


def read(repository, request):
    """What a request asks of its model, as the servicer reads it."""
    check_parts(request)
    return read_infer(request, repository.resolve(request.model_name, request.model_version))


def job_of(call):
    """The job for all rows of a call."""
    return call.image_request.make_job(0, call.image_request.count, math.inf)


def serials_of(call):
    """The serial of each row."""
    count = call.image_request.count
    return call.image_request.make_serials(0, count, job_of(call).conditions)


def faults_of(request, repository):
    """Field and description of each violation."""
    with pytest.raises(InvalidRequest) as refused:
        read(repository, request)
    return {violation.field: violation.description for violation in refused.value.violations}


Z = np.linspace(-1, 1, 24, dtype=np.float32).reshape(3, 8)
CLASSES = column(np.int64, 1, 2, 3)


@pytest.mark.parametrize("typed", [False, True])
def test_latents_arrive_as_sent(repository, typed):
    """Raw or typed, elements and classes are those of the request."""
    call = read(repository, infer(z=Z, class_id=CLASSES, typed=typed))
    job = job_of(call)
    assert job.count == 3
    assert job.latents.tobytes() == Z.tobytes()
    assert job.conditions.class_id == [1, 2, 3]
    assert call.outputs == ("image",)
    assert call.deadline == math.inf


@pytest.mark.parametrize("typed", [False, True])
def test_rows_have_seeds_and_indices_of_their_own(repository, typed):
    """Different reels, out of order, at the far end: each row gets the latent of its serial."""
    rows = [(5, 9), (2**64 - 1, 3), (5, 10), (5, 11), (0, 2**64 - 1)]
    seeds, indices = zip(*rows, strict=True)
    inputs = {"seed": column(np.uint64, *seeds), "index": column(np.uint64, *indices)}
    call = read(
        repository,
        infer(class_id=column(np.int64, 0, 1, 2, 3, 9), typed=typed, **inputs),
    )
    drawn = latents_of(job_of(call).latents, 8)
    for row, (seed, index) in zip(drawn, rows, strict=True):
        assert row.tobytes() == latents(seed, index, 1, 8).tobytes()
    assert serials_of(call)[:2] == ["tiny@1/5/9?class=0", f"tiny@1/{2**64 - 1}/3?class=1"]


def test_absent_classes_are_drawn(repository):
    """The class of a row without one is that of its serial."""
    call = read(repository, infer(**reel(4, 7)))
    expected = [drawn_classes(5, index, 1, 10)[0] for index in (4, 7)]
    assert job_of(call).conditions.class_id == expected


def test_unconditional_rows_have_no_class(repository):
    """Neither in the job nor in the serial."""
    call = read(repository, infer("plain", **reel(4)))
    assert job_of(call).conditions.class_id is None
    assert serials_of(call) == ["plain@1/5/4"]


def test_psi_goes_to_the_graph_row_by_row(repository):
    """Rows may have different truncations; the serial spells the number as it was meant."""
    psi = column(np.float32, 0.7, 0)
    call = read(repository, infer("styled", truncation=psi, class_id=CLASSES[:2], **reel(1, 2)))
    job = job_of(call)
    assert job.psi.tolist() == psi[:, 0].tolist()
    assert latents_of(cut_runs(job.latents, 0, 1), 8).tobytes() == latents(5, 1, 1, 8).tobytes()
    assert serials_of(call)[0] == "styled@1/5/1?class=1&truncation=0.7"


def test_psi_absent_leaves_w_where_it_is(repository):
    """The graph always takes the input; the serial names none."""
    call = read(repository, infer("styled", **reel(1)))
    assert job_of(call).psi == 1.0
    assert "truncation" not in serials_of(call)[0]


def test_threshold_confines_the_latents(repository):
    """A model truncated by threshold takes it as FP64, and its graph gets none."""
    thresholds = column(np.float64, 0.7, 2.0)
    call = read(repository, infer("bounded", truncation=thresholds, **reel(1, 2)))
    job = job_of(call)
    assert job.psi is None
    drawn = latents_of(cut_runs(job.latents, 0, 1), 8)
    assert drawn.tobytes() == latents(5, 1, 1, 8, threshold=0.7).tobytes()
    assert serials_of(call)[1].endswith("&truncation=2.0")


def test_timeout_becomes_a_deadline(repository):
    """In microseconds, as either integer; 0 is none."""
    for kind in ("int64_param", "uint64_param"):
        request = infer(**reel(1), parameters={"timeout": (kind, 3_000_000)})
        before = time.monotonic()
        deadline = read(repository, request).deadline
        assert before + 3 <= deadline <= time.monotonic() + 3
    never = infer(**reel(1), parameters={"timeout": ("int64_param", 0)})
    assert read(repository, never).deadline == math.inf


def test_unknown_parameters_are_taken(repository):
    """As Triton does, what is not known is not read."""
    parameters = {"sequence_id": ("string_param", "x")}
    assert read(repository, infer(**reel(1), parameters=parameters))


@pytest.mark.parametrize(
    ("value", "priority"), [(0, Priority.NORMAL), (1, Priority.HIGH), (2, Priority.NORMAL)]
)
def test_priority_is_read(repository, value, priority):
    """1 is the highest, 0 the default; it reaches the job."""
    parameters = {"priority": ("uint64_param", value)}
    call = read(repository, infer(**reel(1), parameters=parameters))
    assert job_of(call).priority is priority


def test_priority_beyond_the_levels_is_refused(repository):
    """As by Triton, whose clients know the levels from the configuration."""
    request = infer(**reel(1), parameters={"priority": ("uint64_param", 3)})
    assert list(faults_of(request, repository)) == ["parameters.priority"]


@pytest.mark.parametrize("name", ["priority", "timeout"])
@pytest.mark.parametrize(("kind", "value"), [("int64_param", -1), ("string_param", "1")])
def test_wrong_parameters_are_named(repository, name, kind, value):
    """Negative, or no integer."""
    request = infer(**reel(1), parameters={name: (kind, value)})
    assert list(faults_of(request, repository)) == [f"parameters.{name}"]


WRONG = {
    "nothing": (infer(), "inputs", "neither z nor seed"),
    "seed alone": (infer(seed=column(np.uint64, 1)), "inputs", "required together"),
    "both": (
        infer(z=Z, class_id=CLASSES, **reel(1, 2, 3)),
        "inputs",
        "either z, or seed and index",
    ),
    "no class": (infer(z=Z), "inputs", "class_id is required with z"),
    "class": (infer(**reel(1), class_id=column(np.int64, 10)), "inputs.class_id", "0 to 9"),
    "class below 0": (infer(**reel(1), class_id=column(np.int64, -1)), "inputs.class_id", "-1"),
    "rows": (infer(z=Z, class_id=CLASSES[:2]), "inputs", "z 3, class_id 2"),
    "shape": (infer(z=Z[:, :7], class_id=CLASSES), "inputs[0].shape", "[N, 8]"),
    "flat": (infer(z=Z[:, 0], class_id=CLASSES), "inputs[0].shape", "[3]"),
    "datatype": (infer(**reel(1), class_id=column(np.int32, 1)), "inputs[2].datatype", "INT64"),
    "name": (infer(**reel(1), zz=CLASSES), "inputs[2].name", "no input 'zz'"),
    "nan": (infer(z=Z * np.float32(np.nan), class_id=CLASSES), "inputs.z", "not finite"),
    "psi": (
        infer("styled", **reel(1), truncation=column(np.float32, 1.5)),
        "inputs.truncation",
        "0.0 to 1.0",
    ),
    "threshold nan": (
        infer("bounded", **reel(1), truncation=column(np.float64, np.nan)),
        "inputs.truncation",
        "nan",
    ),
    "threshold of latents": (
        infer("bounded", z=Z, class_id=CLASSES, truncation=column(np.float64, 1, 1, 1)),
        "inputs",
        "truncation is not allowed with z",
    ),
    "truncation of none": (
        infer(**reel(1), truncation=column(np.float32, 1)),
        "inputs[2].name",
        "no input 'truncation'",
    ),
    "output": (infer(**reel(1), outputs=["pixels"]), "outputs[0].name", "image, class_id"),
    "output twice": (infer(**reel(1), outputs=["image"] * 2), "outputs[1].name", "twice"),
    "serial of latents": (
        infer(z=Z, class_id=CLASSES, outputs=["serial"]),
        "outputs[0].name",
        "no serial",
    ),
    "class of none": (
        infer("plain", **reel(1), outputs=["class_id"]),
        "outputs[0].name",
        "there are image, serial",
    ),
    "model": (infer("", **reel(1)), "model_name", "required"),
}


@pytest.mark.parametrize(("request_", "field", "text"), WRONG.values(), ids=WRONG)
def test_wrong_field_is_named(repository, request_, field, text):
    """The one fault of a request, where it is and what would be right."""
    faults = faults_of(request_, repository)
    assert list(faults) == [field]
    assert text in faults[field]


@pytest.mark.parametrize("count", [0, 101])
def test_rows_without_limit_are_refused(repository, count):
    """None, or more than the model's limit; each input says so."""
    faults = faults_of(infer(**reel(*range(count))), repository)
    assert faults.keys() == {"inputs[0].shape", "inputs[1].shape"}
    assert all(f"N 1 to 100, not [{count}, 1]" in text for text in faults.values())


def test_every_fault_is_named(repository):
    """Parameters, inputs and outputs at once."""
    request = infer(
        z=Z[:, :7],
        class_id=column(np.int64, 77),
        parameters={"priority": ("int64_param", -1)},
        outputs=["pixels"],
    )
    expected = {"parameters.priority", "inputs[0].shape", "inputs.class_id", "outputs[0].name"}
    assert faults_of(request, repository).keys() == expected


def test_faults_without_number_are_cut(repository):
    """A status has room for some; the rest is counted."""
    request = infer(**{f"x{i}": CLASSES for i in range(500)})
    with pytest.raises(InvalidRequest) as refused:
        read(repository, request)
    assert len(refused.value.violations) == 13
    assert refused.value.violations[-1].description == "489 more violations"


def test_long_names_are_cut(repository):
    """What a caller typed comes back, but not all of it."""
    (text,) = faults_of(infer(**reel(1), **{"y" * 10_000: CLASSES}), repository).values()
    assert len(text) < 200


def test_input_given_twice_is_refused(repository):
    """The second is the fault."""
    request = infer(**reel(1))
    request.inputs.append(request.inputs[0])
    request.raw_input_contents.append(request.raw_input_contents[0])
    assert faults_of(request, repository) == {"inputs[2].name": "seed is given twice"}


def test_short_raw_contents_are_refused(repository):
    """Bytes must be those of the shape."""
    request = infer(**reel(1, 2))
    request.raw_input_contents[1] = request.raw_input_contents[1][:-1]
    assert faults_of(request, repository) == {"raw_input_contents[1]": "15 bytes; index has 16"}


def test_raw_contents_are_for_all_inputs_or_none(repository):
    """One buffer for two inputs belongs to neither."""
    request = infer(**reel(1))
    del request.raw_input_contents[1]
    assert "raw_input_contents" in faults_of(request, repository)


def test_contents_come_once(repository):
    """Typed elements besides raw ones, in the wrong field, or too few."""
    both = infer(**reel(1))
    both.inputs[0].contents.uint64_contents.append(1)
    assert list(faults_of(both, repository)) == ["inputs[0].contents"]
    wrong = infer(**reel(1), typed=True)
    wrong.inputs[0].contents.int64_contents.append(1)
    assert list(faults_of(wrong, repository)) == ["inputs[0].contents"]
    few = infer(**reel(1, 2), typed=True)
    del few.inputs[1].contents.uint64_contents[1]
    assert faults_of(few, repository) == {"inputs[1].contents.uint64_contents": "1 elements, not 2"}


def test_shared_memory_is_refused(repository):
    """Where the elements would lie, and where the answer would go."""
    request = infer(**reel(1), outputs=["image"])
    request.inputs[0].parameters["shared_memory_region"].string_param = "region"
    request.outputs[0].parameters["shared_memory_region"].string_param = "region"
    faults = faults_of(request, repository)
    assert faults.keys() == {"inputs[0].parameters", "outputs[0].parameters"}


def test_class_of_an_unconditional_model_is_a_failed_precondition(repository):
    """As it is in imagemint.v1."""
    with pytest.raises(ClassUnsupported):
        read(repository, infer("plain", **reel(1), class_id=CLASSES[:1]))


def test_too_many_parts_are_not_walked(repository):
    """More tensors or parameters than any model could have are counted, and that is all."""
    request = infer("nobody")
    for _ in range(1_025):
        request.inputs.add()
        request.outputs.add()
        request.raw_input_contents.append(b"")
    for number in range(1_025):
        request.parameters[str(number)].bool_param = True
    faults = faults_of(request, repository)
    assert faults == dict.fromkeys(
        ("inputs", "outputs", "parameters", "raw_input_contents"),
        "1025 of them; a request has at most 1024",
    )


def test_long_id_is_refused(repository):
    """It would come back with the answer."""
    request = infer(**reel(1))
    request.id = "x" * 256
    assert read(repository, request)
    request.id += "x"
    assert "257 characters; at most 256" in faults_of(request, repository)["id"]
    assert len(faults_of(request, repository)["id"]) < 100


def test_long_shape_is_cut(repository):
    """A shape of any length is told in a few numbers."""
    request = infer(**reel(1))
    request.inputs[0].shape.extend([1] * 2_000)
    text = faults_of(request, repository)["inputs[0].shape"]
    assert text.endswith("not [1, 1, 1, 1, 1, …]")


# What is wrong with a request, as fields of an ImageSpec and as a ModelInferRequest.
TWICE_WRONG = {
    "class of none, bad count": (
        {"model": "plain", "class_id": 0, "count": 101},
        infer("plain", **reel(*range(101)), class_id=column(np.int64, *[0] * 101)),
    ),
    "class of none, bad truncation": (
        {"model": "plain", "class_id": 0, "truncation": 0.5},
        infer("plain", **reel(1), class_id=CLASSES[:1], truncation=column(np.float32, 0.5)),
    ),
    "class of none, out of range": (
        {"model": "plain", "class_id": 77},
        infer("plain", **reel(1), class_id=column(np.int64, 77)),
    ),
    "no such model, bad count": (
        {"model": "nobody", "count": 0},
        infer("nobody"),
    ),
    "no such version, class of none": (
        {"model": "plain", "version": "7", "class_id": 0},
        infer("plain", version="7", **reel(1), class_id=CLASSES[:1]),
    ),
    "no model, bad count": ({"model": "", "count": 0}, infer("")),
    "bad class, bad truncation": (
        {"class_id": 10, "truncation": 0.5},
        infer(**reel(1), class_id=column(np.int64, 10), truncation=column(np.float32, 0.5)),
    ),
}


@pytest.mark.parametrize("name", TWICE_WRONG)
def test_both_services_refuse_alike(repository, name):
    """Where two things are wrong, the same of them decides in Generate and in ModelInfer."""
    images, request = TWICE_WRONG[name]
    images = {"model": "tiny", "count": 1, "seed": 5, **images}
    message = generation_service_pb2.GenerateRequest(images=images)
    with pytest.raises(ImagemintError) as generated:  # noqa: PT012 - what the servicer does
        require_model(message)
        read_generate(message, repository.resolve(message.images.model, message.images.version))
    with pytest.raises(ImagemintError) as inferred:
        read(repository, request)
    assert type(inferred.value) is type(generated.value)


def test_unknown_model_and_version_are_not_found(repository):
    """Before anything is said of tensors."""
    with pytest.raises(ModelNotFound):
        read(repository, infer("nobody"))
    with pytest.raises(VersionNotFound):
        read(repository, infer(version="7"))


def test_wrong_captions_are_described_in_part(repository):
    """Three are enough to mend a request, and more would take the event loop's time."""
    request = pb.ModelInferRequest(model_name="people")
    for name, values in reel(*range(9)).items():
        tensor = request.inputs.add(name=name, datatype="UINT64", shape=(9, 1))
        tensor.contents.uint64_contents.extend(values.ravel().tolist())
    text = request.inputs.add(name="text", datatype="BYTES", shape=(9, 1))
    text.contents.bytes_contents.extend(b"word%d" % number for number in range(9))
    with pytest.raises(InvalidRequest) as refused:
        read(repository, request)
    assert [each.description for each in refused.value.violations] == [
        f"unknown word 'word{number}'" for number in range(3)
    ]
