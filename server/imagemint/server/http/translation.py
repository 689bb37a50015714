"""Translate over HTTP: a picture, a form, or JSON in; a picture or JSON out."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, cast

from imagemint.engine.errors import InvalidRequest, Violation
from imagemint.server.errors import OriginNotAllowed
from imagemint.server.http.exchange import Exchange
from imagemint.server.http.generation import (
    JSON,
    LARGE_BYTES,
    PICTURE_TYPES,
    SERIAL_HEADER,
    Picture,
    set_model,
)
from imagemint.server.http.json_messages import encode_json, parse_json, spell_json_path
from imagemint.server.http.multipart import parse_form
from imagemint.server.http.origins import is_of_other_origin
from imagemint.server.http.parameters import (
    INT32_MAX,
    Setter,
    parse_choice,
    parse_decimal,
    parse_integer,
    set_parameters,
    spell_parameter,
)
from imagemint.server.http.rpcs import Reply
from imagemint.server.rpc.v1.translation import TranslationServicer
from imagemint.v1 import generation_service_pb2, image_pb2
from imagemint.v1 import translation_service_pb2 as messages

SERVICE = "/imagemint.v1.TranslationService"
FORM = "multipart/form-data"
SOURCE_TYPES = ("image/png", "image/jpeg", "image/webp")
"""Media types of a body that is a picture."""
ANY_BYTES = "application/octet-stream"
"""Media type of a body that is a picture of any kind."""

FITS = {
    "refuse": messages.SOURCE_FIT_REFUSE,
    "crop": messages.SOURCE_FIT_CROP,
    "pad": messages.SOURCE_FIT_PAD,
    "stretch": messages.SOURCE_FIT_STRETCH,
}
"""Values of the option `fit`."""
FORMATS = {
    "raw": image_pb2.IMAGE_FORMAT_RAW,
    "png": image_pb2.IMAGE_FORMAT_PNG,
    "jpeg": image_pb2.IMAGE_FORMAT_JPEG,
    "webp": image_pb2.IMAGE_FORMAT_WEBP,
}
"""Values of the option `format`."""
PRIORITIES = {
    "normal": generation_service_pb2.PRIORITY_NORMAL,
    "high": generation_service_pb2.PRIORITY_HIGH,
}
"""Values of the option `priority`."""
_FILES = ("source", "frame", "mask")


class Translation:
    """The handler of translations.

    Args:
        servicer: translates the sources.
        workers: threads that convert large messages.
        allow_origins: origins whose pages may send forms.
    """

    def __init__(
        self,
        servicer: TranslationServicer,
        workers: ThreadPoolExecutor,
        allow_origins: Sequence[str] = (),
    ) -> None:
        self._servicer = servicer
        self._workers = workers
        self._allow_origins = allow_origins

    async def translate(self, exchange: Exchange) -> Reply:
        """Answers `POST /v1/models/{model}:translate`.

        The body is JSON, one picture, or a form. The answer to a picture, or to a form with one
        source, is a picture of the option `format`, unless the header Accept prefers JSON.
        """
        request, is_json = await self._read(exchange)
        offered = _offer(request, is_json)
        picture = PICTURE_TYPES.get(exchange.choose_media_type(offered))
        if picture is not None:
            _ask_for_picture(request, picture)
        response = await self._servicer.Translate(request, cast("Any", exchange.context))
        if picture is not None:
            (translation,) = response.batch.translations
            headers = {"content-type": picture.media_type, "cache-control": "no-store"}
            if translation.image.serial:
                headers[SERIAL_HEADER] = translation.image.serial
            headers["server-timing"] = _describe_timing(response.timing)
            return Reply(translation.picture, headers)
        loop = asyncio.get_running_loop()
        body = await loop.run_in_executor(self._workers, encode_json, response)
        return Reply(body, {"content-type": JSON, "cache-control": "no-store"})

    async def _read(self, exchange: Exchange) -> tuple[messages.TranslateRequest, bool]:
        """Returns the request, and whether it is JSON."""
        kind = exchange.content_type
        exchange.spell_field = spell_parameter
        match kind:
            case "application/json":
                exchange.spell_field = partial(spell_json_path, kind=messages.TranslateRequest)
                work = partial(parse_json, exchange.body, messages.TranslateRequest)
            case "multipart/form-data":
                # The only body that browsers send for a page of another origin without asking.
                if is_of_other_origin(exchange.headers, self._allow_origins):
                    raise OriginNotAllowed
                work = partial(_read_form, exchange)
            case _ if kind in SOURCE_TYPES or kind == ANY_BYTES:
                work = partial(_read_picture, exchange)
            case _:
                raise exchange.refuse_content_type((JSON, FORM, *SOURCE_TYPES, ANY_BYTES))
        if len(exchange.body) < LARGE_BYTES:
            request = work()
        else:
            request = await asyncio.get_running_loop().run_in_executor(self._workers, work)
        set_model(request.images, exchange.path["model"])
        return request, kind == JSON


def _offer(request: messages.TranslateRequest, is_json: bool) -> list[str]:
    """Returns the media types of the answer, the one for callers without a preference first."""
    output_format = request.output.format
    if is_json or len(request.sources) != 1 or output_format == image_pb2.IMAGE_FORMAT_RAW:
        return [JSON, *PICTURE_TYPES]
    pictures = sorted(PICTURE_TYPES, key=lambda kind: PICTURE_TYPES[kind].format != output_format)
    return [*pictures, JSON]


def _describe_timing(timing: image_pb2.Timing) -> str:
    """Returns where the time went in the form of the header Server-Timing."""
    times = {name.name: value.ToTimedelta() for name, value in timing.ListFields()}
    return ", ".join(f"{name};dur={1e3 * time.total_seconds():.3f}" for name, time in times.items())


def _ask_for_picture(request: messages.TranslateRequest, picture: Picture) -> None:
    """Sets the encoding of the one result.

    Raises:
        InvalidRequest: there are several results, or the request asks for another encoding.
    """
    wrong = []
    if request.output.format not in (image_pb2.IMAGE_FORMAT_UNSPECIFIED, picture.format):
        wrong.append(Violation("output.format", "differs from the header Accept"))
    if len(request.sources) > 1:
        wrong.append(Violation("sources", "several results need JSON: accept application/json"))
    if wrong:
        raise InvalidRequest(wrong)
    request.output.format = picture.format


def _read_picture(exchange: Exchange) -> messages.TranslateRequest:
    """Returns the request of a body that is a picture; the query has the options."""
    request = messages.TranslateRequest()
    request.sources.add().encoded.pictures.append(exchange.body)
    _set_options(request, list(exchange.query.multi_items()))
    return request


def _read_form(exchange: Exchange) -> messages.TranslateRequest:
    """Returns the request of a form.

    Each part `source` is a source. Parts `frame` are the frames of one source, in order. A part
    `mask` belongs to the only source. Other parts are options, like those of the query.
    """
    request = messages.TranslateRequest()
    options = list(exchange.query.multi_items())
    frames: list[bytes] = []
    masks: list[bytes] = []
    for name, content in parse_form(exchange.body, exchange.headers["content-type"]):
        if name == "source":
            request.sources.add().encoded.pictures.append(content)
        elif name == "frame":
            frames.append(content)
        elif name == "mask":
            masks.append(content)
        else:
            options.append((name, content.decode("utf-8", "replace")))
    if frames:
        request.sources.add().encoded.pictures.extend(frames)
    if masks:
        if len(masks) > 1 or len(request.sources) != 1:
            raise InvalidRequest([Violation("mask", "one mask belongs to one source")])
        request.sources[0].encoded.mask = masks[0]
    _set_options(request, options, files=_FILES)
    return request


def _set_options(
    request: messages.TranslateRequest, options: list[tuple[str, str]], files: Sequence[str] = ()
) -> None:
    """Sets options from texts.

    Args:
        request: the request.
        options: names and texts.
        files: names of the parts that are pictures, for the error of an unknown name.

    Raises:
        InvalidRequest: options are unknown, given twice, or not in their range.
    """
    spec, output = request.images, request.output
    setters: dict[str, Setter] = {
        "version": lambda text: setattr(spec, "version", text),
        "variant": lambda text: setattr(spec, "variant", text),
        "seed": lambda text: setattr(spec, "seed", parse_integer(text)),
        "index": lambda text: setattr(spec, "first_index", parse_integer(text)),
        "class": lambda text: _set_class(spec, text),
        "caption": lambda text: setattr(spec, "caption", text),
        "truncation": lambda text: setattr(spec, "truncation", parse_decimal(text)),
        "format": lambda text: setattr(output, "format", parse_choice(text, FORMATS)),
        "quality": lambda text: setattr(output, "quality", parse_integer(text, INT32_MAX)),
        "fit": lambda text: setattr(request, "fit", parse_choice(text, FITS)),
        "priority": lambda text: setattr(request, "priority", parse_choice(text, PRIORITIES)),
    }
    set_parameters(options, setters, others=files)


def _set_class(spec: image_pb2.ImageSpec, text: str) -> None:
    """Sets a class by index, if the text has digits only, or by label."""
    if text.isascii() and text.isdigit() and len(text) < len(str(INT32_MAX)):
        spec.class_id = int(text)
    else:
        spec.class_label = text
