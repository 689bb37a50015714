"""Sequences: an image that moves, turns and changes its size over a white ground."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imagemint.training.datasets.images import LabelledImages
from imagemint.training.datasets.translations.degradations import Images
from imagemint.training.datasets.translations.forms import SourceForm
from imagemint.training.datasets.translations.pairs import EXAMPLES, Pairs
from imagemint.training.rng import ShuffledOrder, Stream, make_rng

FRAMES = 4
"""Frames of a source."""
LENGTH = 14
"""Frames of a sequence: a source, and ten that follow."""
_WHITE = 255


@dataclass(frozen=True)
class Motion:
    """A steady motion: speed, rate of turning and growth are constant.

    Ranges are uniform, and 0 is in the middle of the sequence, so that the image stays in view.

    Attributes:
        speed: largest speed in each direction, as a share of the image per frame.
        turn: largest rate of turning, in degrees per frame.
        growth: largest change of the size per frame, as a factor minus 1.
        smallest: size in the middle of the sequence, as a share of the image.
        largest: as `smallest`.
        away: largest distance from the middle there, as a share of the image.
        tilt: largest angle there, in degrees.
    """

    speed: float = 0.025
    turn: float = 5.0
    growth: float = 0.02
    smallest: float = 0.55
    largest: float = 0.8
    away: float = 0.1
    tilt: float = 15.0

    def draw(self, rng: np.random.Generator) -> "Path":
        """Returns one path."""
        x, y = rng.uniform(-self.away, self.away, 2).tolist()
        dx, dy = rng.uniform(-self.speed, self.speed, 2).tolist()
        return Path(
            x=x,
            y=y,
            dx=dx,
            dy=dy,
            angle=rng.uniform(-self.tilt, self.tilt),
            turn=rng.uniform(-self.turn, self.turn),
            scale=rng.uniform(self.smallest, self.largest),
            growth=rng.uniform(-self.growth, self.growth),
        )


@dataclass(frozen=True)
class Path:
    """The position of an image in each frame of a sequence.

    Attributes:
        x: place in the middle of the sequence, from the centre to the right, as a share.
        y: likewise, downwards.
        dx: speed to the right, as a share per frame.
        dy: speed downwards.
        angle: in degrees, clockwise, in the middle of the sequence.
        turn: degrees per frame.
        scale: size in the middle of the sequence, as a share.
        growth: change of the size per frame, as a factor minus 1.
    """

    x: float
    y: float
    dx: float
    dy: float
    angle: float
    turn: float
    scale: float
    growth: float

    def render_frame(self, image: Images, number: int) -> Images:
        """Returns a frame uint8 [H, W, C] of an image of the same shape, by bicubic sampling."""
        t = number - (LENGTH - 1) / 2
        height, width = image.shape[:2]
        scale = self.scale * (1 + self.growth) ** t
        angle = np.deg2rad(self.angle + self.turn * t)
        cosine, sine = np.cos(angle) / scale, np.sin(angle) / scale
        to_x = (0.5 + self.x + self.dx * t) * width
        to_y = (0.5 + self.y + self.dy * t) * height
        # Pillow's transform maps pixels of the result to the source.
        inverse = (
            *(cosine, sine, width / 2 - cosine * to_x - sine * to_y),
            *(-sine, cosine, height / 2 + sine * to_x - cosine * to_y),
        )
        gray = image.shape[2] == 1
        picture = Image.fromarray(image[..., 0] if gray else image).transform(
            *((width, height), Image.Transform.AFFINE, inverse, Image.Resampling.BICUBIC),
            fillcolor=_WHITE if gray else (_WHITE,) * 3,
        )
        return np.asarray(picture).reshape(image.shape)


class MovingImages(Pairs):
    """Four frames of a sequence, and the next one.

    Each image moves along its own path of LENGTH frames. A source of training begins anywhere on
    the path, and one of `make_examples` at its start.

    Args:
        task: name of the task.
        data: the images.
        motion: ranges of the paths.
    """

    def __init__(self, task: str, data: LabelledImages, motion: Motion | None = None) -> None:
        height, width, channels = data.images.shape[1:]
        self._motion = motion or Motion()
        super().__init__(
            task,
            data,
            form=SourceForm(height, width, channels, frames=FRAMES),
            target_shape=(height, width, channels),
            parameters=repr(self._motion),
        )
        self._order: tuple[int, ShuffledOrder] | None = None

    def draw(self, seed: int, first: int, count: int) -> tuple[Images, Images]:
        """Returns four frames each, side by side in the channels, and the next ones."""
        if self._order is None or self._order[0] != seed:
            self._order = seed, ShuffledOrder(len(self), seed)
        rows = self._order[1].list_indices(first, count)
        found = []
        for row, position in zip(rows, range(first, first + count), strict=True):
            rng = make_rng(seed, Stream.SOURCES, position)
            path = self._motion.draw(rng)
            found.append(
                self._render_frames(row, path, int(rng.integers(LENGTH - FRAMES)), FRAMES + 1)
            )
        return _split(np.stack(found))

    def make_examples(self, rows: NDArray[np.int64]) -> tuple[Images, Images]:
        """Returns the first four frames of these sequences, and the fifth."""
        return _split(self._render_sequences(rows, FRAMES + 1))

    def roll_out(self, rows: NDArray[np.int64], steps: int = LENGTH - FRAMES) -> Images:
        """Returns the frames after the sources of `make_examples`: uint8 [N, steps, H, W, C]."""
        return self._render_sequences(rows, FRAMES + steps)[:, FRAMES:]

    def _render_sequences(self, rows: NDArray[np.int64], length: int) -> Images:
        paths = [self._motion.draw(make_rng(EXAMPLES, Stream.SOURCES, row)) for row in rows]
        return np.stack(
            [
                self._render_frames(row, path, 0, length)
                for row, path in zip(rows, paths, strict=True)
            ]
        )

    def _render_frames(self, row: int, path: Path, first: int, count: int) -> Images:
        image = self.data.images[row]
        return np.stack([path.render_frame(image, first + number) for number in range(count)])


def _split(frames: Images) -> tuple[Images, Images]:
    """Returns all frames but the last uint8 [N, H, W, F * C], and the last [N, H, W, C]."""
    return np.concatenate(list(frames[:, :-1].swapaxes(0, 1)), axis=3), frames[:, -1]
