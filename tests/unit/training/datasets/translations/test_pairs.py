"""Tests of the data sets of image-to-image models: pairs, unpaired images, and the tasks."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from imagemint.training import datasets
from imagemint.training.datasets.images import Attribute, LabelledImages
from imagemint.training.datasets.pictures import Shape, reshape_images
from imagemint.training.datasets.translations import (
    DegradedImages,
    MovingImages,
    SourceForm,
    UnpairedImages,
    load_pairs,
    tasks,
)
from imagemint.training.datasets.translations.degradations import Degradation, Edges, MotionBlur
from imagemint.training.datasets.translations.motion import Path
from imagemint.training.errors import DatasetError

WORN = np.array([0, 2, 3, 7, 8])


@pytest.fixture
def people():
    """Returns ten images, five of them with glasses."""
    rng = np.random.Generator(np.random.Philox(key=[1, 0]))
    images = rng.integers(0, 256, (10, 64, 64, 3)).astype(np.uint8)
    codes = np.zeros(10, np.int64)
    codes[WORN] = 1
    glasses = Attribute("accessories", ("none", "round"), codes)
    labels = np.arange(10) % 2
    return LabelledImages(
        *("avatars64/train", images, labels, ("a", "b"), "12ab"), attributes=(glasses,)
    )


def pairs_of(people):
    """Returns one data set of each kind."""
    bare = np.zeros((len(WORN), 64, 64, 3), np.uint8)
    without = np.setdiff1d(np.arange(10), WORN)
    return {
        "paired": DegradedImages("motion-blur", people, MotionBlur()),
        "sequence": MovingImages("frames", people),
        "unpaired": UnpairedImages("glasses", people, WORN, without, bare),
    }


def test_two_classes_are_unpaired(people, monkeypatch):
    """`glasses` of data without glasses is `classes`: from the first class to the second."""
    data = replace(people, name="animals/train", attributes=())
    monkeypatch.setitem(datasets.DATASETS, "animals", lambda split, _: data)
    pairs = load_pairs("glasses", "train", dataset="animals")
    assert (pairs.task, pairs.name) == ("classes", "classes of animals/train")
    assert (pairs.paired, pairs.has_truth) == (False, False)
    assert np.array_equal(pairs.data.images, people.images[::2])
    sources, targets = pairs.make_examples(np.array([4, 1]))
    assert np.array_equal(sources, people.images[[8, 2]])
    assert np.array_equal(targets, people.images[[9, 3]])
    assert load_pairs("classes", "train", dataset="animals").sha256 == pairs.sha256


def test_halves_of_pictures_are_pairs(people, monkeypatch):
    """Source and target stand side by side; --size is that of a half."""
    data = replace(people, name="maps/train", attributes=())
    monkeypatch.setitem(datasets.DATASETS, "maps", lambda split, _: data)
    there, back = (
        load_pairs(task, "train", dataset="maps") for task in ("left-to-right", "right-to-left")
    )
    assert there.form.shape == there.target_shape == (64, 32, 3)
    sources, targets = there.draw(3, 5, 4)
    drawn = back.draw(3, 5, 4)
    assert np.array_equal(sources, drawn[1])
    assert np.array_equal(targets, drawn[0])
    rows = np.array([1, 7])
    made = np.concatenate(there.make_examples(rows), axis=2)
    assert np.array_equal(made, people.images[rows])
    small = load_pairs("left-to-right", "train", dataset="maps", size=16)
    assert small.form.shape == (16, 16, 3)
    left = reshape_images(np.ascontiguousarray(people.images[rows, :, :32]), Shape(16))
    assert np.array_equal(small.make_examples(rows)[0], left)
    assert len({each.sha256 for each in (there, back, small)}) == 3


def test_halves_need_an_even_width(people, monkeypatch):
    """An odd width has no halves."""
    images = np.ascontiguousarray(people.images[:, :, :63])
    odd = replace(people, images=images, attributes=())
    monkeypatch.setitem(datasets.DATASETS, "maps", lambda split, _: odd)
    for size in (None, 16):
        with pytest.raises(DatasetError, match="63 pixels wide"):
            load_pairs("left-to-right", "train", dataset="maps", size=size)


def test_digest_of_an_own_degradation(people):
    """It depends on the parameters. A class whose `repr` has an address is refused."""

    class Plain(Degradation):
        def compute_source_form(self, height, width, channels):
            return SourceForm(height, width, channels)

        def __call__(self, images, seed, indices):
            return images

    @dataclass(frozen=True)
    class Noise(Plain):
        spread: float = 20.0

    with pytest.raises(DatasetError, match="Plain has no repr of its parameters"):
        DegradedImages("own", people, Plain())
    digests = [DegradedImages("own", people, each).sha256 for each in (Noise(), Noise(), Noise(5))]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("kind", ["paired", "sequence", "unpaired"])
def test_draws_are_functions_of_the_position(people, kind):
    """A resumed run, or one with other batches, gets the same pairs."""
    once = pairs_of(people)[kind].draw(3, 0, 24)
    pairs = pairs_of(people)[kind]
    pairs.draw(4, 0, 5)
    parts = [pairs.draw(3, first, 8) for first in (16, 0, 8)]
    for which in range(2):
        again = np.concatenate([parts[i][which] for i in (1, 2, 0)])
        assert np.array_equal(again, once[which])
    assert not np.array_equal(once[1], pairs.draw(4, 0, 24)[1])


def test_epochs_show_every_image_anew(people):
    """Each epoch has every target once, in another order and with another degradation."""
    pairs = pairs_of(people)["paired"]
    (first_sources, first), (second_sources, second) = (pairs.draw(0, at, 10) for at in (0, 10))
    rows = [
        [int((people.images == y).all(axis=(1, 2, 3)).argmax()) for y in e] for e in (first, second)
    ]
    assert sorted(rows[0]) == sorted(rows[1]) == list(range(10))
    assert rows[0] != rows[1]
    row = rows[0][0]
    assert not np.array_equal(first_sources[0], second_sources[rows[1].index(row)])


def test_examples_are_fixed(people):
    """A row always has the same source and its own target, after any other draws."""
    pairs = pairs_of(people)["paired"]
    sources, targets = pairs.make_examples(np.array([4, 1]))
    pairs.draw(0, 0, 3)
    again, _ = pairs.make_examples(np.array([1]))
    assert np.array_equal(sources[1], again[0])
    assert np.array_equal(targets, people.images[[4, 1]])


def test_unpaired_images_meet_at_random(people):
    """Sources have glasses, targets have none, and the combinations differ between epochs."""
    pairs = pairs_of(people)["unpaired"]
    assert not pairs.paired
    assert len(pairs) == 5
    met = set()
    for epoch in range(4):
        sources, targets = pairs.draw(0, 5 * epoch, 5)
        for x, y in zip(sources, targets, strict=True):
            row, other = (
                int((people.images == image).all(axis=(1, 2, 3)).argmax()) for image in (x, y)
            )
            assert row in WORN
            assert other not in WORN
            met.add((row, other))
    assert len(met) > 10
    _, truth = pairs.make_examples(np.array([0, 1]))
    assert (truth == 0).all()


def test_sequences_go_on(people):
    """Source, target and the frames that follow are one sequence."""
    pairs = pairs_of(people)["sequence"]
    assert (pairs.form.frames, pairs.form.depth) == (4, 12)
    rows = np.array([6, 2])
    sources, targets = pairs.make_examples(rows)
    further = pairs.roll_out(rows, 10)
    assert further.shape == (2, 10, 64, 64, 3)
    assert np.array_equal(further[:, 0], targets)
    frames = np.concatenate([np.stack(np.split(sources[0], 4, axis=2)), further[0]])
    assert len(np.unique(frames, axis=0)) == 14


def test_motion_is_steady():
    """A block moves with the speed of its path, and grows at its rate."""
    image = np.full((64, 64, 1), 255, np.uint8)
    image[24:40, 24:40] = 0
    path = Path(x=0, y=0, dx=1 / 32, dy=0, angle=0, turn=0, scale=1, growth=0)
    frames = np.stack([path.render_frame(image, number)[..., 0] for number in range(14)])
    inked = 255.0 - frames
    centres = (inked * np.arange(64)).sum(axis=(1, 2)) / inked.sum(axis=(1, 2))
    assert np.diff(centres) == pytest.approx(2, abs=0.05)
    grown = replace(path, dx=0, growth=0.05)
    areas = [float((255.0 - grown.render_frame(image, number)).sum()) for number in (5, 9)]
    assert areas[1] / areas[0] == pytest.approx(1.05**8, rel=0.03)
    turned = replace(path, dx=0, turn=90 / 13, angle=0)
    assert np.array_equal(turned.render_frame(image, 0), turned.render_frame(image, 13)[::-1, :, :])


def test_digest_tells_data_and_task_apart(people):
    """Another task, parameter or data set has another digest."""
    changed = LabelledImages("avatars64/train", people.images, people.labels, ("a", "b"), "34cd")
    found = [
        DegradedImages("edges", people, Edges()),
        DegradedImages("edges", people, Edges(threshold=30)),
        DegradedImages("edges", changed, Edges()),
        *pairs_of(people).values(),
    ]
    assert len({each.sha256 for each in found}) == len(found)
    assert found[0].sha256 == DegradedImages("edges", people, Edges()).sha256


def test_tasks_are_loaded_by_name(people, monkeypatch):
    """Tasks accept suitable images; only people without glasses get holes."""
    monkeypatch.setitem(datasets.DATASETS, "avatars64", lambda *_: people)
    bare = np.zeros((len(WORN), 64, 64, 3), np.uint8)
    monkeypatch.setattr(tasks.avatars, "load_bare", lambda *_: (WORN, bare))
    found = {task: load_pairs(task, "train") for task in tasks.TASKS}
    assert found["edges"].name == "edges of avatars64/train"
    assert len(found["holes"]) == 5
    assert np.array_equal(found["glasses-mask"].data.images, people.images[WORN])
    assert (found["glasses-mask"].make_examples(np.array([0]))[1] == 0).all()
    assert found["low-resolution"].form.shape == (16, 16, 3)


def test_unknown_task_is_refused():
    """The error names the tasks that exist."""
    with pytest.raises(DatasetError, match="edges, gray"):
        load_pairs("upside-down", "train")


@pytest.mark.usefixtures("toy_mnist")
def test_glasses_need_people():
    """Digits have no glasses, and more than two classes."""
    with pytest.raises(DatasetError, match="avatars64"):
        load_pairs("glasses-mask", "train", dataset="mnist")
    with pytest.raises(DatasetError, match="has 10: use a data set of two classes"):
        load_pairs("glasses", "train", dataset="mnist")


@pytest.mark.usefixtures("toy_mnist")
def test_gray_images_have_drawings_and_holes():
    """Data sets of gray images are suitable for tasks without colours."""
    assert load_pairs("edges", "train", dataset="mnist").form.shape == (28, 28, 1)
    assert load_pairs("holes", "train", dataset="mnist").form.shape == (28, 28, 2)
