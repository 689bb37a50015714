"""Tests of imagemint.server.images.request: class, latent and serial of each image of a request."""

import itertools
import math
import tracemalloc

import numpy as np
import pytest
from held_backend import HeldBackend
from tiny_bundles import EXAMPLES, MAX_WORDS

from imagemint.engine.bundle import read_bundle
from imagemint.engine.sampling import Run, cut_runs, draw_classes, draw_latents, draw_run_latents
from imagemint.server.images.conditions import (
    CaptionPerImage,
    ClassCycle,
    ClassPerImage,
    OneCaption,
    OneClass,
    RandomCaptions,
    RandomClasses,
)
from imagemint.server.images.request import ImageRequest
from imagemint.server.repository import ServedVersion

SEED = 2**64 - 3
TOKENS = np.ones((1, MAX_WORDS), np.int64)
CONDITIONS = {
    "one": OneClass(7),
    "per image": ClassPerImage(np.arange(23, dtype=np.int32) % 10),
    "cycle": ClassCycle(np.int32([4, 0, 9])),
    "drawn": RandomClasses(10),
    "weighted": RandomClasses(10, [0, 0, 1, 2, 3, 0, 0, 1, 0, 5]),
}


@pytest.fixture(scope="session")
def served(models):
    """The models of the session, loaded once, because requests only read their specs."""
    return {
        name: ServedVersion(1, read_bundle(models / name / "1"), HeldBackend(None), None, 100)
        for name in ("tiny", "plain", "bounded", "styled", "people")
    }


@pytest.mark.parametrize("first_index", [0, 5, 2**63, 2**64 - 23])
@pytest.mark.parametrize("name", CONDITIONS)
def test_parts_have_the_classes_of_the_whole(name, first_index):
    """The classes of a request do not depend on how it is split."""
    condition = CONDITIONS[name]
    whole = condition.choose(SEED, first_index, 0, 23).class_id
    assert all(type(class_id) is int for class_id in whole)  # as messages require it
    for size in (1, 4, 7, 22):
        pieces = [
            condition.choose(SEED, first_index, offset, min(size, 23 - offset)).class_id
            for offset in range(0, 23, size)
        ]
        assert list(itertools.chain(*pieces)) == whole


@pytest.mark.parametrize("name", ["one", "cycle", "drawn", "weighted"])
def test_resumed_request_continues_its_classes(name):
    """A request that starts where another one stopped continues its classes."""
    condition = CONDITIONS[name]
    first = 2**64 - 23
    whole = condition.choose(SEED, first, 0, 23).class_id
    assert condition.choose(SEED, first + 10, 0, 13).class_id == whole[10:]


def test_cycle_follows_the_index():
    """The image at index i has the class at i modulo the size, also at the last index."""
    cycle = CONDITIONS["cycle"]
    assert cycle.choose(SEED, 0, 0, 5).class_id == [4, 0, 9, 4, 0]
    last = 2**64 - 1  # a multiple of 3
    assert cycle.choose(SEED, last, 0, 1).class_id == [4]
    assert cycle.choose(SEED, last - 1, 0, 1).class_id == [9]
    assert (
        cycle.choose(SEED, last - 2, 0, 3).class_id
        == cycle.choose(SEED, last - 4, 2, 3).class_id
        == [0, 9, 4]
    )


def test_small_part_does_not_copy_a_long_list():
    """The classes of a small part are selected without a copy of a long list."""
    many = np.zeros(1_000_000, np.int32)
    tracemalloc.start()
    try:
        for condition in (ClassCycle(many), ClassPerImage(many)):
            assert condition.choose(SEED, 2**64 - 1, 0, 1).class_id == [0]
            assert condition.choose(SEED, 999_999, 0, 3).class_id == [0] * 3
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_drawn_classes_follow_the_seed():
    """Without a condition the engine's class stream gives the class."""
    expected = draw_classes(SEED, 2**63 + 4, 6, 10)
    assert CONDITIONS["drawn"].choose(SEED, 2**63, 4, 6).class_id == expected.tolist()


def make_request(served, name="tiny", *, first_index=40, count=23, threshold=None, **changes):
    """Returns a request for `count` images of the seed."""
    run = Run(SEED, first_index, count, threshold)
    return ImageRequest(served[name], count, changes.pop("latents", (run,)), **changes)


def make_serials(request, offset, count):
    """Returns the serials of a part of a request."""
    conditions = request.make_job(offset, count, math.inf).conditions
    return request.make_serials(offset, count, conditions)


def test_job_has_the_latents_of_its_indices(served):
    """A job for a part of a request has the latents of its indices, however it is split."""
    job = make_request(served, condition=OneClass(3)).make_job(10, 8, math.inf)
    expected = draw_latents(SEED, 50, 8, 8)
    drawn = draw_run_latents([*cut_runs(job.latents, 0, 3), *cut_runs(job.latents, 3, 8)], 8)
    assert drawn.tobytes() == expected.tobytes()
    assert job.conditions.class_id == [3] * 8
    assert job.psi is None


def test_last_index_is_supported(served):
    """The image at 2^64 - 1 has a latent and a serial."""
    last = make_request(served, "plain", first_index=2**64 - 1, count=1)
    assert draw_run_latents(last.make_job(0, 1, math.inf).latents, 8).shape == (1, 8)
    assert make_serials(last, 0, 1) == [f"plain@1/{SEED}/{2**64 - 1}"]


def test_threshold_applies_to_the_latents(served):
    """A model with a threshold has it in its latents and not as an input of the graph."""
    request = make_request(served, "bounded", condition=OneClass(0), truncation=0.5, threshold=0.5)
    job = request.make_job(0, 23, math.inf)
    drawn = draw_run_latents(job.latents, 8)
    assert drawn.tobytes() == draw_latents(SEED, 40, 23, 8, threshold=0.5).tobytes()
    assert job.psi is None


@pytest.mark.parametrize(("asked", "given"), [(0.0, 0.0), (0.3, 0.3), (None, 1.0)])
def test_psi_is_an_input_of_the_graph(served, asked, given):
    """A model with psi always takes it. The default is 1, which differs from 0."""
    job = make_request(served, "styled", condition=OneClass(0), truncation=asked).make_job(
        0, 2, math.inf
    )
    assert draw_run_latents(job.latents, 8).tobytes() == draw_latents(SEED, 40, 2, 8).tobytes()
    assert job.psi == given


def test_explicit_latents_are_used_unchanged(served):
    """Explicit latents are selected by position and have no serial."""
    given = np.arange(23 * 8, dtype=np.float32).reshape(23, 8)
    explicit = make_request(served, condition=OneClass(2), latents=given)
    job = explicit.make_job(20, 3, math.inf)
    assert job.latents.tolist() == given[20:].tolist()
    assert make_serials(explicit, 20, 3) == ["", "", ""]


@pytest.mark.parametrize(
    ("name", "condition", "truncation", "terms"),
    [
        ("tiny", OneClass(7), None, "?class=7"),
        ("plain", None, None, ""),
        ("bounded", OneClass(0), 0.7, "?class=0&truncation=0.7"),
        ("styled", OneClass(1), 0.0, "?class=1&truncation=0.0"),
        ("styled", OneClass(1), None, "?class=1"),
        ("people", OneCaption("red hair", TOKENS), 0.5, "?caption=red%20hair&truncation=0.5"),
    ],
)
def test_serial_has_the_condition_and_truncation(served, name, condition, truncation, terms):
    """Class, caption and truncation are part of a serial only if they apply."""
    asked = make_request(served, name, condition=condition, truncation=truncation)
    assert make_serials(asked, 3, 1) == [f"{name}@1/{SEED}/43{terms}"]


def test_images_have_their_own_seeds_and_truncations(served):
    """Images of several seeds can be split anywhere, and each keeps its serial."""
    runs = (Run(5, 9, 2, 0.5), Run(6, 2**64 - 1, 1, 2.0))
    classes = ClassPerImage(np.int64([0, 1, 2]))
    rows = ImageRequest(served["bounded"], 3, runs, classes, [0.5, 0.5, 2.0])
    expected = [
        "bounded@1/5/9?class=0&truncation=0.5",
        "bounded@1/5/10?class=1&truncation=0.5",
        f"bounded@1/6/{2**64 - 1}?class=2&truncation=2.0",
    ]
    assert make_serials(rows, 0, 3) == expected
    assert make_serials(rows, 1, 2) == expected[1:]
    assert rows.make_job(1, 2, math.inf).latents == [Run(5, 10, 1, 0.5), runs[1]]


@pytest.mark.parametrize("first_index", [0, 5, 2**63, 2**64 - 23])
@pytest.mark.parametrize("name", ["one", "per image", "drawn"])
def test_parts_have_the_captions_of_the_whole(served, name, first_index):
    """Captions and their token ids do not depend on how a request is split."""
    known = served["people"].spec.captions
    each = [EXAMPLES[row % 3] for row in range(23)]
    condition = {
        "one": OneCaption(EXAMPLES[0], known.encode(EXAMPLES[:1])),
        "per image": CaptionPerImage(each, known.encode(each)),
        "drawn": RandomCaptions(known),
    }[name]
    whole = condition.choose(SEED, first_index, 0, 23)
    assert whole.class_id is None
    assert np.array_equal(whole.tokens, known.encode(whole.captions))
    for size in (1, 4, 22):
        for offset in range(0, 23, size):
            count = min(size, 23 - offset)
            part = condition.choose(SEED, first_index, offset, count)
            assert list(part.captions) == list(whole.captions[offset : offset + count])
            assert np.array_equal(part.tokens, whole.tokens[offset : offset + count])


def test_drawn_captions_follow_the_seed(served):
    """The example caption of an image comes from its own word of the class stream."""
    drawn = RandomCaptions(served["people"].spec.captions).choose(SEED, 2**63, 4, 6)
    expected = draw_classes(SEED, 2**63 + 4, 6, len(EXAMPLES))
    assert drawn.captions == [EXAMPLES[number] for number in expected]
