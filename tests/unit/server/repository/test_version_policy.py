"""Version policies: which versions serve, and in what order they are tried."""

import pytest

from imagemint.server.repository import Policies, VersionPolicy


@pytest.mark.parametrize(
    ("text", "serving"),
    [("all", [9, 3, 2, 1]), ("latest:1", [9]), ("latest:3", [9, 3, 2]), ("1,3,7", [3, 1])],
)
def test_policy_picks_the_newest_first(text, serving):
    """All, the newest N, or those named that are there."""
    policy = VersionPolicy.parse(text)
    picked = []
    for number in policy.candidates([1, 2, 3, 9]):
        if not policy.is_full(len(picked)):
            picked.append(number)
    assert picked == serving


def test_own_policy_goes_before_the_general_one():
    """Only for the model that has it."""
    policies = Policies.parse("latest:1", {"mnist": "1,3"}, {})
    assert policies.first_choice("mnist", [1, 2, 3]) == {1, 3}
    assert policies.first_choice("faces", [1, 2, 3]) == {3}


def test_pinned_version_serves_whatever_the_policy_says():
    """Beside those of the policy, and only if it is there."""
    policies = Policies.parse("latest:1", {}, {"mnist": 2})
    assert policies.first_choice("mnist", [1, 2, 3, 4]) == {2, 4}
    assert policies.first_choice("mnist", [1, 3]) == {3}
    assert Policies.parse("1,3", {}, {"mnist": 2}).first_choice("mnist", [1, 2]) == {1, 2}
