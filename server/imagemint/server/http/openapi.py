"""The OpenAPI document."""

import functools
import json
from collections.abc import Awaitable, Callable, Sequence
from importlib.metadata import version

from google.protobuf.descriptor import Descriptor
from starlette.requests import Request
from starlette.responses import Response

from imagemint.server.http.exchange import NDJSON
from imagemint.server.http.generation import ANIMATIONS, PICTURES, SERIAL_HEADER
from imagemint.server.http.models import FILES
from imagemint.server.http.problems import MEDIA_TYPE
from imagemint.server.http.schemas import INT32, UINT64, Schema, add_schema, refer
from imagemint.server.http.translation import (
    ANY_BYTES,
    FITS,
    FORM,
    FORMATS,
    PRIORITIES,
    SOURCE_TYPES,
)
from imagemint.v1 import generation_service_pb2, model_service_pb2, translation_service_pb2

_JSON = "application/json"
_TAG = "imagemint"
_BINARY: Schema = {"type": "string", "format": "binary"}
_QUALITY: Schema = {"type": "integer", "minimum": 1, "maximum": 100}

_PROBLEM: Schema = {
    "type": "object",
    "description": "Problem details (RFC 9457).",
    "required": ["type", "title", "status", "detail", "code"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What is wrong, for people."},
        "code": {"type": "string", "description": "Name of the gRPC status code."},
        "reason": {"type": "string", "description": "What is wrong, for programs."},
        "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
        "violations": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"field": {"type": "string"}, "description": {"type": "string"}},
            },
        },
        "retry_delay_s": {"type": "number", "description": "Seconds until a retry makes sense."},
        "request_id": {"type": "string"},
    },
}


def make_endpoint() -> Callable[[Request], Awaitable[Response]]:
    """Returns the handler of `GET /openapi.json`."""

    async def get(_: Request) -> Response:
        return Response(_encode_document(), media_type=_JSON)

    return get


@functools.cache
def _encode_document() -> bytes:
    return json.dumps(make_document()).encode()


def make_document() -> Schema:
    """Returns the OpenAPI 3.1 document of the HTTP interface."""
    schemas: dict[str, Schema] = {"Problem": _PROBLEM, "StreamFailure": _STREAM_FAILURE}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "imagemint",
            "version": version("imagemint"),
            "description": "Synthetic images by serial number. The JSON is that of the protocol"
            " buffers in proto/imagemint/v1.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "./"}],  # a proxy may serve it below a path
        "tags": [{"name": _TAG}],
        "security": [{}, {"bearer": []}, {"key": []}],
        "paths": _make_paths(schemas),
        "components": {
            "schemas": schemas,
            "parameters": _PARAMETERS,
            "headers": _HEADERS,
            "responses": {
                "Problem": {
                    "description": "The request failed.",
                    "headers": _refer_headers("Retry-After", "x-request-id"),
                    "content": {MEDIA_TYPE: {"schema": refer("Problem")}},
                }
            },
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def _make_paths(schemas: dict[str, Schema]) -> Schema:
    messages, models = generation_service_pb2, model_service_pb2
    name = _make_path_parameter("model", "Name of the model.", {"pattern": "^[^/:]+$"})
    number = _make_path_parameter(
        "version", "Version of the model.", {"pattern": "^[1-9][0-9]{0,17}$"}
    )
    generated = _make_content(
        _JSON, add_schema(messages.GenerateResponse.DESCRIPTOR, schemas, is_answer=True)
    )
    for picture in PICTURES.values():
        generated |= _make_content(picture.media_type, _BINARY)
    walked = _make_lines(messages.InterpolateResponse.DESCRIPTOR, schemas)
    for media_type in ANIMATIONS:
        walked |= _make_content(media_type, _BINARY)
    return {
        "/v1/models": {
            "get": _make_operation(
                "listModels",
                "The models of this server.",
                _make_content(
                    _JSON,
                    add_schema(models.ListModelsResponse.DESCRIPTOR, schemas, is_answer=True),
                ),
                parameters=[
                    _make_query("pageSize", INT32 | {"minimum": 0}, "Models in a page."),
                    _make_query("pageToken", {"type": "string"}, "nextPageToken of a page."),
                ],
            )
        },
        "/v1/models/{model}": {
            "get": _make_operation(
                "getModel",
                "One model.",
                _make_content(_JSON, add_schema(models.Model.DESCRIPTOR, schemas, is_answer=True)),
                parameters=[name],
            )
        },
        "/v1/models/{model}:generate": {
            "post": _make_operation(
                "generate",
                "A bounded number of images, as JSON or, with the header Accept, as one picture.",
                generated,
                parameters=[name],
                body=_require_count(messages.GenerateRequest.DESCRIPTOR, schemas),
                headers=(SERIAL_HEADER,),
            )
        },
        "/v1/models/{model}:streamGenerate": {
            "post": _make_operation(
                "streamGenerate",
                "Any number of images, as lines of JSON. A stream that fails ends with a line that"
                " has the member `error`, a Problem.",
                _make_lines(messages.StreamGenerateResponse.DESCRIPTOR, schemas),
                parameters=[name],
                body=_require_count(messages.StreamGenerateRequest.DESCRIPTOR, schemas),
            )
        },
        "/v1/models/{model}:interpolate": {
            "post": _make_operation(
                "interpolate",
                "The images on a path between serial numbers, as lines of JSON or, with the header"
                " Accept, as one animated picture.",
                walked,
                parameters=[name],
                body=add_schema(messages.InterpolateRequest.DESCRIPTOR, schemas),
            )
        },
        "/v1/models/{model}:translate": {"post": _make_translate_operation(name, schemas)},
        **{
            f"/v1/models/{{model}}/versions/{{version}}/images/{{seed}}/{{index}}.{extension}": {
                "get": _make_image_operation(extension, picture.media_type, [name, number])
            }
            for extension, picture in PICTURES.items()
        },
        **{
            f"/v1/models/{{model}}/versions/{{version}}/{file}": {
                "get": _make_cached_operation(
                    "get_" + file.replace(".", "_"),
                    f"{file} of the bundle.",
                    media_type.partition(";")[0],
                    [name, number],
                )
            }
            for file, media_type in FILES.items()
        },
        "/healthz": {"get": _make_probe("health", "Whether the process answers.")},
        "/readyz": {"get": _make_probe("ready", "Whether the server takes calls; 503 if not.")},
    }


def _make_lines(kind: Descriptor, schemas: dict[str, Schema]) -> Schema:
    """Returns the content of a stream; the schema is that of one line."""
    message = add_schema(kind, schemas, is_answer=True)
    return _make_content(NDJSON, {"oneOf": [message, refer("StreamFailure")]})


def _require_count(kind: Descriptor, schemas: dict[str, Schema]) -> Schema:
    """Adds the schema of a request whose `images` need a count; those of a translation do not."""
    request = add_schema(kind, schemas)
    schema = schemas[kind.name]
    schema["required"] = ["images"]
    schema["properties"]["images"] = {
        "allOf": [schema["properties"]["images"]],
        "required": ["count"],
    }
    return request


def _make_translate_operation(model: Schema, schemas: dict[str, Schema]) -> Schema:
    messages = translation_service_pb2
    translated = _make_content(
        _JSON, add_schema(messages.TranslateResponse.DESCRIPTOR, schemas, is_answer=True)
    )
    for picture in PICTURES.values():
        translated |= _make_content(picture.media_type, _BINARY)
    options: dict[str, tuple[Schema, str]] = {
        "version": ({"type": "string"}, "Version of the model."),
        "variant": ({"type": "string"}, "Variant that must make it."),
        "seed": (UINT64, "Seed, for a model with a latent."),
        "index": (UINT64, "Index of the first source."),
        "class": ({"type": "string"}, "Class by index or label."),
        "caption": ({"type": "string"}, "Caption."),
        "truncation": ({"type": "number"}, "Truncation."),
        "fit": ({"type": "string", "enum": list(FITS)}, "What happens to sources of other sizes."),
        "format": ({"type": "string", "enum": list(FORMATS)}, "Encoding of the results."),
        "quality": (_QUALITY, "Quality, 90 if absent."),
        "priority": ({"type": "string", "enum": list(PRIORITIES)}, "Priority, normal if absent."),
    }
    query = [_make_query(name, schema, text) for name, (schema, text) in options.items()]
    operation = _make_operation(
        "translate",
        "The translation of a picture, as a picture or, with the header Accept, as JSON. Several"
        " sources, as a form or as JSON, are answered with JSON.",
        translated,
        parameters=[model, *query],
        body=add_schema(messages.TranslateRequest.DESCRIPTOR, schemas),
        headers=(SERIAL_HEADER, "server-timing"),
    )
    form: Schema = {
        "type": "object",
        "properties": {
            "source": {"type": "array", "items": _BINARY, "description": "Each is a source."},
            "frame": {"type": "array", "items": _BINARY, "description": "Frames of one source."},
            "mask": _BINARY | {"description": "Mask of the only source."},
            **{name: schema for name, (schema, _) in options.items()},
        },
    }
    content = operation["requestBody"]["content"]
    content |= _make_content(FORM, form)
    for media_type in (*SOURCE_TYPES, ANY_BYTES):
        content |= _make_content(media_type, _BINARY)
    return operation


def _make_image_operation(extension: str, media_type: str, parameters: list[Schema]) -> Schema:
    seed = _make_path_parameter("seed", "Seed, any uint64.", UINT64)
    index = _make_path_parameter("index", "Index of the image, any uint64.", UINT64)
    query = [
        _make_query("class", {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}, "Class."),
        _make_query("caption", {"type": "string"}, "Caption."),
        _make_query("truncation", {"type": "number"}, "Truncation."),
        _make_query("variant", {"type": "string"}, "Variant; the reference if absent."),
    ]
    if extension != "png":
        query.append(_make_query("quality", _QUALITY, "Quality, 90 if absent."))
    return _make_cached_operation(
        f"get_{extension}",
        "One image, by its serial number. It never changes.",
        media_type,
        [*parameters, seed, index, *query],
        (SERIAL_HEADER,),
    )


def _make_cached_operation(
    name: str,
    summary: str,
    media_type: str,
    parameters: list[Schema],
    headers: Sequence[str] = (),
) -> Schema:
    """Returns an operation whose answer a caller can keep and ask for again with its ETag."""
    schema: Schema = _BINARY if media_type.startswith("image/") else {"type": "string"}
    operation = _make_operation(
        name,
        summary,
        _make_content(media_type, schema),
        parameters=[*parameters, _refer_parameter("if-none-match")],
        headers=("ETag", *headers),
    )
    operation["responses"]["304"] = {
        "description": "The copy with this ETag is still right.",
        "headers": _refer_headers("ETag", "x-request-id"),
    }
    return operation


def _make_operation(
    name: str,
    summary: str,
    content: Schema,
    *,
    parameters: list[Schema],
    body: Schema | None = None,
    headers: Sequence[str] = (),
) -> Schema:
    operation: Schema = {
        "operationId": name,
        "tags": [_TAG],
        "summary": summary,
        "parameters": [*parameters, *map(_refer_parameter, _OF_EVERY_CALL)],
        "responses": {
            "200": {
                "description": "The answer.",
                "headers": _refer_headers("x-request-id", *headers),
                "content": content,
            },
            "default": {"$ref": "#/components/responses/Problem"},
        },
    }
    if body is not None:
        operation["requestBody"] = {"required": True, "content": _make_content(_JSON, body)}
    return operation


def _make_probe(name: str, summary: str) -> Schema:
    text = _make_content("text/plain", {"type": "string"})
    return {
        "operationId": name,
        "tags": [_TAG],
        "summary": summary,
        "security": [],
        "responses": {
            "200": {"description": "Yes.", "content": text},
            "default": {"description": "No."},
        },
    }


def _make_content(media_type: str, schema: Schema) -> Schema:
    return {media_type: {"schema": schema}}


def _make_path_parameter(name: str, description: str, schema: Schema) -> Schema:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": description,
        "schema": {"type": "string"} | schema,
    }


def _make_query(name: str, schema: Schema, description: str) -> Schema:
    return {"name": name, "in": "query", "description": description, "schema": schema}


def _make_header_parameter(name: str, schema: Schema, description: str) -> Schema:
    return {"name": name, "in": "header", "description": description, "schema": schema}


def _refer_parameter(name: str) -> Schema:
    return {"$ref": f"#/components/parameters/{name}"}


def _refer_headers(*names: str) -> Schema:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


_STREAM_FAILURE: Schema = {
    "type": "object",
    "description": "The last line of a stream that fails.",
    "required": ["error"],
    "properties": {"error": refer("Problem")},
    "additionalProperties": False,
}

_PARAMETERS: dict[str, Schema] = {
    name: _make_header_parameter(name, schema, description)
    for name, schema, description in (
        (
            "x-request-timeout",
            {"type": "number", "maximum": 1e6},
            "Seconds until the caller stops waiting. If it is 0 or less, the deadline has passed.",
        ),
        (
            "grpc-timeout",
            {"type": "string", "pattern": "^[0-9]{1,8}[HMSmun]$"},
            "The same in the form of gRPC, if there is no x-request-timeout.",
        ),
        (
            "x-request-id",
            {"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,128}$"},
            "The caller's id for the call, which the answer and the log repeat.",
        ),
        ("if-none-match", {"type": "string"}, "ETags of the caller's copies."),
    )
}
_OF_EVERY_CALL = ("x-request-timeout", "grpc-timeout", "x-request-id")

_HEADERS: dict[str, Schema] = {
    name: {"description": description, "schema": schema}
    for name, schema, description in (
        ("ETag", {"type": "string"}, "Changes with the content."),
        ("Retry-After", {"type": "integer"}, "Seconds until a retry makes sense."),
        (SERIAL_HEADER, {"type": "string"}, "Serial number, if the answer is one image."),
        ("server-timing", {"type": "string"}, "Where the time went, in ms, if it is a picture."),
        ("x-request-id", {"type": "string"}, "The caller's id, or the server's for an error."),
    )
}
