"""Checks translation requests as a whole and converts them to plain dataclasses."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from imagemint.engine.errors import InvalidRequest, SourceUnsupported, Violation
from imagemint.engine.sampling import Run
from imagemint.server.images.fitting import Fit
from imagemint.server.images.request import ImageRequest
from imagemint.server.images.sources import EncodedSource, GivenSource, SourceLimits, check_parts
from imagemint.server.repository import ServedVersion
from imagemint.server.rpc.v1.requests import Output, read_images, read_output
from imagemint.server.rpc.v1.violations import Checks
from imagemint.v1 import image_pb2
from imagemint.v1 import translation_service_pb2 as messages

_FITS: dict[int, Fit] = {
    messages.SOURCE_FIT_UNSPECIFIED: Fit.REFUSE,
    messages.SOURCE_FIT_REFUSE: Fit.REFUSE,
    messages.SOURCE_FIT_CROP: Fit.CROP,
    messages.SOURCE_FIT_PAD: Fit.PAD,
    messages.SOURCE_FIT_STRETCH: Fit.STRETCH,
}
_UINT64_END = 2**64
_BEYOND_LAST_INDEX = "first_index and the number of sources exceed 2^64"


class TranslateCall(NamedTuple):
    """A checked TranslateRequest, whose pictures were not read yet."""

    images: ImageRequest
    """One image for each source."""
    sources: Sequence[GivenSource]
    fit: Fit
    output: Output


def require_model(images: image_pb2.ImageSpec) -> None:
    """Checks that a request names a model, without which most fields cannot be checked.

    Raises:
        InvalidRequest: the request names no model.
    """
    if not images.model:
        checks = Checks()
        checks.fail("images.model", "required")
        checks.raise_violations()


def read_translate(
    request: messages.TranslateRequest, version: ServedVersion, limits: SourceLimits
) -> TranslateCall:
    """Converts a TranslateRequest for a version.

    Args:
        request: the request.
        version: the version that translates.
        limits: limits of a request.

    Raises:
        InvalidRequest: one or more fields are wrong; the error lists them, and a few of many wrong
            sources.
        SourceUnsupported: the model takes no source.
        ClassUnsupported, CaptionUnsupported: the request names what the model does not take.
        VariantMismatch: the server runs another variant than the request names.
    """
    spec = version.spec
    if spec.source is None:
        raise SourceUnsupported(spec.name)
    checks = Checks()
    output = read_output(request.output, checks)
    fit = _FITS.get(request.fit)
    if fit is None:
        checks.fail("fit", f"{request.fit} is not a fit")
    images, count = image_pb2.ImageSpec(), len(request.sources)
    images.CopyFrom(request.images)
    if not 1 <= count <= limits.passes:
        checks.fail("sources", f"{count} sources; a request has 1 to {limits.passes}")
    elif images.count not in (0, count):
        checks.fail("images.count", f"{images.count} for {count} sources; leave it out")
    images.count = max(1, min(count, limits.passes))
    if images.first_index + images.count > _UINT64_END:
        checks.fail("images.first_index", _BEYOND_LAST_INDEX)
    if images.HasField("filter"):
        checks.fail("images.filter", "translations are not filtered")
        images.ClearField("filter")
    sources: list[GivenSource] = []
    for number, given in enumerate(request.sources[: limits.passes]):
        place = f"sources[{number}]"
        source = _read_source(place, given, checks)
        if source is not None:
            check_parts(place, source, spec.source, checks.fail)
            sources.append(source)
        if checks.are_many:
            break
    image_request = read_images(images, version, request.priority, checks)
    checks.raise_violations()
    return TranslateCall(image_request, sources, fit or Fit.REFUSE, output)


def make_translate_request(
    first: messages.StreamTranslateRequest,
    request: messages.StreamTranslateRequest,
    seed: int,
    offset: int,
) -> messages.TranslateRequest:
    """Returns the request that translates the sources of a message of a stream.

    Args:
        first: the first message of the stream, which says how to translate.
        request: a later message.
        seed: seed of the stream.
        offset: number of sources in the messages before.

    Raises:
        InvalidRequest: there is no index for the sources.
    """
    first_index = first.images.first_index + offset
    if first_index >= _UINT64_END:
        raise InvalidRequest([Violation("images.first_index", _BEYOND_LAST_INDEX)])
    complete_request = messages.TranslateRequest(
        images=first.images,
        sources=request.sources,
        fit=first.fit,
        output=first.output,
        priority=first.priority,
    )
    complete_request.images.seed = seed
    complete_request.images.first_index = first_index
    return complete_request


def check_stream_message(request: messages.StreamTranslateRequest, *, is_first: bool) -> None:
    """Checks which fields a message of a stream has.

    Raises:
        InvalidRequest: fields are missing, or do not belong in this message.
    """
    checks = Checks()
    if not is_first:
        given = {field.name for field, _ in request.ListFields()} - {"sources"}
        for name in sorted(given):
            checks.fail(name, "belongs in the first message of the stream")
    else:
        images = request.images
        if request.sources:
            checks.fail("sources", "belong in the messages after the first")
        if images.count:
            checks.fail("images.count", "leave it out; a stream has any number of sources")
        if images.WhichOneof("source") == "latents":
            checks.fail("images.latents", "are not taken in a stream; call Translate")
        if images.WhichOneof("condition") == "class_per_image":
            checks.fail("images.class_per_image", "is not taken in a stream; call Translate")
    checks.raise_violations()


def get_seed(images: ImageRequest) -> int | None:
    """Returns the seed of a request; None for given latents, or a model without a latent."""
    latents = images.latents
    if isinstance(latents, np.ndarray) or not images.version.spec.z_dim:
        return None
    first: Run = latents[0]
    return first.seed


def _read_source(place: str, source: messages.Source, checks: Checks) -> GivenSource | None:
    match source.WhichOneof("content"):
        case "encoded":
            return EncodedSource(source.encoded.pictures, source.encoded.mask)
        case "raw":
            return _read_raw(f"{place}.raw", source.raw, checks)
        case _:
            checks.fail(place, "has neither encoded nor raw content")
            return None


def _read_raw(place: str, raw: messages.RawSource, checks: Checks) -> GivenSource | None:
    shape = (raw.shape.height, raw.shape.width, raw.shape.channels)
    if min(shape) < 1:
        checks.fail(f"{place}.shape", "height, width and channels are required")
        return None
    expected = shape[0] * shape[1] * shape[2]
    if len(raw.pixels) != expected:
        checks.fail(f"{place}.pixels", f"{len(raw.pixels)} bytes; the shape has {expected}")
        return None
    return np.frombuffer(raw.pixels, np.uint8).reshape(shape)
