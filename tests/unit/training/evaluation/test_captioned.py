"""Tests of imagemint.training.evaluation.captioned on people whose pixels are their codes."""

import numpy as np
import pytest
from scipy.special import log_softmax

from imagemint.training.datasets.avatar_wordings import CAPTIONS, READ
from imagemint.training.datasets.avatars import STYLES, VALUES
from imagemint.training.datasets.images import Attribute, LabelledImages
from imagemint.training.errors import DatasetError
from imagemint.training.evaluation.captioned import draw_images, measure_captions
from imagemint.training.evaluation.extractors import Extracted, Judge
from imagemint.training.evaluation.sources import LatentSource

COUNT = 120


class Reader(Judge):
    """A judge that reads the codes from the first row of pixels."""

    attribute_names = frozenset(VALUES)

    def __init__(self):
        """Loads nothing."""

    def extract(self, images):
        """Returns the head of each image."""
        return Extracted(
            images[:, 0, :1, 0] * 1.0, log_softmax(np.eye(10)[images[:, 0, 0, 0]], axis=1)
        )

    def predict_attributes(self, images):
        """Returns the attributes."""
        return {name: images[:, 0, k, 0].astype(np.int64) for k, name in enumerate(VALUES, start=1)}


class Painter(LatentSource):
    """A source that returns the people of a split in order, or their neighbours."""

    name, captions, num_classes = "painter", CAPTIONS, 0

    def __init__(self, images, shift=0):
        """Takes the pictures of the split."""
        self.images, self.shift, self.asked = images, shift, []

    def draw_captions(self, seed, first, texts):
        """Returns as many pictures as there are texts."""
        self.asked.append((seed, first, [*texts]))
        return self.images[(np.arange(len(texts)) + self.shift) % len(self.images)]


@pytest.fixture
def people():
    """People whose first twelve pixels are the head and the attributes."""
    rng = np.random.Generator(np.random.Philox(7))
    codes = np.stack([rng.integers(len(values), size=COUNT) for values in READ.values()], axis=1)
    images = np.zeros((COUNT, 4, 12, 3), np.uint8)
    images[:, 0, :, :] = codes[:, :, np.newaxis]
    attributes = tuple(
        Attribute(name, values, codes[:, k]) for k, (name, values) in enumerate(VALUES.items(), 1)
    )
    texts = ("a person with pale skin", *["a person"] * (COUNT - 1))
    return LabelledImages(
        *("avatars64/test", images, codes[:, 0], tuple(STYLES), "0" * 64),
        texts=texts,
        attributes=attributes,
    )


def test_images_that_follow_captions_are_correct(people):
    """Images of the people of the captions have accuracy 1 in every wording."""
    found = {it.metric: it for it in measure_captions(Painter(people.images), Reader(), people, 3)}
    for metric in ("caption_accuracy", "caption_accuracy_other_order", "caption_accuracy_parts"):
        assert found[metric].value == found[metric].reference == 1
        assert "skin 1.000" in found[metric].detail
        assert "eyes" not in found[metric].detail
    assert 0.5 < found["open_attribute_variety"].reference < 1


def test_images_of_other_people_are_wrong(people):
    """Images of the neighbours match a caption only by chance."""
    found = [*measure_captions(Painter(people.images, shift=1), Reader(), people, 0)]
    assert found[0].value < 0.3
    assert found[0].reference == 1


def test_equal_images_have_no_variety(people):
    """If all images of a caption are equal, the open attributes do not vary."""
    one = np.repeat(people.images[:1], COUNT, axis=0)
    found = {it.metric: it.value for it in measure_captions(Painter(one), Reader(), people, 0)}
    assert found["open_attribute_variety"] == 0


def test_captions_and_attributes_are_required(people):
    """Models without captions and data without attributes have none of these metrics."""
    painter = Painter(people.images)
    assert not [*measure_captions(painter, None, people, 0)]
    painter.captions = None
    assert not [*measure_captions(painter, Reader(), people, 0)]


def test_captions_of_the_test_split_are_drawn(people):
    """Images are drawn for the captions in turn, and the heads of their people are the classes."""
    painter = Painter(people.images)
    images, classes = draw_images(painter, people, 5, COUNT + 1)
    assert len(images) == COUNT + 1
    assert classes.tolist() == [*people.labels, people.labels[0]]
    assert painter.asked == [(5, 0, [*people.texts, people.texts[0]])]


def test_unknown_words_are_refused():
    """The error names the caption that the source does not understand."""
    source = Painter(np.zeros((1, 4, 4, 3), np.uint8))
    with pytest.raises(DatasetError, match="'purple'"):
        LatentSource.draw_captions(source, 0, 0, ["a person with purple hair"])
