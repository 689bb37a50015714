"""Parts of a `multipart/form-data` body that is in memory."""

from typing import NamedTuple

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from imagemint.engine.errors import InvalidRequest, Violation

_MOST_PARTS = 1_200
_MOST_HEADER_BYTES = 4_096


class Part(NamedTuple):
    """One part of a form."""

    name: str
    content: bytes


class _Collector:
    """Collects the parts that a parser finds."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.is_complete = False
        self._field = self._value = b""
        self._name: str | None = None
        self._pieces: list[bytes] = []
        self._header_bytes = 0

    def on_part_begin(self) -> None:
        if len(self.parts) == _MOST_PARTS:
            raise _refuse(f"it has more than {_MOST_PARTS} parts")
        self._name, self._pieces, self._header_bytes = None, [], 0

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += self._take_header(data, start, end)

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += self._take_header(data, start, end)

    def _take_header(self, data: bytes, start: int, end: int) -> bytes:
        self._header_bytes += end - start
        if self._header_bytes > _MOST_HEADER_BYTES:
            raise _refuse("a part has too long headers")
        return data[start:end]

    def on_header_end(self) -> None:
        if self._field.lower() == b"content-disposition":
            _, options = parse_options_header(self._value)
            name = options.get(b"name")
            self._name = None if name is None else name.decode("utf-8", "replace")
        self._field = self._value = b""

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._pieces.append(data[start:end])

    def on_part_end(self) -> None:
        if self._name is None:
            raise _refuse("a part has no name")
        self.parts.append(Part(self._name, b"".join(self._pieces)))

    def on_end(self) -> None:
        self.is_complete = True


_EVENTS = (
    *("on_part_begin", "on_part_data", "on_part_end", "on_end"),
    *("on_header_field", "on_header_value", "on_header_end"),
)


def parse_form(body: bytes, content_type: str) -> list[Part]:
    """Returns the parts of a form, in order.

    Args:
        body: the body.
        content_type: its content type, with the boundary.

    Raises:
        InvalidRequest: it is not such a form, or has too many parts.
    """
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if not boundary:
        raise _refuse("its content type has no boundary")
    collector = _Collector()
    callbacks = {name: getattr(collector, name) for name in _EVENTS}
    try:
        parser = MultipartParser(boundary, callbacks)  # type: ignore[arg-type] # a TypedDict of these
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise _refuse(f"it is not a form: {error}") from None
    if not collector.is_complete:
        raise _refuse("its last boundary is missing")
    return collector.parts


def _refuse(why: str) -> InvalidRequest:
    return InvalidRequest([Violation("body", why)])
