"""Trials whose results all workers of a server share."""

import hashlib
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from imagemint.engine.bundle.findings import Findings
from imagemint.engine.errors import BundleRefused
from imagemint.server.repository.scan import read_signature
from imagemint.server.repository.shared_log import SharedLog

_log = logging.getLogger(__name__)

_TOPIC = "trial"


class TrialRunner(Protocol):
    """Loads and probes bundles before the server does; see `Trials`."""

    def run(
        self, directory: Path, variant: str, trusted_keys: str | None = None
    ) -> tuple[str, Findings]:
        """Returns the SHA-256 of model.onnx and the findings about the bundle on this machine."""

    def close(self) -> None:
        """Ends all trials and refuses new ones."""


class SharedTrials:
    """Trials of which one worker runs each, while the others wait for its result; thread-safe.

    A trial computes on all cores and can take half of the memory, and every worker would find the
    same. A worker that replaces another one needs no trial of the files that passed one.

    A refusal counts for the workers that waited for it. A later attempt is a new trial, because the
    cause may have been transient.

    Args:
        trials: runs the trials of this worker. Its options are those of all workers.
        log: the log that all workers share.
    """

    def __init__(self, trials: TrialRunner, log: SharedLog) -> None:
        self._trials = trials
        self._shared = log
        self._closed = False

    def run(
        self, directory: Path, variant: str, trusted_keys: str | None = None
    ) -> tuple[str, Findings]:
        """Returns the result of a trial; see `Trials.run`.

        Raises:
            BundleRefused: the trial failed.
        """
        signature = read_signature(directory)
        key = _digest([str(directory), signature, variant, trusted_keys])
        began_s = time.monotonic()  # one clock for all processes of a machine
        with self._shared.lock_task(key):
            with self._shared.lock() as log:
                found = [result for its_key, result in log.read(_TOPIC) if its_key == key]
            if found and ("passed" in found[-1] or found[-1]["ended_s"] >= began_s):
                return _take(found[-1], directory)
            result = _note(lambda: self._trials.run(directory, variant, trusted_keys))
            was_ended = self._closed and "refused" in result  # which says nothing about the bundle
            # If the files changed meanwhile, the result may be of other ones.
            if not was_ended and read_signature(directory) == signature:
                self._publish(key, result)
        return _take(result, directory)

    def close(self) -> None:
        """Kills the trials of this worker, which another one then runs, and refuses new ones."""
        self._closed = True
        self._trials.close()

    def _publish(self, key: str, result: dict[str, Any]) -> None:
        try:
            with self._shared.lock() as log:
                log.append(_TOPIC, [key, result])
        except OSError as error:  # the other workers run their own trials
            _log.warning("the result of a trial is not shared: %s", error)


def _digest(value: Any) -> str:  # noqa: ANN401 - any JSON value
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _note(run: Callable[[], tuple[str, Findings]]) -> dict[str, Any]:
    """Returns the result of a trial as a JSON value."""
    try:
        sha256, findings = run()
    except BundleRefused as error:
        return {"refused": error.why, "passing": error.passing, "ended_s": time.monotonic()}
    return {"passed": [sha256, findings.to_json()]}


def _take(result: dict[str, Any], directory: Path) -> tuple[str, Findings]:
    if "refused" in result:
        raise BundleRefused(directory, result["refused"], passing=result["passing"])
    sha256, findings = result["passed"]
    return sha256, Findings.of_json(findings)
