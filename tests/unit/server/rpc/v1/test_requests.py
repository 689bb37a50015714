"""Tests of requests: every rule of the schema is checked, and nothing else is refused."""

import numpy as np
import pytest
from tiny_bundles import write_bundle

from imagemint.engine.errors import (
    ClassUnsupported,
    InvalidRequest,
    ModelNotFound,
    VariantMismatch,
)
from imagemint.pictures import PictureFormat
from imagemint.server.batching import Priority
from imagemint.server.images.conditions import ClassCycle, ClassPerImage, OneClass, RandomClasses
from imagemint.server.rpc.v1.requests import read_generate, read_stream, require_model
from imagemint.v1 import generation_service_pb2 as pb
from imagemint.v1 import image_pb2

SHEET = image_pb2.IMAGE_LAYOUT_SHEET
PNG, JPEG, WEBP = (
    image_pb2.IMAGE_FORMAT_PNG,
    image_pb2.IMAGE_FORMAT_JPEG,
    image_pb2.IMAGE_FORMAT_WEBP,
)
NAN, INFINITY = float("nan"), float("inf")


def read_request(repository, request):
    """Returns a request in the form in which the servicer uses it."""
    require_model(request)
    version = repository.resolve(request.images.model, request.images.version)
    is_stream = isinstance(request, pb.StreamGenerateRequest)
    return (read_stream if is_stream else read_generate)(request, version)


def get_seed(call):
    """Returns the seed of a call."""
    return call.image_request.latents[0].seed


@pytest.fixture
def generate(repository):
    """A function that reads a GenerateRequest for one image of `tiny`.

    Keywords change its ImageSpec.
    """

    def read(request=None, **images):
        request = pb.GenerateRequest() if request is None else request
        request.images.CopyFrom(image_pb2.ImageSpec(**({"model": "tiny", "count": 1} | images)))
        return read_request(repository, request)

    return read


@pytest.fixture
def stream(repository):
    """A function that reads a StreamGenerateRequest in the same way."""

    def read(request=None, **images):
        request = pb.StreamGenerateRequest() if request is None else request
        request.images.CopyFrom(image_pb2.ImageSpec(**({"model": "tiny", "count": 1} | images)))
        return read_request(repository, request)

    return read


def list_faults(read, *arguments, **images):
    """Returns the fields that the error names, sorted by name."""
    with pytest.raises(InvalidRequest) as caught:
        read(*arguments, **images)
    return sorted(violation.field for violation in caught.value.violations)


def test_defaults_are_those_of_the_schema(generate):
    """By default the response is one raw image at index 0 of a random seed, with a drawn class."""
    call = generate()
    assert (call.output.picture_format, call.sheet, call.columns) == (
        PictureFormat.RAW,
        False,
        None,
    )
    assert (
        call.image_request.latents[0].first_index,
        call.image_request.count,
        call.image_request.truncation,
    ) == (0, 1, None)
    assert call.image_request.condition == RandomClasses(10)
    assert 0 <= get_seed(call) < 2**64
    assert get_seed(generate()) != get_seed(call)


def test_seed_zero_is_valid(generate):
    """The presence of the field decides and not its value."""
    assert get_seed(generate(seed=0)) == 0
    assert get_seed(generate(seed=2**64 - 1)) == 2**64 - 1


@pytest.mark.parametrize(
    ("images", "field"),
    [
        ({"model": ""}, "images.model"),
        ({"count": 0}, "images.count"),
        ({"count": 101}, "images.count"),
        ({"count": 2**64 - 1}, "images.count"),
        ({"first_index": 2**64 - 1, "count": 2}, "images.first_index"),
        ({"class_id": -1}, "images.class_id"),
        ({"class_id": 10}, "images.class_id"),
        ({"class_label": "ten"}, "images.class_label"),
        ({"class_label": ""}, "images.class_label"),
        ({"class_per_image": {}}, "images.class_per_image.class_ids"),
        ({"class_per_image": {"class_ids": [1, 2]}}, "images.class_per_image.class_ids"),
        ({"class_per_image": {"class_ids": [10]}}, "images.class_per_image.class_ids"),
        ({"class_cycle": {"class_ids": [0, -3]}}, "images.class_cycle.class_ids"),
        ({"class_weights": {"weights": [1] * 9}}, "images.class_weights.weights"),
        ({"class_weights": {"weights": [0] * 10}}, "images.class_weights.weights"),
        ({"class_weights": {"weights": [1] * 9 + [-1]}}, "images.class_weights.weights"),
        ({"class_weights": {"weights": [1] * 9 + [NAN]}}, "images.class_weights.weights"),
        ({"class_weights": {"weights": [1] * 9 + [INFINITY]}}, "images.class_weights.weights"),
        ({"truncation": 0.5}, "images.truncation"),
        ({"class_id": 0, "latents": {"values": [0.0] * 7}}, "images.latents.values"),
        ({"class_id": 0, "latents": {"values": [0.0] * 16}}, "images.latents.values"),
        ({"class_id": 0, "latents": {}}, "images.latents.values"),
        ({"class_id": 0, "latents": {"values": [NAN] * 8}}, "images.latents.values"),
        ({"class_id": 0, "latents": {"values": [-INFINITY] * 8}}, "images.latents.values"),
        ({"latents": {"values": [0.0] * 8}}, "images.condition"),
        (
            {"latents": {"values": [0.0] * 8}, "class_weights": {"weights": [1] * 10}},
            "images.condition",
        ),
    ],
)
def test_invalid_image_field_is_named(generate, images, field):
    """The error names exactly the field that is wrong."""
    assert list_faults(generate, **images) == [field]


@pytest.mark.parametrize(
    ("model", "value"),
    [
        *(("bounded", value) for value in (0.24, 4.01, 0.0, NAN, INFINITY)),
        *(("styled", value) for value in (-0.1, 1.01, NAN)),
    ],
)
def test_truncation_out_of_range_is_refused(generate, model, value):
    """The manifest's range is inclusive and contains numbers only."""
    assert list_faults(generate, model=model, truncation=value) == ["images.truncation"]


@pytest.mark.parametrize(
    ("model", "value"), [("bounded", 0.25), ("bounded", 4.0), ("styled", 0.0), ("styled", 1.0)]
)
def test_truncation_in_range_is_accepted(generate, model, value):
    """Both ends are valid, and 0 is a value of psi."""
    assert generate(model=model, truncation=value).image_request.truncation == value


def test_latents_exclude_a_threshold(generate):
    """A threshold applies when latents are drawn. Psi applies to any latents."""
    given = {"class_id": 0, "latents": {"values": [0.5] * 8}}
    assert list_faults(generate, model="bounded", truncation=1.0, **given) == ["images.truncation"]
    assert generate(model="styled", truncation=0.5, **given).image_request.truncation == 0.5


def test_latents_are_split_by_image(generate):
    """A request has count * z_dim values and no seed."""
    values = np.arange(24, dtype=np.float32)
    image_request = generate(count=3, class_id=2, latents={"values": values}).image_request
    assert image_request.latents.tolist() == values.reshape(3, 8).tolist()


@pytest.mark.parametrize(
    ("images", "condition"),
    [
        ({"class_id": 0}, OneClass(0)),
        ({"class_id": 9}, OneClass(9)),
        ({"class_label": "7"}, OneClass(7)),
        ({"class_weights": {"weights": [0] * 9 + [2]}}, RandomClasses(10, [0] * 9 + [2])),
    ],
)
def test_condition_is_read(generate, images, condition):
    """Class 0 is valid, a label gives its index, and weights need only one value above 0."""
    assert generate(**images).image_request.condition == condition


def test_class_lists_are_read(generate):
    """A list has a class per image. A cycle may be empty and then has all classes in order."""
    listed = generate(count=3, class_per_image={"class_ids": [3, 1, 3]}).image_request.condition
    assert isinstance(listed, ClassPerImage)
    assert listed.class_ids.tolist() == [3, 1, 3]
    cycle = generate(class_cycle={"class_ids": [5, 2]}).image_request.condition
    assert isinstance(cycle, ClassCycle)
    assert cycle.class_ids.tolist() == [5, 2]
    assert generate(class_cycle={}).image_request.condition.class_ids.tolist() == list(range(10))


def test_cycle_is_limited(generate):
    """A model of ten classes accepts 4,096 classes in a cycle and no more."""
    assert (
        len(generate(class_cycle={"class_ids": [1] * 4_096}).image_request.condition.class_ids)
        == 4_096
    )
    with pytest.raises(InvalidRequest, match=r"4097 classes; .* at most 4096"):
        generate(class_cycle={"class_ids": [1] * 4_097})


@pytest.mark.parametrize(("num_classes", "most"), [(100, 10_000), (300, 65_536)])
def test_limit_of_a_cycle_is_the_square_of_the_classes(tmp_path, new_repository, num_classes, most):
    """The limit allows each class after each other one and is at most 65,536."""
    write_bundle(tmp_path, "many", num_classes=num_classes)
    repository = new_repository(tmp_path)
    images = {"model": "many", "count": 1, "class_cycle": {"class_ids": [99] * most}}
    assert read_request(repository, pb.GenerateRequest(images=images))
    images["class_cycle"]["class_ids"].append(0)
    with pytest.raises(InvalidRequest, match=f"at most {most}"):
        read_request(repository, pb.GenerateRequest(images=images))


@pytest.mark.parametrize(
    "images",
    [
        {"class_cycle": {"class_ids": [77] * 50_000}},
        {"class_per_image": {"class_ids": [77] * 50_000}},
        {"class_weights": {"weights": [float("nan")] * 50_000}},
        {"class_id": 0, "latents": {"values": [float("nan")] * 50_000}},
    ],
    ids=lambda images: list(images)[-1],
)
def test_long_list_is_refused_by_its_length(generate, images):
    """A list that is too long is refused before its elements are read."""
    with pytest.raises(InvalidRequest) as caught:
        generate(**images)
    (violation,) = caught.value.violations
    assert "50000" in violation.description


@pytest.mark.parametrize(
    "images",
    [
        {"class_id": 0},
        {"class_label": "0"},
        {"class_per_image": {"class_ids": [0]}},
        {"class_cycle": {}},
        {"class_weights": {"weights": [1]}},
    ],
    ids=lambda images: next(iter(images)),
)
def test_class_of_an_unconditional_model_is_unsupported(generate, images):
    """Any condition on a class is refused. An invalid field takes precedence."""
    with pytest.raises(ClassUnsupported):
        generate(model="plain", **images)
    assert list_faults(generate, model="plain", **(images | {"count": 0})) == ["images.count"]


@pytest.mark.parametrize("variant", ["", "reference", "fp32"])
def test_running_variant_may_be_requested(generate, stream, variant):
    """A request may name the variant or the reference. Without a name, any variant is accepted."""
    assert (
        generate(variant=variant).image_request.count
        == stream(variant=variant).image_request.count
        == 1
    )


def test_other_variant_is_refused(generate, stream):
    """The error has the running and the requested variant. An invalid field takes precedence."""
    for read in (generate, stream):
        with pytest.raises(VariantMismatch) as caught:
            read(variant="int8")
        told = {"model": "tiny", "version": "1", "running": "fp32", "asked": "int8"}
        assert caught.value.metadata == told
        assert list_faults(read, variant="int8", count=0) == ["images.count"]


@pytest.mark.parametrize("variant", ["auto", "INT8", "-int8", "int8\n", 33 * "v", "i" * 100_000])
def test_malformed_variant_is_refused(generate, variant):
    """The text is not a valid name of a variant."""
    assert list_faults(generate, variant=variant) == ["images.variant"]


def test_unconditional_model_needs_no_class(generate):
    """Explicit latents of an unconditional model need no class either."""
    assert generate(model="plain").image_request.condition is None
    assert generate(model="plain", latents={"values": [0.0] * 8}).image_request.condition is None


@pytest.mark.parametrize(
    ("request_", "fields"),
    [
        (pb.GenerateRequest(output={"format": 99}), ["output.format"]),
        (pb.GenerateRequest(output={"quality": 90}), ["output.quality"]),
        (pb.GenerateRequest(output={"format": PNG, "quality": 90}), ["output.quality"]),
        (pb.GenerateRequest(output={"format": JPEG, "quality": 0}), ["output.quality"]),
        (pb.GenerateRequest(output={"format": WEBP, "quality": 101}), ["output.quality"]),
        (pb.GenerateRequest(layout=9), ["layout"]),
        (pb.GenerateRequest(layout=SHEET), ["layout"]),
        (pb.GenerateRequest(columns=1), ["columns"]),
        (pb.GenerateRequest(output={"format": PNG}, layout=SHEET, columns=0), ["columns"]),
        (pb.GenerateRequest(output={"format": PNG}, layout=SHEET, columns=5), ["columns"]),
    ],
)
def test_invalid_output_field_is_named(generate, request_, fields):
    """Formats, qualities, layouts and columns are checked, here for four images."""
    assert list_faults(generate, request_, count=4) == fields


@pytest.mark.parametrize("quality", [1, 100])
def test_quality_is_read(generate, quality):
    """The quality is 1 to 100. The default is 90."""
    output = generate(pb.GenerateRequest(output={"format": JPEG, "quality": quality})).output
    assert (output.picture_format, output.quality) == (PictureFormat.JPEG, quality)
    assert generate(pb.GenerateRequest(output={"format": JPEG})).output.quality == 90


def test_sheet_is_read(generate):
    """A sheet may have a number of columns."""
    wanted = pb.GenerateRequest(output={"format": PNG}, layout=SHEET, columns=4)
    assert generate(wanted, count=4).columns == 4
    wanted.ClearField("columns")
    call = generate(wanted, count=4)
    assert (call.sheet, call.columns) == (True, None)


def test_sheet_beyond_its_format_is_refused(tmp_path, new_repository):
    """A sheet that is too large for WebP is an invalid request and not a failure of the encoder."""
    write_bundle(tmp_path, "tall", size=(200, 2, 1))
    repository = new_repository(tmp_path)
    wanted = pb.GenerateRequest(
        images={"model": "tall", "count": 82}, output={"format": WEBP}, layout=SHEET, columns=1
    )
    with pytest.raises(InvalidRequest, match="16383 pixels"):
        read_request(repository, wanted)
    wanted.output.format = PNG
    assert read_request(repository, wanted).sheet


def test_all_faults_are_named(generate):
    """The error lists all invalid fields, so a caller can correct them in one step."""
    wrong = pb.GenerateRequest(output={"format": JPEG, "quality": 0}, layout=7, columns=3)
    images = {"count": 0, "truncation": 0.5, "class_label": "x", "latents": {"values": [NAN]}}
    named = list_faults(generate, wrong, **images)
    assert named == [
        "columns",
        "images.class_label",
        "images.count",
        "images.latents.values",
        "images.truncation",
        "layout",
        "output.quality",
    ]
    assert list_faults(generate, wrong, model="", count=0) == [
        "columns",
        "images.count",
        "images.model",
        "layout",
        "output.quality",
    ]


def test_unknown_model_is_not_found(generate, stream):
    """The error is ModelNotFound and not a violation of a field."""
    for read in (generate, stream):
        with pytest.raises(ModelNotFound):
            read(model="nobody")


def test_stream_accepts_any_count(stream):
    """A stream may go to the last index, with a chunk size that the server chooses."""
    call = stream(count=2**64 - 1, first_index=1)
    assert call.image_request.count == 2**64 - 1
    assert call.chunk_size == 100


@pytest.mark.parametrize("chunk_size", [-1, 0, 101])
def test_chunk_size_out_of_range_is_refused(stream, chunk_size):
    """The chunk size is between 1 and the largest request of the model."""
    assert list_faults(stream, pb.StreamGenerateRequest(chunk_size=chunk_size)) == ["chunk_size"]
    assert stream(pb.StreamGenerateRequest(chunk_size=100)).chunk_size == 100


def test_streamed_latents_are_limited(stream):
    """The limit of explicit latents is that of Generate, and all faults are listed."""
    wrong = pb.StreamGenerateRequest(chunk_size=0, output={"format": 42})
    given = {"class_id": 10, "count": 101, "latents": {"values": [0.0] * 808}}
    assert list_faults(stream, wrong, **given) == [
        "chunk_size",
        "images.class_id",
        "images.count",
        "output.format",
    ]


@pytest.mark.parametrize(
    ("value", "priority"), [(0, Priority.NORMAL), (1, Priority.NORMAL), (2, Priority.HIGH)]
)
def test_priority_is_read(generate, stream, value, priority):
    """Both calls read the priority. The default is NORMAL."""
    for image_request in (
        generate(pb.GenerateRequest(priority=value)).image_request,
        stream(pb.StreamGenerateRequest(priority=value)).image_request,
    ):
        assert image_request.make_job(0, 1, INFINITY).priority is priority


def test_unknown_priority_is_refused(generate, stream):
    """A priority of a later release is not interpreted as another one."""
    assert list_faults(generate, pb.GenerateRequest(priority=9)) == ["priority"]
    assert list_faults(stream, pb.StreamGenerateRequest(priority=9)) == ["priority"]
