"""Collects the violations of one request."""

from imagemint.engine.errors import ImagemintError, InvalidRequest, Violation
from imagemint.v1 import image_pb2

_UINT64_END = 2**64
# A status has room for 8 KB of details, and wrong elements of a list often have the same faults.
_MANY = 8


class Checks:
    """Collects the violations of a request, so that the error lists all of them."""

    def __init__(self) -> None:
        self._found: list[Violation] = []
        self._refusal: ImagemintError | None = None

    @property
    def are_many(self) -> bool:
        """Whether there are enough violations, so that further elements of a list can wait."""
        return len(self._found) >= _MANY

    def fail(self, name: str, description: str) -> None:
        """Records that a field is wrong."""
        self._found.append(Violation(name, description))

    def refuse(self, error: ImagemintError) -> None:
        """Records that a precondition does not hold. The first such error counts."""
        self._refusal = self._refusal or error

    def raise_violations(self) -> None:
        """Raises the recorded violations. A precondition counts only if all fields are valid.

        Raises:
            InvalidRequest: one or more fields are wrong.
            ImagemintError: the fields are valid, and a precondition does not hold.
        """
        if self._found:
            raise InvalidRequest(self._found)
        if self._refusal is not None:
            raise self._refusal

    def check_count(self, images: image_pb2.ImageSpec, most: int | None) -> None:
        """Checks the number of images: 1 to `most`, or 1 or more if `most` is None."""
        if images.count < 1 or (most is not None and images.count > most):
            limit = "1 or more" if most is None else f"1 to {most}"
            hint = "" if most is None or images.count < 1 else "; StreamGenerate takes any number"
            self.fail("images.count", f"{images.count} is not {limit}{hint}")
        if images.first_index + images.count > _UINT64_END:
            self.fail("images.first_index", "first_index + count exceeds 2^64")
