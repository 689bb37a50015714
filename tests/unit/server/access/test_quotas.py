"""What callers have used: buckets of images, and calls under way."""

import pytest

from imagemint.server.access.quotas import Usage


class Clock:
    """A clock that the test moves."""

    now = 1_000.0

    def __call__(self):
        """Returns the time."""
        return self.now


@pytest.fixture
def clock():
    """See Clock."""
    return Clock()


@pytest.fixture
def usage(clock):
    """The usage of one process."""
    return Usage(clock)


def test_burst_comes_first_and_then_the_rate(usage, clock):
    """A fresh client has its burst at once; the delay is exactly what the rate needs."""
    rate = {"rate_per_s": 10.0, "burst": 50.0}
    assert usage.take("a", 50, **rate) == 0
    assert usage.take("a", 5, **rate) == pytest.approx(0.5)
    clock.now += 0.4
    assert usage.take("a", 5, **rate) == pytest.approx(0.1)
    clock.now += 0.1
    assert usage.take("a", 5, **rate) == 0
    assert usage.take("b", 50, **rate) == 0


def test_rest_fills_no_more_than_the_burst(usage, clock):
    """A night of silence does not buy a flood."""
    rate = {"rate_per_s": 10.0, "burst": 50.0}
    assert usage.take("a", 50, **rate) == 0
    clock.now += 1e6
    assert usage.take("a", 50, **rate) == 0
    assert usage.take("a", 1, **rate) > 0


def test_more_than_a_burst_leaves_a_debt(usage, clock):
    """It is had from a full bucket, and paid for afterwards: in the long run the rate holds."""
    rate = {"rate_per_s": 10.0, "burst": 50.0}
    assert usage.take("a", 80, **rate) == 0
    assert usage.take("a", 1, **rate) == pytest.approx(3.1)
    assert usage.take("a", 80, **rate) == pytest.approx(8.0)
    clock.now += 8.0
    assert usage.take("a", 80, **rate) == 0


def test_share_is_kept_for_others(usage, clock):
    """Who keeps half leaves half of the burst, and may still have more from a full bucket."""
    rate = {"rate_per_s": 10.0, "burst": 50.0}
    assert usage.take("a", 25, **rate, keep=0.5) == 0
    assert usage.take("a", 1, **rate, keep=0.5) == pytest.approx(0.1)
    assert usage.take("a", 25, **rate) == 0
    clock.now += 5.0
    assert usage.take("a", 40, **rate, keep=0.5) == 0


def test_images_are_given_back(usage):
    """What was refused elsewhere costs nothing."""
    rate = {"rate_per_s": 10.0, "burst": 50.0}
    assert usage.take("a", 50, **rate) == 0
    usage.give_back("a", 50)
    assert usage.take("a", 50, **rate) == 0


def test_lower_burst_holds_at_once(usage, clock):
    """A file that was reloaded with less takes effect on what had been saved up."""
    assert usage.take("a", 1, rate_per_s=10.0, burst=1_000.0) == 0
    assert usage.take("a", 10, rate_per_s=10.0, burst=10.0) == 0
    assert usage.take("a", 10, rate_per_s=10.0, burst=10.0) == pytest.approx(1.0)


def test_calls_are_counted_up_to_the_limit(usage):
    """One more is refused until one has left; another client has its own count."""
    assert [usage.enter("a", 2) for _ in range(3)] == [True, True, False]
    assert usage.enter("b", 1)
    usage.leave("a")
    assert usage.count_running("a") == 1
    assert usage.enter("a", 2)


def test_images_returned_for_an_unknown_client_change_nothing(usage):
    """A client that never took any has its burst, and no more."""
    usage.give_back("a", 50)
    assert usage.take("a", 10, rate_per_s=1.0, burst=10.0) == 0
    assert usage.take("a", 1, rate_per_s=1.0, burst=10.0) > 0


def test_call_without_a_limit_is_counted_too(usage):
    """A limit that is set later, when a key file changes, counts the calls that run already."""
    assert usage.enter("a", None)
    assert not usage.enter("a", 1)
    usage.leave("a")
    assert usage.enter("a", 1)
