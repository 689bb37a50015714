"""Tests of ModelInferRequest: what is accepted, what is refused, and that every fault is named."""

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
from imagemint.engine.sampling import cut_runs, draw_classes, draw_latents, draw_run_latents
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


def make_column(dtype, *values):
    """Returns one value per row."""
    return np.array(values, dtype).reshape(-1, 1)


def make_serial_inputs(*indices, seed=5):
    """Returns the inputs that name images by seed and index."""
    return {
        "seed": make_column(np.uint64, *[seed] * len(indices)),
        "index": make_column(np.uint64, *indices),
    }


def make_request(model="tiny", *, typed=False, outputs=(), parameters=None, version="", **inputs):
    """Returns a request with raw contents or, if `typed`, typed ones."""
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
    """Returns a request in the form in which the servicer uses it."""
    check_parts(request)
    return read_infer(request, repository.resolve(request.model_name, request.model_version))


def make_job(call):
    """Returns the job for all rows of a call."""
    return call.image_request.make_job(0, call.image_request.count, math.inf)


def make_serials(call):
    """Returns the serial of each row."""
    count = call.image_request.count
    return call.image_request.make_serials(0, count, make_job(call).conditions)


def list_faults(request, repository):
    """Returns field and description of each violation."""
    with pytest.raises(InvalidRequest) as refused:
        read(repository, request)
    return {violation.field: violation.description for violation in refused.value.violations}


Z = np.linspace(-1, 1, 24, dtype=np.float32).reshape(3, 8)
CLASSES = make_column(np.int64, 1, 2, 3)


@pytest.mark.parametrize("typed", [False, True])
def test_latents_are_read_unchanged(repository, typed):
    """Raw or typed, elements and classes are those of the request."""
    call = read(repository, make_request(z=Z, class_id=CLASSES, typed=typed))
    job = make_job(call)
    assert job.count == 3
    assert job.latents.tobytes() == Z.tobytes()
    assert job.conditions.class_id == [1, 2, 3]
    assert call.outputs == ("image",)
    assert call.deadline == math.inf


@pytest.mark.parametrize("typed", [False, True])
def test_rows_have_their_own_seeds_and_indices(repository, typed):
    """Each row gets the latent of its serial, in any order and for any seed and index."""
    rows = [(5, 9), (2**64 - 1, 3), (5, 10), (5, 11), (0, 2**64 - 1)]
    seeds, indices = zip(*rows, strict=True)
    inputs = {"seed": make_column(np.uint64, *seeds), "index": make_column(np.uint64, *indices)}
    call = read(
        repository,
        make_request(class_id=make_column(np.int64, 0, 1, 2, 3, 9), typed=typed, **inputs),
    )
    drawn = draw_run_latents(make_job(call).latents, 8)
    for row, (seed, index) in zip(drawn, rows, strict=True):
        assert row.tobytes() == draw_latents(seed, index, 1, 8).tobytes()
    assert make_serials(call)[:2] == ["tiny@1/5/9?class=0", f"tiny@1/{2**64 - 1}/3?class=1"]


def test_missing_classes_are_drawn(repository):
    """The class of a row without one is that of its serial."""
    call = read(repository, make_request(**make_serial_inputs(4, 7)))
    expected = [draw_classes(5, index, 1, 10)[0] for index in (4, 7)]
    assert make_job(call).conditions.class_id == expected


def test_unconditional_rows_have_no_class(repository):
    """Neither the job nor the serial of an unconditional model has a class."""
    call = read(repository, make_request("plain", **make_serial_inputs(4)))
    assert make_job(call).conditions.class_id is None
    assert make_serials(call) == ["plain@1/5/4"]


def test_psi_is_an_input_of_the_graph_per_row(repository):
    """Rows may have different psi, and the serial has the number as it was written."""
    psi = make_column(np.float32, 0.7, 0)
    call = read(
        repository,
        make_request("styled", truncation=psi, class_id=CLASSES[:2], **make_serial_inputs(1, 2)),
    )
    job = make_job(call)
    assert job.psi.tolist() == psi[:, 0].tolist()
    assert (
        draw_run_latents(cut_runs(job.latents, 0, 1), 8).tobytes()
        == draw_latents(5, 1, 1, 8).tobytes()
    )
    assert make_serials(call)[0] == "styled@1/5/1?class=1&truncation=0.7"


def test_default_psi_is_one(repository):
    """The graph always takes psi, and the serial does not have the default."""
    call = read(repository, make_request("styled", **make_serial_inputs(1)))
    assert make_job(call).psi == 1.0
    assert "truncation" not in make_serials(call)[0]


def test_threshold_applies_to_the_latents(repository):
    """A model with a threshold takes it as FP64, and its graph has no such input."""
    thresholds = make_column(np.float64, 0.7, 2.0)
    call = read(
        repository, make_request("bounded", truncation=thresholds, **make_serial_inputs(1, 2))
    )
    job = make_job(call)
    assert job.psi is None
    drawn = draw_run_latents(cut_runs(job.latents, 0, 1), 8)
    assert drawn.tobytes() == draw_latents(5, 1, 1, 8, threshold=0.7).tobytes()
    assert make_serials(call)[1].endswith("&truncation=2.0")


def test_timeout_becomes_a_deadline(repository):
    """The timeout is an integer of microseconds. 0 means none."""
    for kind in ("int64_param", "uint64_param"):
        request = make_request(**make_serial_inputs(1), parameters={"timeout": (kind, 3_000_000)})
        before = time.monotonic()
        deadline = read(repository, request).deadline
        assert before + 3 <= deadline <= time.monotonic() + 3
    never = make_request(**make_serial_inputs(1), parameters={"timeout": ("int64_param", 0)})
    assert read(repository, never).deadline == math.inf


def test_unknown_parameters_are_ignored(repository):
    """Unknown parameters are ignored, as in Triton."""
    parameters = {"sequence_id": ("string_param", "x")}
    assert read(repository, make_request(**make_serial_inputs(1), parameters=parameters))


@pytest.mark.parametrize(
    ("value", "priority"), [(0, Priority.NORMAL), (1, Priority.HIGH), (2, Priority.NORMAL)]
)
def test_priority_is_read(repository, value, priority):
    """Priority 1 is the highest, and 0 is the default. The job has it."""
    parameters = {"priority": ("uint64_param", value)}
    call = read(repository, make_request(**make_serial_inputs(1), parameters=parameters))
    assert make_job(call).priority is priority


def test_priority_beyond_the_levels_is_refused(repository):
    """As in Triton, a priority beyond the levels of the configuration is refused."""
    request = make_request(**make_serial_inputs(1), parameters={"priority": ("uint64_param", 3)})
    assert list(list_faults(request, repository)) == ["parameters.priority"]


@pytest.mark.parametrize("name", ["priority", "timeout"])
@pytest.mark.parametrize(("kind", "value"), [("int64_param", -1), ("string_param", "1")])
def test_invalid_parameters_are_named(repository, name, kind, value):
    """A negative number or a text is refused."""
    request = make_request(**make_serial_inputs(1), parameters={name: (kind, value)})
    assert list(list_faults(request, repository)) == [f"parameters.{name}"]


WRONG = {
    "nothing": (make_request(), "inputs", "neither z nor seed"),
    "seed alone": (make_request(seed=make_column(np.uint64, 1)), "inputs", "required together"),
    "both": (
        make_request(z=Z, class_id=CLASSES, **make_serial_inputs(1, 2, 3)),
        "inputs",
        "either z, or seed and index",
    ),
    "no class": (make_request(z=Z), "inputs", "class_id is required with z"),
    "class": (
        make_request(**make_serial_inputs(1), class_id=make_column(np.int64, 10)),
        "inputs.class_id",
        "0 to 9",
    ),
    "class below 0": (
        make_request(**make_serial_inputs(1), class_id=make_column(np.int64, -1)),
        "inputs.class_id",
        "-1",
    ),
    "rows": (make_request(z=Z, class_id=CLASSES[:2]), "inputs", "z 3, class_id 2"),
    "shape": (make_request(z=Z[:, :7], class_id=CLASSES), "inputs[0].shape", "[N, 8]"),
    "flat": (make_request(z=Z[:, 0], class_id=CLASSES), "inputs[0].shape", "[3]"),
    "datatype": (
        make_request(**make_serial_inputs(1), class_id=make_column(np.int32, 1)),
        "inputs[2].datatype",
        "INT64",
    ),
    "name": (make_request(**make_serial_inputs(1), zz=CLASSES), "inputs[2].name", "no input 'zz'"),
    "nan": (make_request(z=Z * np.float32(np.nan), class_id=CLASSES), "inputs.z", "not finite"),
    "psi": (
        make_request("styled", **make_serial_inputs(1), truncation=make_column(np.float32, 1.5)),
        "inputs.truncation",
        "0.0 to 1.0",
    ),
    "threshold nan": (
        make_request(
            "bounded", **make_serial_inputs(1), truncation=make_column(np.float64, np.nan)
        ),
        "inputs.truncation",
        "nan",
    ),
    "threshold of latents": (
        make_request("bounded", z=Z, class_id=CLASSES, truncation=make_column(np.float64, 1, 1, 1)),
        "inputs",
        "truncation is not allowed with z",
    ),
    "truncation of none": (
        make_request(**make_serial_inputs(1), truncation=make_column(np.float32, 1)),
        "inputs[2].name",
        "no input 'truncation'",
    ),
    "output": (
        make_request(**make_serial_inputs(1), outputs=["pixels"]),
        "outputs[0].name",
        "image, class_id",
    ),
    "output twice": (
        make_request(**make_serial_inputs(1), outputs=["image"] * 2),
        "outputs[1].name",
        "twice",
    ),
    "serial of latents": (
        make_request(z=Z, class_id=CLASSES, outputs=["serial"]),
        "outputs[0].name",
        "no serial",
    ),
    "class of none": (
        make_request("plain", **make_serial_inputs(1), outputs=["class_id"]),
        "outputs[0].name",
        "there are image, serial",
    ),
    "model": (make_request("", **make_serial_inputs(1)), "model_name", "required"),
}


@pytest.mark.parametrize(("request_", "field", "text"), WRONG.values(), ids=WRONG)
def test_invalid_field_is_named(repository, request_, field, text):
    """The error has the field and says what is expected."""
    faults = list_faults(request_, repository)
    assert list(faults) == [field]
    assert text in faults[field]


@pytest.mark.parametrize("count", [0, 101])
def test_number_of_rows_is_limited(repository, count):
    """No rows and more rows than the model's limit are refused for each input."""
    faults = list_faults(make_request(**make_serial_inputs(*range(count))), repository)
    assert faults.keys() == {"inputs[0].shape", "inputs[1].shape"}
    assert all(f"N 1 to 100, not [{count}, 1]" in text for text in faults.values())


def test_all_faults_are_named(repository):
    """The error lists faults of parameters, inputs and outputs."""
    request = make_request(
        z=Z[:, :7],
        class_id=make_column(np.int64, 77),
        parameters={"priority": ("int64_param", -1)},
        outputs=["pixels"],
    )
    expected = {"parameters.priority", "inputs[0].shape", "inputs.class_id", "outputs[0].name"}
    assert list_faults(request, repository).keys() == expected


def test_list_of_faults_is_limited(repository):
    """A status has room for some faults. The others are counted."""
    request = make_request(**{f"x{i}": CLASSES for i in range(500)})
    with pytest.raises(InvalidRequest) as refused:
        read(repository, request)
    assert len(refused.value.violations) == 13
    assert refused.value.violations[-1].description == "489 more violations"


def test_long_names_are_truncated(repository):
    """The error quotes only a part of a long name."""
    (text,) = list_faults(
        make_request(**make_serial_inputs(1), **{"y" * 10_000: CLASSES}), repository
    ).values()
    assert len(text) < 200


def test_input_given_twice_is_refused(repository):
    """The error names the second input of the same name."""
    request = make_request(**make_serial_inputs(1))
    request.inputs.append(request.inputs[0])
    request.raw_input_contents.append(request.raw_input_contents[0])
    assert list_faults(request, repository) == {"inputs[2].name": "seed is given twice"}


def test_short_raw_contents_are_refused(repository):
    """The number of bytes must match the shape."""
    request = make_request(**make_serial_inputs(1, 2))
    request.raw_input_contents[1] = request.raw_input_contents[1][:-1]
    assert list_faults(request, repository) == {"raw_input_contents[1]": "15 bytes; index has 16"}


def test_raw_contents_must_cover_all_inputs(repository):
    """One buffer for two inputs is ambiguous."""
    request = make_request(**make_serial_inputs(1))
    del request.raw_input_contents[1]
    assert "raw_input_contents" in list_faults(request, repository)


def test_contents_must_be_unique(repository):
    """Typed contents beside raw ones, in the wrong field or too few are refused."""
    both = make_request(**make_serial_inputs(1))
    both.inputs[0].contents.uint64_contents.append(1)
    assert list(list_faults(both, repository)) == ["inputs[0].contents"]
    wrong = make_request(**make_serial_inputs(1), typed=True)
    wrong.inputs[0].contents.int64_contents.append(1)
    assert list(list_faults(wrong, repository)) == ["inputs[0].contents"]
    few = make_request(**make_serial_inputs(1, 2), typed=True)
    del few.inputs[1].contents.uint64_contents[1]
    assert list_faults(few, repository) == {
        "inputs[1].contents.uint64_contents": "1 elements, not 2"
    }


def test_shared_memory_is_refused(repository):
    """Shared memory is refused for inputs and for outputs."""
    request = make_request(**make_serial_inputs(1), outputs=["image"])
    request.inputs[0].parameters["shared_memory_region"].string_param = "region"
    request.outputs[0].parameters["shared_memory_region"].string_param = "region"
    faults = list_faults(request, repository)
    assert faults.keys() == {"inputs[0].parameters", "outputs[0].parameters"}


def test_class_of_an_unconditional_model_is_a_failed_precondition(repository):
    """The error is the same as in imagemint.v1."""
    for model, advice in (("plain", "ask it for no class"), ("people", "it takes a caption")):
        with pytest.raises(ClassUnsupported, match=advice):
            read(repository, make_request(model, **make_serial_inputs(1), class_id=CLASSES[:1]))


def test_too_many_parts_are_refused_by_their_number(repository):
    """More tensors or parameters than any model can have are counted and not read."""
    request = make_request("nobody")
    for _ in range(1_025):
        request.inputs.add()
        request.outputs.add()
        request.raw_input_contents.append(b"")
    for number in range(1_025):
        request.parameters[str(number)].bool_param = True
    faults = list_faults(request, repository)
    assert faults == dict.fromkeys(
        ("inputs", "outputs", "parameters", "raw_input_contents"),
        "1025 of them; a request has at most 1024",
    )


def test_long_id_is_refused(repository):
    """The id is part of the response, so it is limited."""
    request = make_request(**make_serial_inputs(1))
    request.id = "x" * 256
    assert read(repository, request)
    request.id += "x"
    assert "257 characters; at most 256" in list_faults(request, repository)["id"]
    assert len(list_faults(request, repository)["id"]) < 100


def test_long_shape_is_truncated(repository):
    """The error quotes only the first numbers of a long shape."""
    request = make_request(**make_serial_inputs(1))
    request.inputs[0].shape.extend([1] * 2_000)
    text = list_faults(request, repository)["inputs[0].shape"]
    assert text.endswith("not [1, 1, 1, 1, 1, …]")


# Invalid requests, as fields of an ImageSpec and as a ModelInferRequest.
TWICE_WRONG = {
    "class of none, bad count": (
        {"model": "plain", "class_id": 0, "count": 101},
        make_request(
            "plain", **make_serial_inputs(*range(101)), class_id=make_column(np.int64, *[0] * 101)
        ),
    ),
    "class of none, bad truncation": (
        {"model": "plain", "class_id": 0, "truncation": 0.5},
        make_request(
            "plain",
            **make_serial_inputs(1),
            class_id=CLASSES[:1],
            truncation=make_column(np.float32, 0.5),
        ),
    ),
    "class of none, out of range": (
        {"model": "plain", "class_id": 77},
        make_request("plain", **make_serial_inputs(1), class_id=make_column(np.int64, 77)),
    ),
    "no such model, bad count": (
        {"model": "nobody", "count": 0},
        make_request("nobody"),
    ),
    "no such version, class of none": (
        {"model": "plain", "version": "7", "class_id": 0},
        make_request("plain", version="7", **make_serial_inputs(1), class_id=CLASSES[:1]),
    ),
    "no model, bad count": ({"model": "", "count": 0}, make_request("")),
    "bad class, bad truncation": (
        {"class_id": 10, "truncation": 0.5},
        make_request(
            **make_serial_inputs(1),
            class_id=make_column(np.int64, 10),
            truncation=make_column(np.float32, 0.5),
        ),
    ),
}


@pytest.mark.parametrize("name", TWICE_WRONG)
def test_both_services_report_the_same_fault(repository, name):
    """If two things are wrong, Generate and ModelInfer raise the same error."""
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
    """The model and the version are resolved before tensors are checked."""
    with pytest.raises(ModelNotFound):
        read(repository, make_request("nobody"))
    with pytest.raises(VersionNotFound):
        read(repository, make_request(version="7"))


def test_number_of_described_captions_is_limited(repository):
    """Three descriptions are enough, and more would block the event loop."""
    request = pb.ModelInferRequest(model_name="people")
    for name, values in make_serial_inputs(*range(9)).items():
        tensor = request.inputs.add(name=name, datatype="UINT64", shape=(9, 1))
        tensor.contents.uint64_contents.extend(values.ravel().tolist())
    text = request.inputs.add(name="text", datatype="BYTES", shape=(9, 1))
    text.contents.bytes_contents.extend(b"word%d" % number for number in range(9))
    with pytest.raises(InvalidRequest) as refused:
        read(repository, request)
    assert [violation.description for violation in refused.value.violations] == [
        f"unknown word 'word{number}'" for number in range(3)
    ]
