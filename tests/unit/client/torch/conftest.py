"""Fixtures: a source of the client tests' server, and one that computes images in the process."""

import dataclasses

import numpy as np
import pytest

from imagemint.client.image_source import ServerSource, SourceIdentity

SEED = 5


@dataclasses.dataclass(frozen=True)
class ComputedImages:
    """Images of a ComputedSource."""

    image: np.ndarray
    class_id: np.ndarray | None
    serials: tuple[str, ...]


class ComputedSource:
    """A source whose pixels are the index, with classes in turn. It records its reads."""

    max_images = 16

    def __init__(self, num_classes=3, channels=1):
        self.identity = SourceIdentity(
            model="counted",
            version="1",
            variant="fp32",
            bundle_sha256="cd" * 32,
            seed=SEED,
            class_labels=tuple(map(str, range(num_classes))),
            image_shape=(4, 6, channels),
        )
        self.reads = []

    def read(self, first_index, count, class_ids=None):
        """Returns the images from `first_index` on."""
        assert 1 <= count <= self.max_images
        self.reads.append((first_index, count))
        index = np.arange(first_index, first_index + count)
        num_classes = len(self.identity.class_labels)
        classes = None
        if num_classes:
            classes = index % num_classes if class_ids is None else np.array(class_ids)
        image = np.empty((count, *self.identity.image_shape), np.uint8)
        image[:] = index[:, None, None, None]
        image.setflags(write=False)
        return ComputedImages(image, classes, tuple(f"counted@1/{SEED}/{each}" for each in index))

    def close(self):
        """Has nothing to close."""


@pytest.fixture
def computed():
    """The class of the computed source."""
    return ComputedSource


@pytest.fixture
def source(address):
    """A source of the server behind `address`."""
    made = ServerSource(address, "tiny", seed=SEED, timeout_s=60)
    yield made
    made.close()
