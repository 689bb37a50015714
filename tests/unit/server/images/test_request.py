"""Orders: which class, which latent and which name each image of a request has."""

import itertools
import math
import tracemalloc

import numpy as np
import pytest
from held_backend import HeldBackend

from imagemint.engine.bundle import read_bundle
from imagemint.engine.sampling import drawn_classes, latents, latents_of
from imagemint.server.images.request import (
    ClassCycle,
    ClassPerImage,
    ImageRequest,
    OneClass,
    RandomClasses,
)
from imagemint.server.repository import ServedVersion

SEED = 2**64 - 3
CONDITIONS = {
    "one": OneClass(7),
    "per image": ClassPerImage(np.arange(23, dtype=np.int32) % 10),
    "cycle": ClassCycle(np.int32([4, 0, 9])),
    "drawn": RandomClasses(10),
    "weighted": RandomClasses(10, [0, 0, 1, 2, 3, 0, 0, 1, 0, 5]),
}


@pytest.fixture(scope="session")
def served(models):
    """The session's models, loaded once: the orders only read their specs."""
    return {
        name: ServedVersion(1, read_bundle(models / name / "1"), HeldBackend(None), None, 100)
        for name in ("tiny", "plain", "bounded", "styled")
    }


@pytest.mark.parametrize("first_index", [0, 5, 2**63, 2**64 - 23])
@pytest.mark.parametrize("name", CONDITIONS)
def test_cuts_change_no_class(name, first_index):
    """The classes of a request are the same in one piece and in any pieces."""
    condition = CONDITIONS[name]
    whole = condition.list_classes(SEED, first_index, 0, 23)
    assert all(type(class_id) is int for class_id in whole)  # what a message takes
    for size in (1, 4, 7, 22):
        pieces = [
            condition.list_classes(SEED, first_index, offset, min(size, 23 - offset))
            for offset in range(0, 23, size)
        ]
        assert list(itertools.chain(*pieces)) == whole


@pytest.mark.parametrize("name", ["one", "cycle", "drawn", "weighted"])
def test_resuming_changes_no_class(name):
    """A request that begins where another broke off continues its classes."""
    condition = CONDITIONS[name]
    first = 2**64 - 23
    whole = condition.list_classes(SEED, first, 0, 23)
    assert condition.list_classes(SEED, first + 10, 0, 13) == whole[10:]


def test_cycle_goes_by_index():
    """The image at index i has the class at i modulo the size, at the reel's end too."""
    cycle = CONDITIONS["cycle"]
    assert cycle.list_classes(SEED, 0, 0, 5) == [4, 0, 9, 4, 0]
    last = 2**64 - 1  # a multiple of 3
    assert cycle.list_classes(SEED, last, 0, 1) == [4]
    assert cycle.list_classes(SEED, last - 1, 0, 1) == [9]
    assert (
        cycle.list_classes(SEED, last - 2, 0, 3)
        == cycle.list_classes(SEED, last - 4, 2, 3)
        == [0, 9, 4]
    )


def test_chunk_costs_what_it_holds():
    """The classes of a small chunk are found without a copy of a long list."""
    many = np.zeros(1_000_000, np.int32)
    tracemalloc.start()
    try:
        for condition in (ClassCycle(many), ClassPerImage(many)):
            assert condition.list_classes(SEED, 2**64 - 1, 0, 1) == [0]
            assert condition.list_classes(SEED, 999_999, 0, 3) == [0] * 3
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_drawn_classes_are_those_of_the_reel():
    """Without a class the engine's class stream decides."""
    expected = drawn_classes(SEED, 2**63 + 4, 6, 10)
    assert CONDITIONS["drawn"].list_classes(SEED, 2**63, 4, 6) == expected.tolist()


def order(served, name="tiny", **changes):
    """An order for 23 images of a model, changed as told."""
    fields = {"seed": SEED, "first_index": 40, "count": 23, "condition": None, "truncation": None}
    return ImageRequest(served[name], **(fields | changes))


def test_job_draws_the_reel(served):
    """A job for a stretch of the order holds the latents of those indices, however it is cut."""
    job = order(served, condition=OneClass(3)).make_job(10, 8, math.inf)
    expected = latents(SEED, 50, 8, 8)
    drawn = latents_of([*job.latents(0, 3), *job.latents(3, 8)], 8)
    assert drawn.tobytes() == expected.tobytes()
    assert job.class_id == [3] * 8
    assert job.truncation is None


def test_last_index_is_reached(served):
    """The image at 2^64 - 1 has a latent and a serial."""
    last = order(served, "plain", first_index=2**64 - 1, count=1)
    assert latents_of(last.make_job(0, 1, math.inf).latents(0, 1), 8).shape == (1, 8)
    assert last.make_serials(0, [None])[0] == f"plain@1/{SEED}/{2**64 - 1}"


def test_threshold_confines_the_latents(served):
    """A model truncated by threshold has it in its latents, not as an input of the graph."""
    job = order(served, "bounded", condition=OneClass(0), truncation=0.5).make_job(0, 23, math.inf)
    drawn = latents_of(job.latents(0, 23), 8)
    assert drawn.tobytes() == latents(SEED, 40, 23, 8, threshold=0.5).tobytes()
    assert job.truncation is None


@pytest.mark.parametrize(("asked", "given"), [(0.0, 0.0), (0.3, 0.3), (None, 1.0)])
def test_psi_goes_into_the_graph(served, asked, given):
    """A model truncated by psi always takes it; absent leaves w where it is, and zero does not."""
    job = order(served, "styled", condition=OneClass(0), truncation=asked).make_job(0, 2, math.inf)
    assert latents_of(job.latents(0, 2), 8).tobytes() == latents(SEED, 40, 2, 8).tobytes()
    assert job.truncation == given


def test_explicit_latents_are_taken_as_they_are(served):
    """They are cut by position and have no serial."""
    given = np.arange(23 * 8, dtype=np.float32).reshape(23, 8)
    explicit = order(served, seed=None, condition=OneClass(2), explicit_latents=given)
    job = explicit.make_job(20, 3, math.inf)
    assert job.latents(1, 3).tolist() == given[21:].tolist()
    assert explicit.make_serials(20, job.class_id) == ["", "", ""]


@pytest.mark.parametrize(
    ("name", "condition", "truncation", "terms"),
    [
        ("tiny", OneClass(7), None, "?class=7"),
        ("plain", None, None, ""),
        ("bounded", OneClass(0), 0.7, "?class=0&truncation=0.7"),
        ("styled", OneClass(1), 0.0, "?class=1&truncation=0.0"),
        ("styled", OneClass(1), None, "?class=1"),
    ],
)
def test_serial_says_what_decides_the_image(served, name, condition, truncation, terms):
    """Class and truncation stand in it only where they apply."""
    asked = order(served, name, condition=condition, truncation=truncation)
    classes = asked.make_job(3, 1, math.inf).class_id or [None]
    assert asked.make_serials(3, classes)[0] == f"{name}@1/{SEED}/43{terms}"
