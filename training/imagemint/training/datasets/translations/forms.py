"""The form of the sources of an image-to-image model."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SourceForm:
    """The form of a source; the message ``imagemint.v1.SourceSpec`` says the same in a bundle.

    Attributes:
        height: in pixels.
        width: in pixels.
        channels: channels of one frame, 1 or 3.
        frames: 1, or the number of frames of a sequence, the oldest first.
        mask: whether a last channel says what is to be filled: 255 there, 0 elsewhere.
        scale: target pixels per source pixel, in each direction.
    """

    height: int
    width: int
    channels: int
    frames: int = 1
    mask: bool = False
    scale: int = 1

    @property
    def depth(self) -> int:
        """All channels of a source: those of the frames side by side, and the mask."""
        return self.frames * self.channels + self.mask

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and depth."""
        return self.height, self.width, self.depth
