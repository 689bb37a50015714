"""Requests: every rule that the schema states, checked whole, and nothing refused beyond it."""

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


def read_from(repository, request):
    """What a request asks of its model, as the servicer reads it."""
    require_model(request)
    version = repository.resolve(request.images.model, request.images.version)
    is_stream = isinstance(request, pb.StreamGenerateRequest)
    return (read_stream if is_stream else read_generate)(request, version)


def seed_of(call):
    """The seed of a call."""
    return call.image_request.latents[0].seed


@pytest.fixture
def generate(repository):
    """Reads a GenerateRequest of one image of `tiny` changed by keywords of ImageSpec."""

    def read(request=None, **images):
        request = pb.GenerateRequest() if request is None else request
        request.images.CopyFrom(image_pb2.ImageSpec(**({"model": "tiny", "count": 1} | images)))
        return read_from(repository, request)

    return read


@pytest.fixture
def stream(repository):
    """The same for a StreamGenerateRequest."""

    def read(request=None, **images):
        request = pb.StreamGenerateRequest() if request is None else request
        request.images.CopyFrom(image_pb2.ImageSpec(**({"model": "tiny", "count": 1} | images)))
        return read_from(repository, request)

    return read


def faults(read, *arguments, **images):
    """The fields that a refusal names, in order of name."""
    with pytest.raises(InvalidRequest) as caught:
        read(*arguments, **images)
    return sorted(violation.field for violation in caught.value.violations)


def test_defaults_are_those_of_the_schema(generate):
    """One raw image from index 0 of a reel that the server picks, its class drawn."""
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
    assert 0 <= seed_of(call) < 2**64
    assert seed_of(generate()) != seed_of(call)


def test_seed_zero_is_a_seed(generate):
    """Presence counts, not the value."""
    assert seed_of(generate(seed=0)) == 0
    assert seed_of(generate(seed=2**64 - 1)) == 2**64 - 1


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
def test_fault_of_the_images_is_named(generate, images, field):
    """One wrong field is named, and it alone."""
    assert faults(generate, **images) == [field]


@pytest.mark.parametrize(
    ("model", "value"),
    [
        *(("bounded", value) for value in (0.24, 4.01, 0.0, NAN, INFINITY)),
        *(("styled", value) for value in (-0.1, 1.01, NAN)),
    ],
)
def test_truncation_out_of_range_is_refused(generate, model, value):
    """The manifest's range is inclusive, and nothing but numbers lies in it."""
    assert faults(generate, model=model, truncation=value) == ["images.truncation"]


@pytest.mark.parametrize(
    ("model", "value"), [("bounded", 0.25), ("bounded", 4.0), ("styled", 0.0), ("styled", 1.0)]
)
def test_truncation_in_range_is_taken(generate, model, value):
    """Both ends are legal; zero of a psi is a value."""
    assert generate(model=model, truncation=value).image_request.truncation == value


def test_latents_leave_no_room_for_a_threshold(generate):
    """A threshold shapes the drawing of latents; psi works on any."""
    given = {"class_id": 0, "latents": {"values": [0.5] * 8}}
    assert faults(generate, model="bounded", truncation=1.0, **given) == ["images.truncation"]
    assert generate(model="styled", truncation=0.5, **given).image_request.truncation == 0.5


def test_latents_are_taken_image_by_image(generate):
    """There are count * z_dim values, and no seed."""
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
    """Zero is a class, a label finds its index, weights need only one above 0."""
    assert generate(**images).image_request.condition == condition


def test_listed_classes_are_read(generate):
    """A class for each image; a cycle; an empty cycle is all classes in order."""
    listed = generate(count=3, class_per_image={"class_ids": [3, 1, 3]}).image_request.condition
    assert isinstance(listed, ClassPerImage)
    assert listed.class_ids.tolist() == [3, 1, 3]
    cycle = generate(class_cycle={"class_ids": [5, 2]}).image_request.condition
    assert isinstance(cycle, ClassCycle)
    assert cycle.class_ids.tolist() == [5, 2]
    assert generate(class_cycle={}).image_request.condition.class_ids.tolist() == list(range(10))


def test_cycle_is_bounded(generate):
    """A model of ten classes takes 4,096 of them in a cycle, and not one more."""
    assert (
        len(generate(class_cycle={"class_ids": [1] * 4_096}).image_request.condition.class_ids)
        == 4_096
    )
    with pytest.raises(InvalidRequest, match=r"4097 classes; .* at most 4096"):
        generate(class_cycle={"class_ids": [1] * 4_097})


@pytest.mark.parametrize(("num_classes", "most"), [(100, 10_000), (300, 65_536)])
def test_cycle_of_many_classes_is_their_square(tmp_path, new_repository, num_classes, most):
    """Each class after each, but no more than 65,536."""
    write_bundle(tmp_path, "many", num_classes=num_classes)
    repository = new_repository(tmp_path)
    images = {"model": "many", "count": 1, "class_cycle": {"class_ids": [99] * most}}
    assert read_from(repository, pb.GenerateRequest(images=images))
    images["class_cycle"]["class_ids"].append(0)
    with pytest.raises(InvalidRequest, match=f"at most {most}"):
        read_from(repository, pb.GenerateRequest(images=images))


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
def test_long_list_is_not_walked(generate, images):
    """A list that is too long is refused for its length alone, whatever its elements are."""
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
def test_class_of_unconditional_model_is_unsupported(generate, images):
    """Whichever way it is asked, unless a field is wrong besides."""
    with pytest.raises(ClassUnsupported):
        generate(model="plain", **images)
    assert faults(generate, model="plain", **(images | {"count": 0})) == ["images.count"]


@pytest.mark.parametrize("variant", ["", "reference", "fp32"])
def test_running_variant_may_be_named(generate, stream, variant):
    """By its name or as the reference; a request that names none takes whichever runs."""
    assert (
        generate(variant=variant).image_request.count
        == stream(variant=variant).image_request.count
        == 1
    )


def test_other_variant_is_refused(generate, stream):
    """With what runs and what was asked, but only once the fields are right."""
    for read in (generate, stream):
        with pytest.raises(VariantMismatch) as caught:
            read(variant="int8")
        told = {"model": "tiny", "version": "1", "running": "fp32", "asked": "int8"}
        assert caught.value.metadata == told
        assert faults(read, variant="int8", count=0) == ["images.count"]


@pytest.mark.parametrize("variant", ["auto", "INT8", "-int8", "int8\n", 33 * "v", "i" * 100_000])
def test_malformed_variant_is_a_fault(generate, variant):
    """It is no name that a variant can have."""
    assert faults(generate, variant=variant) == ["images.variant"]


def test_unconditional_model_needs_no_class(generate):
    """Explicit latents then leave nothing to chance."""
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
def test_fault_of_the_output_is_named(generate, request_, fields):
    """Formats, qualities, layouts and columns, for four images."""
    assert faults(generate, request_, count=4) == fields


@pytest.mark.parametrize("quality", [1, 100])
def test_quality_is_read(generate, quality):
    """The whole range; 90 when absent."""
    output = generate(pb.GenerateRequest(output={"format": JPEG, "quality": quality})).output
    assert (output.picture_format, output.quality) == (PictureFormat.JPEG, quality)
    assert generate(pb.GenerateRequest(output={"format": JPEG})).output.quality == 90


def test_sheet_is_read(generate):
    """With its columns, or without."""
    wanted = pb.GenerateRequest(output={"format": PNG}, layout=SHEET, columns=4)
    assert generate(wanted, count=4).columns == 4
    wanted.ClearField("columns")
    call = generate(wanted, count=4)
    assert (call.sheet, call.columns) == (True, None)


def test_sheet_beyond_its_format_is_refused(tmp_path, new_repository):
    """What WebP cannot hold is the caller's fault, not the encoder's failure."""
    write_bundle(tmp_path, "tall", size=(200, 2, 1))
    repository = new_repository(tmp_path)
    wanted = pb.GenerateRequest(
        images={"model": "tall", "count": 82}, output={"format": WEBP}, layout=SHEET, columns=1
    )
    with pytest.raises(InvalidRequest, match="16383 pixels"):
        read_from(repository, wanted)
    wanted.output.format = PNG
    assert read_from(repository, wanted).sheet


def test_every_fault_is_named_at_once(generate):
    """Not the first alone: a caller mends his request in one go."""
    wrong = pb.GenerateRequest(output={"format": JPEG, "quality": 0}, layout=7, columns=3)
    images = {"count": 0, "truncation": 0.5, "class_label": "x", "latents": {"values": [NAN]}}
    named = faults(generate, wrong, **images)
    assert named == [
        "columns",
        "images.class_label",
        "images.count",
        "images.latents.values",
        "images.truncation",
        "layout",
        "output.quality",
    ]
    assert faults(generate, wrong, model="", count=0) == [
        "columns",
        "images.count",
        "images.model",
        "layout",
        "output.quality",
    ]


def test_unknown_model_is_not_found(generate, stream):
    """That is no fault of a field."""
    for read in (generate, stream):
        with pytest.raises(ModelNotFound):
            read(model="nobody")


def test_stream_takes_any_count(stream):
    """Up to the end of the reel; the chunk size is the server's choice."""
    call = stream(count=2**64 - 1, first_index=1)
    assert call.image_request.count == 2**64 - 1
    assert call.chunk_size == 100


@pytest.mark.parametrize("chunk_size", [-1, 0, 101])
def test_chunk_size_out_of_range_is_refused(stream, chunk_size):
    """1 to the model's largest request."""
    assert faults(stream, pb.StreamGenerateRequest(chunk_size=chunk_size)) == ["chunk_size"]
    assert stream(pb.StreamGenerateRequest(chunk_size=100)).chunk_size == 100


def test_streamed_latents_are_limited(stream):
    """Explicit latents are limited as in Generate; every fault is named here too."""
    wrong = pb.StreamGenerateRequest(chunk_size=0, output={"format": 42})
    given = {"class_id": 10, "count": 101, "latents": {"values": [0.0] * 808}}
    assert faults(stream, wrong, **given) == [
        "chunk_size",
        "images.class_id",
        "images.count",
        "output.format",
    ]


@pytest.mark.parametrize(
    ("value", "priority"), [(0, Priority.NORMAL), (1, Priority.NORMAL), (2, Priority.HIGH)]
)
def test_priority_is_read(generate, stream, value, priority):
    """By both calls; NORMAL unless it says otherwise."""
    for image_request in (
        generate(pb.GenerateRequest(priority=value)).image_request,
        stream(pb.StreamGenerateRequest(priority=value)).image_request,
    ):
        assert image_request.make_job(0, 1, INFINITY).priority is priority


def test_unknown_priority_is_refused(generate, stream):
    """A value of a later release is not taken for another."""
    assert faults(generate, pb.GenerateRequest(priority=9)) == ["priority"]
    assert faults(stream, pb.StreamGenerateRequest(priority=9)) == ["priority"]
