"""Tests with schemathesis that the OpenAPI document is valid and the server conforms to it."""

import asyncio
import json

import hypothesis
import jsonschema
import pytest
import schemathesis
from http_clients import browse

from imagemint.server.http.openapi import make_document

pytestmark = pytest.mark.asyncio(loop_scope="module")

EXAMPLES = 8
SETTINGS = hypothesis.settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
DOCUMENT = make_document()
schema = schemathesis.openapi.from_dict(make_document())
OPERATIONS = {operation.ok().label: operation.ok() for operation in schema.get_all_operations()}


async def test_document_is_served(web):
    """The document is served as complete, valid JSON."""
    answer = await web.get("/openapi.json")
    assert answer.json() == make_document()
    schema.validate()
    assert len(OPERATIONS) == 13


def find_references(node):
    """Yields the names of the schemas that a part of the document refers to, at any depth."""
    if isinstance(node, dict):
        name = str(node.get("$ref", "")).removeprefix("#/components/schemas/")
        if name in DOCUMENT["components"]["schemas"]:
            yield name
            yield from find_references(DOCUMENT["components"]["schemas"][name])
    for each in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from find_references(each)


def make_validator(schema):
    """Returns a validator for a schema of the document."""
    return jsonschema.Draft202012Validator({**DOCUMENT, **schema})


def list_answers():
    """Returns the contents of all successful answers, by operation and media type."""
    return {
        (operation["operationId"], media_type): content["schema"]
        for path in DOCUMENT["paths"].values()
        for operation in path.values()
        for media_type, content in operation["responses"]["200"]["content"].items()
    }


async def test_every_line_of_a_stream_conforms(held_site):
    """So does the last line of a stream that fails, which is a problem."""
    lines = make_validator(list_answers()["streamGenerate", "application/x-ndjson"])
    backend = held_site.backends["digits"]
    async with browse(held_site) as web:
        path = "/v1/models/digits:streamGenerate"
        body = {"images": {"count": "10000000"}, "chunkSize": 3}  # it does not end by itself
        backend.release()
        async with web.stream("POST", path, json=body, headers={"x-request-id": "id-1"}) as answer:
            texts = answer.aiter_lines()
            first = json.loads(await anext(texts))
            backend.failure = RuntimeError("no memory")
            last = [json.loads(text) async for text in texts][-1]
    assert answer.headers["x-request-id"] == "id-1"
    assert list(last) == ["error"]
    for line in (first, last):
        lines.validate(line)
    assert not lines.is_valid(first | last)


async def test_generators_get_exact_types():
    """Pictures are binary, integers of 64 bits are text, and what is always there is required."""
    for (_, media_type), content in list_answers().items():
        if media_type.startswith("image/"):
            assert content == {"type": "string", "format": "binary"}
    operations = {
        each["operationId"]: each for path in DOCUMENT["paths"].values() for each in path.values()
    }
    for name, where in (("translate", "query"), ("get_png", "path")):
        for each in operations[name]["parameters"]:
            if each.get("name") in ("seed", "index"):
                assert (each["in"], each["schema"]["type"]) == (where, "string")
    schemas = DOCUMENT["components"]["schemas"]
    assert schemas["ListModelsResponse"]["required"] == ["models", "nextPageToken"]
    assert schemas["MintedImage"]["required"] == ["index", "serial"]
    generate = make_validator({"$ref": "#/components/schemas/GenerateRequest"})
    assert generate.is_valid({"images": {"count": "1"}})
    assert not generate.is_valid({"images": {}})
    translate = make_validator({"$ref": "#/components/schemas/TranslateRequest"})
    assert translate.is_valid({"images": {"seed": "1"}})
    assert "application/octet-stream" in operations["translate"]["requestBody"]["content"]


async def test_messages_of_requests_require_no_default():
    """A message that is in requests and answers has one schema, with all of its fields."""
    bodies = [
        each["requestBody"]["content"]["application/json"]
        for path in DOCUMENT["paths"].values()
        for each in path.values()
        if "requestBody" in each
    ]
    answers = set(find_references(list(list_answers().values())))
    assert set(find_references(bodies)) & answers == {"ImageShape"}


@pytest.mark.parametrize("path", [{}, {"model": "digits", "version": "1"}])
@pytest.mark.parametrize("label", OPERATIONS)
async def test_responses_conform(label, path, site):
    """Status, media type and body of each response are documented for any request.

    A deadline of 0 or less is left out: its answer is 504, and the request is not read.
    """
    operation = OPERATIONS[label]
    checks = schemathesis.checks.CHECKS.get_by_names(
        [
            "not_a_server_error",
            "status_code_conformance",
            "content_type_conformance",
            "response_schema_conformance",
        ]
    )

    @SETTINGS
    @hypothesis.given(case=operation.as_strategy())
    def ask(case):
        case.path_parameters.update({k: v for k, v in path.items() if k in case.path_parameters})
        if float((case.headers or {}).get("x-request-timeout", 1)) <= 0:
            case.headers = {
                name: value for name, value in (case.headers or {}).items() if "timeout" not in name
            }
        case.call_and_validate(base_url=site.http_url.rstrip("/"), checks=checks)

    await asyncio.to_thread(ask)
