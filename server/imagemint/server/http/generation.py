"""GenerationService over HTTP: JSON, streams of JSON lines, and pictures."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, TypeVar, cast

from google.protobuf.message import Message

from imagemint.engine.errors import InvalidRequest, Violation
from imagemint.server.http.exchange import NDJSON, Exchange
from imagemint.server.http.json_messages import encode_json, is_large, parse_json, spell_json_path
from imagemint.server.http.rpcs import Reply
from imagemint.server.rpc.v1.interpolation import PathServicer
from imagemint.v1 import generation_service_pb2 as messages
from imagemint.v1 import image_pb2

SERVICE = "/imagemint.v1.GenerationService"
JSON = "application/json"
SERIAL_HEADER = "imagemint-serial"

LARGE_BYTES = 16 * 2**10
"""Size from which a body is converted on another thread: it takes longer than a millisecond."""

MessageT = TypeVar("MessageT", bound=Message)


class Picture(NamedTuple):
    """An encoding of pictures, with its names."""

    media_type: str
    format: "image_pb2.ImageFormat.ValueType"


PICTURES = {
    "png": Picture("image/png", image_pb2.IMAGE_FORMAT_PNG),
    "jpg": Picture("image/jpeg", image_pb2.IMAGE_FORMAT_JPEG),
    "webp": Picture("image/webp", image_pb2.IMAGE_FORMAT_WEBP),
}
"""Encodings by file name extension."""

PICTURE_TYPES = {each.media_type: each for each in PICTURES.values()}
"""Encodings by media type."""

ANIMATIONS = {
    "image/webp": messages.ANIMATION_FORMAT_WEBP,
    "image/gif": messages.ANIMATION_FORMAT_GIF,
    "image/apng": messages.ANIMATION_FORMAT_APNG,
}
"""Encodings of animations by media type."""


class Generation:
    """Handlers of GenerationService.

    Args:
        servicer: generates the images.
        workers: threads that convert large messages.
    """

    def __init__(self, servicer: PathServicer, workers: ThreadPoolExecutor) -> None:
        self._servicer = servicer
        self._workers = workers

    async def generate(self, exchange: Exchange) -> Reply:
        """Answers `POST /v1/models/{model}:generate` with JSON or, if asked, with one picture."""
        request = await self._read(exchange, messages.GenerateRequest)
        picture = PICTURE_TYPES.get(exchange.choose_media_type((JSON, *PICTURE_TYPES)))
        if picture is not None:
            _ask_for_picture(request, picture)
        response = await self._servicer.Generate(request, cast("Any", exchange.context))
        if picture is not None:
            return Reply(response.batch.pictures[0], make_picture_headers(response.batch, picture))
        headers = {"content-type": JSON, "cache-control": "no-store"}
        if not is_large(response.batch):
            return Reply(encode_json(response), headers)
        loop = asyncio.get_running_loop()
        return Reply(await loop.run_in_executor(self._workers, encode_json, response), headers)

    async def stream(self, exchange: Exchange) -> None:
        """Answers `POST /v1/models/{model}:streamGenerate` with a line of JSON for each chunk."""
        request = await self._read(exchange, messages.StreamGenerateRequest)
        await self._servicer.StreamGenerate(request, cast("Any", exchange.context))

    async def interpolate(self, exchange: Exchange) -> Reply | None:
        """Answers `POST /v1/models/{model}:interpolate` with lines of JSON, or an animation."""
        request = await self._read(exchange, messages.InterpolateRequest)
        prefix = f"{exchange.path['model']}@"
        wrong = [at for at, serial in enumerate(request.serials) if not serial.startswith(prefix)]
        if wrong:
            why = "is not of the model of the path"
            raise InvalidRequest([Violation(f"serials[{at}]", why) for at in wrong])
        media_type = exchange.choose_media_type((NDJSON, *ANIMATIONS))
        if media_type not in ANIMATIONS:
            await self._servicer.Interpolate(request, cast("Any", exchange.context))
            return None
        request.animation.format = ANIMATIONS[media_type]
        collector = _Collector(exchange)
        await self._servicer.Interpolate(request, cast("Any", collector))
        headers = {"content-type": media_type, "cache-control": "no-store"}
        return Reply(collector.responses[0].animation, headers)

    async def _read(self, exchange: Exchange, kind: type[MessageT]) -> MessageT:
        # A page of another origin may send text without asking, but not JSON.
        if exchange.body and exchange.content_type != JSON:
            raise exchange.refuse_content_type((JSON,))
        exchange.spell_field = partial(spell_json_path, kind=kind)
        if len(exchange.body) < LARGE_BYTES:
            request = parse_json(exchange.body, kind)
        else:
            loop = asyncio.get_running_loop()
            request = await loop.run_in_executor(self._workers, parse_json, exchange.body, kind)
        if isinstance(request, messages.GenerateRequest | messages.StreamGenerateRequest):
            set_model(request.images, exchange.path["model"])
        return request


class _Collector:
    """The context of a stream that is answered as a whole."""

    def __init__(self, exchange: Exchange) -> None:
        self._context = exchange.context
        self.responses: list[messages.InterpolateResponse] = []

    def time_remaining(self) -> float | None:
        """Returns the seconds until the deadline; None without a deadline."""
        return self._context.time_remaining()

    async def write(self, response: messages.InterpolateResponse) -> None:
        """Keeps a response."""
        self.responses.append(response)


def make_picture_headers(batch: image_pb2.ImageBatch, picture: Picture) -> dict[str, str]:
    """Returns the headers of an answer that is a picture."""
    headers = {"content-type": picture.media_type, "cache-control": "no-store"}
    if len(batch.images) == 1 and batch.images[0].serial:
        headers[SERIAL_HEADER] = batch.images[0].serial
    return headers


def set_model(images: image_pb2.ImageSpec, model: str) -> None:
    """Sets the model of the path."""
    if images.model and images.model != model:
        raise InvalidRequest([Violation("images.model", "differs from the model of the path")])
    images.model = model


def _ask_for_picture(request: messages.GenerateRequest, picture: Picture) -> None:
    """Sets encoding and layout so that the answer is one picture."""
    wrong = []
    if request.output.format not in (image_pb2.IMAGE_FORMAT_UNSPECIFIED, picture.format):
        wrong.append(Violation("output.format", "differs from the header Accept"))
    if request.layout == image_pb2.IMAGE_LAYOUT_INDIVIDUAL and request.images.count > 1:
        wrong.append(Violation("layout", "several pictures need JSON, or the layout SHEET"))
    if wrong:
        raise InvalidRequest(wrong)
    request.output.format = picture.format
    if request.layout == image_pb2.IMAGE_LAYOUT_UNSPECIFIED and request.images.count > 1:
        request.layout = image_pb2.IMAGE_LAYOUT_SHEET
