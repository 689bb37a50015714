"""Tests of problem details: a status per code, and the gRPC details as members."""

import json

import grpc
import pytest

from imagemint.engine.errors import InvalidRequest, QueueFull, Violation
from imagemint.server.errors import Unauthenticated
from imagemint.server.http.problems import STATUSES, make_problem
from imagemint.server.rpc.status import make_outcome


def make(error):
    """Returns the problem of an error."""
    outcome = make_outcome(error, "id-1")
    return make_problem(outcome.code.name, outcome.message, outcome.trailing_metadata)


def test_every_code_has_a_status():
    """The table is complete."""
    assert STATUSES.keys() == {code.name for code in grpc.StatusCode}


def test_violations_and_retry_delay_are_members():
    """A client can read them without protocol buffers."""
    problem = json.loads(make(InvalidRequest([Violation("images.count", "0 is bad")])).encode())
    assert problem["violations"] == [{"field": "images.count", "description": "0 is bad"}]
    assert problem["request_id"] == "id-1"
    full = make(QueueFull("mnist", 1.25))
    assert json.loads(full.encode())["retry_delay_s"] == pytest.approx(1.25)
    assert json.loads(full.encode())["metadata"]["model"] == "mnist"
    assert full.make_headers()["retry-after"] == "2"


@pytest.mark.parametrize(
    ("error", "status"),
    [(Unauthenticated("no key"), 401), (KeyError("secret"), 500), (QueueFull("m", 0.1), 429)],
)
def test_errors_have_status_and_headers(error, status):
    """Errors reveal no more than in gRPC and are not cached."""
    problem = make(error)
    assert problem.status == status
    assert problem.make_headers()["cache-control"] == "no-store"
    assert b"secret" not in problem.encode()
    assert ("www-authenticate" in problem.make_headers()) is (status == 401)
