"""The violations of one request."""

from imagemint.engine.errors import ImagemintError, InvalidRequest, Violation
from imagemint.v1 import image_pb2

_UINT64_END = 2**64


class Checks:
    """Collects what is wrong with a request, so that every violation is named and not the first."""

    def __init__(self) -> None:
        self._found: list[Violation] = []
        self._refusal: ImagemintError | None = None

    def fail(self, name: str, description: str) -> None:
        """Notes that a field is wrong."""
        self._found.append(Violation(name, description))

    def refuse(self, error: ImagemintError) -> None:
        """Notes that a precondition does not hold. The first such error counts."""
        self._refusal = self._refusal or error

    def done(self) -> None:
        """Raises for what was found; a precondition counts only once the fields are right.

        Raises:
            InvalidRequest: one or more fields are wrong.
            ImagemintError: the fields are right, and a precondition does not hold.
        """
        if self._found:
            raise InvalidRequest(self._found)
        if self._refusal is not None:
            raise self._refusal

    def count(self, images: image_pb2.ImageSpec, most: int | None) -> None:
        """Checks how many images are asked for: 1 to `most`, or any number if that is None."""
        if images.count < 1 or (most is not None and images.count > most):
            limit = "1 or more" if most is None else f"1 to {most}"
            hint = "" if most is None or images.count < 1 else "; StreamGenerate takes any number"
            self.fail("images.count", f"{images.count} is not {limit}{hint}")
        if images.first_index + images.count > _UINT64_END:
            self.fail("images.first_index", "first_index + count exceeds 2^64")
