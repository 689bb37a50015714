"""The OpenAPI document."""

import functools
import json
from collections.abc import Awaitable, Callable
from importlib.metadata import version

from starlette.requests import Request
from starlette.responses import Response

from imagemint.server.http.exchange import NDJSON
from imagemint.server.http.generation import ANIMATIONS, PICTURES
from imagemint.server.http.models import FILES
from imagemint.server.http.problems import MEDIA_TYPE
from imagemint.server.http.schemas import INT32, Schema, add_schema, refer
from imagemint.server.http.translation import FITS, FORM, FORMATS, PRIORITIES, SOURCE_TYPES
from imagemint.v1 import generation_service_pb2, model_service_pb2, translation_service_pb2

_JSON = "application/json"
_DIGITS = r"^[0-9]{1,20}$"
_TAG = "imagemint"

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
    schemas: dict[str, Schema] = {"Problem": _PROBLEM}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "imagemint",
            "version": version("imagemint"),
            "description": "Synthetic images by serial number. The JSON is that of the protocol"
            " buffers in proto/imagemint/v1.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": _TAG}],
        "security": [{}, {"bearer": []}, {"key": []}],
        "paths": _make_paths(schemas),
        "components": {
            "schemas": schemas,
            "responses": {
                "Problem": {
                    "description": "The request failed.",
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
    name = _make_path_parameter("model", "Name of the model.", "^[^/:]+$")
    number = _make_path_parameter("version", "Version of the model.", "^[1-9][0-9]{0,17}$")
    generated = _make_content(_JSON, add_schema(messages.GenerateResponse.DESCRIPTOR, schemas))
    for picture in PICTURES.values():
        generated |= _make_content(picture.media_type, {"type": "string"})
    line = add_schema(messages.StreamGenerateResponse.DESCRIPTOR, schemas)
    walked = _make_content(NDJSON, add_schema(messages.InterpolateResponse.DESCRIPTOR, schemas))
    for media_type in ANIMATIONS:
        walked |= _make_content(media_type, {"type": "string"})
    return {
        "/v1/models": {
            "get": _make_operation(
                "listModels",
                "The models of this server.",
                _make_content(_JSON, add_schema(models.ListModelsResponse.DESCRIPTOR, schemas)),
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
                _make_content(_JSON, add_schema(models.Model.DESCRIPTOR, schemas)),
                parameters=[name],
            )
        },
        "/v1/models/{model}:generate": {
            "post": _make_operation(
                "generate",
                "A bounded number of images, as JSON or, with the header Accept, as one picture.",
                generated,
                parameters=[name, _TIMEOUT],
                body=add_schema(messages.GenerateRequest.DESCRIPTOR, schemas),
            )
        },
        "/v1/models/{model}:streamGenerate": {
            "post": _make_operation(
                "streamGenerate",
                "Any number of images, as lines of JSON. A stream that fails ends with a line that"
                " has the member `error`, a Problem.",
                _make_content(NDJSON, line),
                parameters=[name, _TIMEOUT],
                body=add_schema(messages.StreamGenerateRequest.DESCRIPTOR, schemas),
            )
        },
        "/v1/models/{model}:interpolate": {
            "post": _make_operation(
                "interpolate",
                "The images on a path between serial numbers, as lines of JSON or, with the header"
                " Accept, as one animated picture.",
                walked,
                parameters=[name, _TIMEOUT],
                body=add_schema(messages.InterpolateRequest.DESCRIPTOR, schemas),
            )
        },
        "/v1/models/{model}:translate": {
            "post": _make_translate_operation([name, _TIMEOUT], schemas)
        },
        **{
            f"/v1/models/{{model}}/versions/{{version}}/images/{{seed}}/{{index}}.{extension}": {
                "get": _make_image_operation(extension, picture.media_type, [name, number])
            }
            for extension, picture in PICTURES.items()
        },
        **{
            f"/v1/models/{{model}}/versions/{{version}}/{file}": {
                "get": _add_not_modified(
                    _make_operation(
                        "get_" + file.replace(".", "_"),
                        f"{file} of the bundle.",
                        _make_content(media_type.partition(";")[0], {"type": "string"}),
                        parameters=[name, number],
                    )
                )
            }
            for file, media_type in FILES.items()
        },
        "/healthz": {"get": _make_probe("health", "Whether the process answers.")},
        "/readyz": {"get": _make_probe("ready", "Whether the server takes calls; 503 if not.")},
    }


def _make_translate_operation(parameters: list[Schema], schemas: dict[str, Schema]) -> Schema:
    messages = translation_service_pb2
    translated = _make_content(_JSON, add_schema(messages.TranslateResponse.DESCRIPTOR, schemas))
    for picture in PICTURES.values():
        translated |= _make_content(picture.media_type, {"type": "string"})
    options: dict[str, tuple[Schema, str]] = {
        "version": ({"type": "string"}, "Version of the model."),
        "variant": ({"type": "string"}, "Variant that must make it."),
        "seed": ({"type": "integer", "minimum": 0}, "Seed, for a model with a latent."),
        "index": ({"type": "integer", "minimum": 0}, "Index of the first source."),
        "class": ({"type": "string"}, "Class by index or label."),
        "caption": ({"type": "string"}, "Caption."),
        "truncation": ({"type": "number"}, "Truncation."),
        "fit": ({"type": "string", "enum": list(FITS)}, "What happens to sources of other sizes."),
        "format": ({"type": "string", "enum": list(FORMATS)}, "Encoding of the results."),
        "quality": ({"type": "integer", "minimum": 1, "maximum": 100}, "Quality, 90 if absent."),
        "priority": ({"type": "string", "enum": list(PRIORITIES)}, "Priority, normal if absent."),
    }
    query = [_make_query(name, schema, text) for name, (schema, text) in options.items()]
    operation = _make_operation(
        "translate",
        "The translation of a picture, as a picture or, with the header Accept, as JSON. Several"
        " sources, as a form or as JSON, are answered with JSON.",
        translated,
        parameters=[*parameters, *query],
        body=add_schema(messages.TranslateRequest.DESCRIPTOR, schemas),
    )
    file = {"type": "string", "format": "binary"}
    form: Schema = {
        "type": "object",
        "properties": {
            "source": {"type": "array", "items": file, "description": "Each is a source."},
            "frame": {"type": "array", "items": file, "description": "Frames of one source."},
            "mask": file | {"description": "Mask of the only source."},
            **{name: schema for name, (schema, _) in options.items()},
        },
    }
    content = operation["requestBody"]["content"]
    content |= _make_content(FORM, form)
    for media_type in SOURCE_TYPES:
        content |= _make_content(media_type, file)
    return operation


def _make_image_operation(extension: str, media_type: str, parameters: list[Schema]) -> Schema:
    seed = _make_path_parameter("seed", "Seed, any uint64.", _DIGITS)
    index = _make_path_parameter("index", "Index of the image, any uint64.", _DIGITS)
    query = [
        _make_query("class", {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}, "Class."),
        _make_query("caption", {"type": "string"}, "Caption."),
        _make_query("truncation", {"type": "number"}, "Truncation."),
        _make_query("variant", {"type": "string"}, "Variant; the reference if absent."),
    ]
    if extension != "png":
        quality = {"type": "integer", "minimum": 1, "maximum": 100}
        query.append(_make_query("quality", quality, "Quality, 90 if absent."))
    return _add_not_modified(
        _make_operation(
            f"get_{extension}",
            "One image, by its serial number. It never changes.",
            _make_content(media_type, {"type": "string"}),
            parameters=[*parameters, seed, index, *query],
        )
    )


def _add_not_modified(operation: Schema) -> Schema:
    operation["responses"]["304"] = {"description": "The copy with this ETag is still right."}
    return operation


def _make_operation(
    name: str,
    summary: str,
    content: Schema,
    *,
    parameters: list[Schema],
    body: Schema | None = None,
) -> Schema:
    operation: Schema = {
        "operationId": name,
        "tags": [_TAG],
        "summary": summary,
        "parameters": parameters,
        "responses": {
            "200": {"description": "The answer.", "content": content},
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


def _make_path_parameter(name: str, description: str, pattern: str) -> Schema:
    schema = {"type": "string", "pattern": pattern}
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": description,
        "schema": schema,
    }


def _make_query(name: str, schema: Schema, description: str) -> Schema:
    return {"name": name, "in": "query", "description": description, "schema": schema}


_TIMEOUT: Schema = {
    "name": "x-request-timeout",
    "in": "header",
    "description": "Seconds until the caller stops waiting.",
    "schema": {"type": "number", "minimum": 0.001, "maximum": 1e6},
}
