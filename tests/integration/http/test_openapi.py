"""Tests with schemathesis that the OpenAPI document is valid and the server conforms to it."""

import asyncio

import hypothesis
import pytest
import schemathesis

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
schema = schemathesis.openapi.from_dict(make_document())
OPERATIONS = {each.ok().label: each.ok() for each in schema.get_all_operations()}


async def test_document_is_served(web):
    """The document is served as complete, valid JSON."""
    answer = await web.get("/openapi.json")
    assert answer.json() == make_document()
    schema.validate()
    assert len(OPERATIONS) == 13


@pytest.mark.parametrize("path", [{}, {"model": "digits", "version": "1"}])
@pytest.mark.parametrize("label", OPERATIONS)
async def test_responses_conform(label, path, site):
    """Status, media type and body of each response are documented for any request."""
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
        case.call_and_validate(base_url=site.http_url.rstrip("/"), checks=checks)

    await asyncio.to_thread(ask)
