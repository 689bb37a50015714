"""The process that tries a bundle: `python -m imagemint.engine.trial.trial_process OPTIONS`.

Writes its verdict as a line of JSON to stdout. See `trial.Trials`, which starts and kills it.
"""

import contextlib
import json
import math
import os
import resource
import sys
import threading
from pathlib import Path
from typing import Any

from imagemint.engine.bundle import read_bundle
from imagemint.engine.errors import BundleRefused, ImagemintError
from imagemint.engine.failure_causes import is_passing
from imagemint.engine.onnx.backend import OnnxBackend

# What a serving process computes goes first.
_NICENESS = 10


def tried(options: dict[str, Any]) -> dict[str, Any]:
    """Loads and probes a bundle, and tells how that went."""
    directory = Path(options["directory"])
    try:
        bundle = read_bundle(directory, max_bytes=options["max_bytes"])
        backend = OnnxBackend(
            bundle,
            device="cpu",
            intra_op_threads=options["intra_op_threads"],
            alone_threads=options["alone_threads"],
            variant=options["variant"],
            max_image_memory_bytes=options["max_image_memory_bytes"],
        )
    except Exception as error:  # noqa: BLE001 - whatever a foreign file does becomes the verdict
        return _refusal(error, options["memory_bytes"])
    return {"sha256": bundle.sha256, "findings": backend.findings.to_json()}


def _refusal(error: Exception, memory_bytes: int | None) -> dict[str, Any]:
    passing = is_passing(error)
    if isinstance(error, BundleRefused):
        why = error.why
    else:
        why = error.message if isinstance(error, ImagemintError) else str(error)
        why = why or type(error).__name__
    if passing and memory_bytes is not None and not isinstance(error, OSError):
        why += f" (a trial may take {memory_bytes / 2**30:.1f} GiB, half of what is available)"
    return {"refused": why, "passing": passing}


def _limit(options: dict[str, Any]) -> None:
    """Binds this process, whatever the parent does."""
    seconds = math.ceil(options["timeout_s"] * (1 + options["alone_threads"])) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if options["memory_bytes"] is not None:
        limit = options["memory_bytes"]
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    with contextlib.suppress(OSError):  # where memory runs out all the same, this process goes
        Path("/proc/self/oom_score_adj").write_text("1000")
    os.nice(_NICENESS)


def _end_with_parent() -> None:
    """Ends this process when the parent is gone, and with it the other end of stdin."""

    def wait() -> None:
        sys.stdin.read()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def main() -> None:
    """Tries the bundle of the command line."""
    options = json.loads(sys.argv[1])
    _end_with_parent()
    _limit(options)
    print(json.dumps(tried(options)), flush=True)  # noqa: T201 - the parent reads it
    os._exit(0)  # threads of the runtime need not be waited for


if __name__ == "__main__":
    main()
