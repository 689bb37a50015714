"""The conditions of a request: rules that determine the class or caption of each image."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from imagemint.engine.captions import Captions
from imagemint.engine.sampling import draw_class, draw_classes
from imagemint.server.batching import Conditions


class Condition(Protocol):
    """The rule that determines what each image of a request shows."""

    def choose(self, seed: int, first_index: int, offset: int, count: int) -> Conditions:
        """Returns the conditions of the images ``offset`` to ``offset + count - 1`` of a request.

        Args:
            seed: the request's seed.
            first_index: index of the request's first image.
            offset: position within the request.
            count: number of images.
        """


class OneClass(NamedTuple):
    """The same class for all images."""

    class_id: int

    def choose(self, seed: int, first_index: int, offset: int, count: int) -> Conditions:
        """Returns the class `count` times."""
        del seed, first_index, offset
        return Conditions([self.class_id] * count)


class ClassPerImage(NamedTuple):
    """A list with the class of each image, by position within the request."""

    class_ids: npt.NDArray[np.int32] | npt.NDArray[np.int64]

    def choose(self, seed: int, first_index: int, offset: int, count: int) -> Conditions:
        """Returns the classes at these positions."""
        del seed, first_index
        return Conditions(self.class_ids[offset : offset + count].tolist())


class ClassCycle(NamedTuple):
    """Classes in turn: the image of index i gets the class at i mod size, in every request."""

    class_ids: npt.NDArray[np.int32]

    def choose(self, seed: int, first_index: int, offset: int, count: int) -> Conditions:
        """Returns the classes of these indices; the cost depends on `count` alone."""
        del seed
        size = len(self.class_ids)
        first = (first_index + offset) % size
        if count == 1:
            return Conditions([int(self.class_ids[first])])
        return Conditions(self.class_ids[np.arange(first, first + count) % size].tolist())


class RandomClasses(NamedTuple):
    """Classes from the seed's class stream, uniform or with given weights."""

    num_classes: int
    weights: Sequence[float] | None = None

    def choose(self, seed: int, first_index: int, offset: int, count: int) -> Conditions:
        """Returns the classes that the seed's class stream gives these indices."""
        first = first_index + offset
        if count == 1 and self.weights is None:
            return Conditions([draw_class(seed, first, self.num_classes)])
        drawn = draw_classes(seed, first, count, self.num_classes, weights=self.weights)
        return Conditions(drawn.tolist())


class OneCaption(NamedTuple):
    """The same caption for all images."""

    caption: str
    """In its normal form."""
    tokens: npt.NDArray[np.int64]
    """Its token ids, int64 [1, max_words]."""

    def choose(self, seed: int, first_index: int, offset: int, count: int) -> Conditions:
        """Returns the caption `count` times."""
        del seed, first_index, offset
        tokens = np.broadcast_to(self.tokens, (count, self.tokens.shape[1]))
        return Conditions(None, [self.caption] * count, tokens)


class CaptionPerImage(NamedTuple):
    """A list with the caption of each image, by position within the request."""

    captions: Sequence[str]
    """In their normal form."""
    tokens: npt.NDArray[np.int64]
    """Their token ids, int64 [N, max_words]."""

    def choose(self, seed: int, first_index: int, offset: int, count: int) -> Conditions:
        """Returns the captions at these positions."""
        del seed, first_index
        part = slice(offset, offset + count)
        return Conditions(None, self.captions[part], self.tokens[part])


class RandomCaptions(NamedTuple):
    """Example captions of the model, drawn from the seed's class stream."""

    known: Captions

    def choose(self, seed: int, first_index: int, offset: int, count: int) -> Conditions:
        """Returns the examples that the seed's class stream gives these indices."""
        examples, first = self.known.examples, first_index + offset
        if count == 1:
            number = draw_class(seed, first, len(examples))
            tokens = self.known.example_tokens[number : number + 1]
            return Conditions(None, [examples[number]], tokens)
        drawn = draw_classes(seed, first, count, len(examples))
        chosen = [examples[number] for number in drawn.tolist()]
        return Conditions(None, chosen, self.known.example_tokens[drawn])
