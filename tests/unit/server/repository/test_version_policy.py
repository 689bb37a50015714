"""Tests of version policies: which versions serve, and in which order they are tried."""

import pytest

from imagemint.server.repository import Policies, VersionPolicy


@pytest.mark.parametrize(
    ("text", "serving"),
    [("all", [9, 3, 2, 1]), ("latest:1", [9]), ("latest:3", [9, 3, 2]), ("1,3,7", [3, 1])],
)
def test_policy_selects_versions(text, serving):
    """A policy selects all, the newest N, or the listed versions that exist."""
    policy = VersionPolicy.parse(text)
    picked = []
    for number in policy.list_candidates([1, 2, 3, 9]):
        if not policy.is_full(len(picked)):
            picked.append(number)
    assert picked == serving


def test_policy_of_a_model_overrides_the_general_one():
    """It applies to this model only."""
    policies = Policies.parse("latest:1", {"mnist": "1,3"}, {})
    assert policies.choose_first("mnist", [1, 2, 3]) == {1, 3}
    assert policies.choose_first("faces", [1, 2, 3]) == {3}


def test_pinned_version_always_serves():
    """A pinned version serves beside those of the policy, if it exists."""
    policies = Policies.parse("latest:1", {}, {"mnist": 2})
    assert policies.choose_first("mnist", [1, 2, 3, 4]) == {2, 4}
    assert policies.choose_first("mnist", [1, 3]) == {3}
    assert Policies.parse("1,3", {}, {"mnist": 2}).choose_first("mnist", [1, 2]) == {1, 2}
