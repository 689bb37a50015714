"""What API keys have used: buckets of images and calls under way, in one process or several."""

import os
import signal
import subprocess
import sys

import pytest

from imagemint.server.limits import Ledger

# Another process of the same server: does what stdin says, a Python expression a line.
WORKER = """
import sys
from pathlib import Path
from imagemint.server.limits import Ledger
ledger = Ledger(Path(sys.argv[1]))
print("ready", flush=True)
for line in sys.stdin:
    print(eval(line), flush=True)
"""


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


@pytest.fixture(params=["memory", "file"])
def ledger(request, clock, tmp_path):
    """A ledger of each kind; what one does the other does too."""
    path = tmp_path / "ledger" if request.param == "file" else None
    with Ledger(path, clock) as ledger:
        yield ledger


@pytest.fixture
def worker(tmp_path):
    """Starts processes that share a ledger; each is a function that evaluates an expression."""
    started = []

    def start():
        process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(tmp_path / "shared")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        started.append(process)
        assert process.stdout.readline() == "ready\n"

        def evaluated(expression):
            process.stdin.write(expression + "\n")
            process.stdin.flush()
            return eval(process.stdout.readline())  # noqa: S307 - a number or a boolean of ours

        evaluated.process = process
        return evaluated

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_burst_comes_first_and_then_the_rate(ledger, clock):
    """A fresh client has its burst at once; the delay is exactly what the rate needs."""
    rate = {"rate_per_s": 10.0, "burst": 50.0}
    assert ledger.take("a", 50, **rate) == 0
    assert ledger.take("a", 5, **rate) == pytest.approx(0.5)
    clock.now += 0.4
    assert ledger.take("a", 5, **rate) == pytest.approx(0.1)
    clock.now += 0.1
    assert ledger.take("a", 5, **rate) == 0
    assert ledger.take("b", 50, **rate) == 0


def test_rest_fills_no_more_than_the_burst(ledger, clock):
    """A night of silence does not buy a flood."""
    rate = {"rate_per_s": 10.0, "burst": 50.0}
    assert ledger.take("a", 50, **rate) == 0
    clock.now += 1e6
    assert ledger.take("a", 50, **rate) == 0
    assert ledger.take("a", 1, **rate) > 0


def test_more_than_a_burst_leaves_a_debt(ledger, clock):
    """It is had from a full bucket, and paid for afterwards: in the long run the rate holds."""
    rate = {"rate_per_s": 10.0, "burst": 50.0}
    assert ledger.take("a", 80, **rate) == 0
    assert ledger.take("a", 1, **rate) == pytest.approx(3.1)
    assert ledger.take("a", 80, **rate) == pytest.approx(8.0)
    clock.now += 8.0
    assert ledger.take("a", 80, **rate) == 0


def test_share_is_kept_for_others(ledger, clock):
    """Who keeps half leaves half of the burst, and may still have more from a full bucket."""
    rate = {"rate_per_s": 10.0, "burst": 50.0}
    assert ledger.take("a", 25, **rate, keep=0.5) == 0
    assert ledger.take("a", 1, **rate, keep=0.5) == pytest.approx(0.1)
    assert ledger.take("a", 25, **rate) == 0
    clock.now += 5.0
    assert ledger.take("a", 40, **rate, keep=0.5) == 0


def test_images_are_given_back(ledger):
    """What was refused elsewhere costs nothing."""
    rate = {"rate_per_s": 10.0, "burst": 50.0}
    assert ledger.take("a", 50, **rate) == 0
    ledger.give_back("a", 50)
    assert ledger.take("a", 50, **rate) == 0


def test_lower_burst_holds_at_once(ledger, clock):
    """A file that was reloaded with less takes effect on what had been saved up."""
    assert ledger.take("a", 1, rate_per_s=10.0, burst=1_000.0) == 0
    assert ledger.take("a", 10, rate_per_s=10.0, burst=10.0) == 0
    assert ledger.take("a", 10, rate_per_s=10.0, burst=10.0) == pytest.approx(1.0)


def test_calls_are_counted_up_to_the_limit(ledger):
    """One more is refused until one has left; another client has its own count."""
    assert [ledger.enter("a", 2) for _ in range(3)] == [True, True, False]
    assert ledger.enter("b", 1)
    ledger.leave("a")
    assert ledger.running("a") == 1
    assert ledger.enter("a", 2)


def test_closing_is_final_and_harmless(clock):
    """A call that ends after it, and a second closing, change nothing."""
    ledger = Ledger(clock=clock)
    assert ledger.enter("a", 1)
    ledger.close()
    ledger.leave("a")
    ledger.close()


def test_processes_share_one_rate_and_one_count(worker):
    """A limit is that of the server, whichever worker the calls reach and in whatever order."""
    one, two = worker(), worker()
    assert one("ledger.take('x', 1, rate_per_s=1e-9, burst=100.0)") == 0
    assert two("ledger.take('a', 60, rate_per_s=1e-9, burst=100.0)") == 0
    assert one("ledger.take('a', 60, rate_per_s=1e-9, burst=100.0)") > 0
    assert one("ledger.take('a', 40, rate_per_s=1e-9, burst=100.0)") == 0
    assert one("ledger.enter('a', 2)")
    assert two("ledger.enter('a', 2)")
    assert not one("ledger.enter('a', 2)")
    assert one("ledger.running('a')") == two("ledger.running('a')") == 2


def test_dead_worker_gives_its_calls_back(worker):
    """Killed with calls in its hands, it holds nobody up: not its successor, and no other."""
    one, two = worker(), worker()
    assert two("[ledger.enter('a', 3) for _ in range(3)]") == [True] * 3
    two.process.send_signal(signal.SIGKILL)
    two.process.wait()
    assert one("[ledger.enter('a', 3) for _ in range(4)]") == [True] * 3 + [False]
    assert worker()("ledger.running('a')") == 3


def test_lock_of_a_dead_worker_is_free(worker):
    """A worker that dies within a change does not hang the others."""
    one, two = worker(), worker()
    assert two("ledger._locked().__enter__()") is None
    two.process.send_signal(signal.SIGKILL)
    two.process.wait()
    assert one("ledger.enter('a', 1)")


def test_return_after_the_end_is_harmless(clock):
    """A call that is cut off by the end of the server may still hold what it has not used."""
    ledger = Ledger(clock=clock)
    ledger.take("a", 1, rate_per_s=1, burst=1)
    ledger.close()
    ledger.give_back("a", 1)
