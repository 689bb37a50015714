"""Tests of quotas: token buckets of images, and running calls."""

import pytest

from imagemint.server.access.quotas import Usage


class Clock:
    """A clock whose time the test sets."""

    now = 1_000.0

    def __call__(self):
        """Returns the time."""
        return self.now


@pytest.fixture
def clock():
    """A clock whose time the test sets."""
    return Clock()


@pytest.fixture
def usage(clock):
    """The usage of one process."""
    return Usage(clock)


def test_burst_is_available_before_the_rate(usage, clock):
    """A new client has its burst at once. The delay is exactly what the rate requires."""
    rate = {"rate_per_s": 10.0, "burst": 50.0}
    assert usage.take("a", 50, **rate) == 0
    assert usage.take("a", 5, **rate) == pytest.approx(0.5)
    clock.now += 0.4
    assert usage.take("a", 5, **rate) == pytest.approx(0.1)
    clock.now += 0.1
    assert usage.take("a", 5, **rate) == 0
    assert usage.take("b", 50, **rate) == 0


def test_idle_time_fills_no_more_than_the_burst(usage, clock):
    """A long idle time does not allow more than the burst."""
    rate = {"rate_per_s": 10.0, "burst": 50.0}
    assert usage.take("a", 50, **rate) == 0
    clock.now += 1e6
    assert usage.take("a", 50, **rate) == 0
    assert usage.take("a", 1, **rate) > 0


def test_request_beyond_the_burst_leaves_a_debt(usage, clock):
    """A full bucket serves it, and the debt is paid afterwards, so the mean rate holds."""
    rate = {"rate_per_s": 10.0, "burst": 50.0}
    assert usage.take("a", 80, **rate) == 0
    assert usage.take("a", 1, **rate) == pytest.approx(3.1)
    assert usage.take("a", 80, **rate) == pytest.approx(8.0)
    clock.now += 8.0
    assert usage.take("a", 80, **rate) == 0


def test_share_is_kept_for_others(usage, clock):
    """`keep=0.5` leaves half of the burst. A full bucket may still serve a larger request."""
    rate = {"rate_per_s": 10.0, "burst": 50.0}
    assert usage.take("a", 25, **rate, keep=0.5) == 0
    assert usage.take("a", 1, **rate, keep=0.5) == pytest.approx(0.1)
    assert usage.take("a", 25, **rate) == 0
    clock.now += 5.0
    assert usage.take("a", 40, **rate, keep=0.5) == 0


def test_images_can_be_returned(usage):
    """A request that is refused for another reason costs nothing."""
    rate = {"rate_per_s": 10.0, "burst": 50.0}
    assert usage.take("a", 50, **rate) == 0
    usage.give_back("a", 50)
    assert usage.take("a", 50, **rate) == 0


def test_lower_burst_applies_at_once(usage, clock):
    """A reloaded file with a lower burst also limits what is already in the bucket."""
    assert usage.take("a", 1, rate_per_s=10.0, burst=1_000.0) == 0
    assert usage.take("a", 10, rate_per_s=10.0, burst=10.0) == 0
    assert usage.take("a", 10, rate_per_s=10.0, burst=10.0) == pytest.approx(1.0)


def test_calls_are_limited_per_client(usage):
    """A further call is refused until one has ended. Other clients have their own count."""
    assert [usage.enter("a", 2) for _ in range(3)] == [True, True, False]
    assert usage.enter("b", 1)
    usage.leave("a")
    assert usage.count_running("a") == 1
    assert usage.enter("a", 2)


def test_images_returned_for_an_unknown_client_change_nothing(usage):
    """A client that never took images has its burst and no more."""
    usage.give_back("a", 50)
    assert usage.take("a", 10, rate_per_s=1.0, burst=10.0) == 0
    assert usage.take("a", 1, rate_per_s=1.0, burst=10.0) > 0


def test_call_without_a_limit_is_counted(usage):
    """A limit that a changed key file sets later counts the calls that already run."""
    assert usage.enter("a", None)
    assert not usage.enter("a", 1)
    usage.leave("a")
    assert usage.enter("a", 1)
