"""Serves images by URL. Their bytes never change, so browsers and proxies can cache them."""

from importlib.metadata import version
from typing import Any, cast

from google.protobuf import json_format

from imagemint.engine.errors import quote
from imagemint.server.access.caller import current_caller
from imagemint.server.http.entity_tags import NOT_MODIFIED, make_etag
from imagemint.server.http.exchange import Exchange
from imagemint.server.http.generation import PICTURES, make_picture_headers
from imagemint.server.http.models import resolve_allowed
from imagemint.server.http.parameters import (
    INT32_MAX,
    Setter,
    parse_decimal,
    parse_integer,
    set_parameters,
    spell_parameter,
)
from imagemint.server.http.rpcs import Reply
from imagemint.server.repository import ModelRepository, ServedVersion
from imagemint.server.rpc.v1.generation import GenerationServicer
from imagemint.v1 import generation_service_pb2 as messages
from imagemint.v1 import image_pb2

_FOREVER = "max-age=31536000, immutable"
# The encoders of another release may write other bytes for the same pixels.
_ENCODERS = f"imagemint {version('imagemint')}, Pillow {version('pillow')}"
_REFERENCE = "reference"


class Images:
    """The handler of image URLs.

    Args:
        servicer: generates the images.
        repository: the models.
    """

    def __init__(self, servicer: GenerationServicer, repository: ModelRepository) -> None:
        self._servicer = servicer
        self._repository = repository

    async def get(self, exchange: Exchange) -> Reply:
        """Answers `GET /v1/models/{model}/versions/{version}/images/{seed}/{index}.{extension}`."""
        exchange.spell_field = spell_parameter
        picture = PICTURES[exchange.path["extension"]]
        request = _read_request(exchange)
        request.output.format = picture.format
        served = resolve_allowed(self._repository, request.images.model, request.images.version)
        headers = {"etag": _make_etag(served, request), **_make_cache_headers()}
        if exchange.has_copy(headers["etag"]):
            return Reply(b"", headers, NOT_MODIFIED)
        response = await self._servicer.Generate(request, cast("Any", exchange.context))
        headers = make_picture_headers(response.batch, picture) | headers
        return Reply(response.batch.pictures[0], headers)


def _read_request(exchange: Exchange) -> messages.GenerateRequest:
    """Returns the request that a URL describes.

    A URL without a variant refers to the reference, as a serial does.

    Raises:
        InvalidRequest: parts of the URL are wrong; the error lists all of them.
    """
    path, query = exchange.path, exchange.query
    images = image_pb2.ImageSpec(
        model=path["model"],
        version=path["version"],
        variant=_REFERENCE,
        count=1,
    )
    request = messages.GenerateRequest(images=images)
    spec = request.images
    setters: dict[str, Setter] = {
        "class": lambda text: setattr(spec, "class_id", _parse_class(text)),
        "caption": lambda text: setattr(spec, "caption", text),
        "truncation": lambda text: setattr(spec, "truncation", parse_decimal(text)),
        "quality": lambda text: setattr(request.output, "quality", parse_integer(text, INT32_MAX)),
        "variant": lambda text: setattr(spec, "variant", text or _REFERENCE),
    }
    path_setters: dict[str, Setter] = {
        "seed": lambda text: setattr(spec, "seed", parse_integer(text)),
        "index": lambda text: setattr(spec, "first_index", parse_integer(text)),
    }
    numbers = [(name, path[name]) for name in path_setters]
    set_parameters([*numbers, *query.multi_items()], path_setters | setters)
    return request


def _parse_class(text: str) -> int:
    """Returns the number of a class. A label is refused, because an image has one URL.

    Raises:
        ValueError: the text is something else.
    """
    try:
        return parse_integer(text, INT32_MAX)
    except ValueError:
        raise ValueError(
            f"{quote(text)} is not the number of a class, 0 to K - 1 for K classes; the URL of an"
            " image takes no label"
        ) from None


def _make_etag(served: ServedVersion, request: messages.GenerateRequest) -> str:
    """Returns a strong entity tag of everything that determines the bytes of the picture."""
    request_json = json_format.MessageToJson(request, sort_keys=True, indent=None)
    parts = (served.bundle.sha256, served.backend.variant.name, _ENCODERS, request_json)
    return make_etag("|".join(parts).encode())


def _make_cache_headers() -> dict[str, str]:
    """Returns the cache headers of an image. With API keys, only the caller may cache it."""
    if not current_caller.get().name:
        return {"cache-control": f"public, {_FOREVER}"}
    return {"cache-control": f"private, {_FOREVER}", "vary": "authorization, x-api-key"}
