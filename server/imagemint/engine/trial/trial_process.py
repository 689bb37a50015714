"""The trial process of a bundle: `python -m imagemint.engine.trial.trial_process OPTIONS`.

It writes its result as a line of JSON to stdout. `trial.Trials` starts and kills it.
"""

import contextlib
import json
import math
import os
import resource
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagemint.engine.bundle import read_bundle
from imagemint.engine.errors import BundleRefused, ImagemintError
from imagemint.engine.failure_causes import is_passing
from imagemint.engine.onnx.backend import OnnxBackend
from imagemint.engine.onnx.critic import OnnxCritic
from imagemint.engine.trial.trials import ERROR_BYTES

if TYPE_CHECKING:
    from imagemint.engine.bundle.signatures import TrustedKeys

# Serving processes have priority.
_NICENESS = 10


def try_bundle(options: dict[str, Any]) -> dict[str, Any]:
    """Loads and probes a bundle, and returns the result."""
    directory = Path(options["directory"])
    try:
        trusted = _read_keys(options["trusted_keys"])
        bundle = read_bundle(directory, max_bytes=options["max_bytes"], trusted=trusted)
        backend = OnnxBackend(
            bundle,
            device="cpu",
            intra_op_threads=options["intra_op_threads"],
            alone_threads=options["alone_threads"],
            variant=options["variant"],
            max_image_memory_bytes=options["max_image_memory_bytes"],
        )
        if bundle.critic is not None:
            OnnxCritic(bundle, bundle.critic).close()
    except Exception as error:  # noqa: BLE001 - every failure is a result
        return _describe_refusal(error, options["memory_bytes"])
    return {"sha256": bundle.sha256, "findings": backend.findings.to_json()}


def _read_keys(pem: str | None) -> "TrustedKeys | None":
    if pem is None:
        return None
    from imagemint.engine.bundle.signatures import TrustedKeys  # noqa: PLC0415 - in an extra

    return TrustedKeys.of_pem(pem.encode())


def _describe_refusal(error: Exception, memory_bytes: int | None) -> dict[str, Any]:
    passing = is_passing(error)
    if isinstance(error, BundleRefused):
        why = error.why
    else:
        why = error.message if isinstance(error, ImagemintError) else str(error)
        why = why or type(error).__name__
    if passing and memory_bytes is not None and not isinstance(error, OSError):
        why += f" (the limit is {memory_bytes / 2**30:.1f} GiB, half of the available memory)"
    return {"refused": why, "passing": passing}


def _limit(options: dict[str, Any]) -> None:
    """Limits CPU time and memory of this process, independently of the parent."""
    seconds = math.ceil(options["timeout_s"] * (1 + options["alone_threads"])) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (ERROR_BYTES, ERROR_BYTES))  # it writes no file
    if options["memory_bytes"] is not None:
        limit = options["memory_bytes"]
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    with contextlib.suppress(OSError):  # if memory runs out, kill this process first
        Path("/proc/self/oom_score_adj").write_text("1000")
    os.nice(_NICENESS)


def _end_with_parent() -> None:
    """Ends this process when stdin closes, because then the parent is gone."""

    def wait() -> None:
        sys.stdin.read()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def main() -> None:
    """Tries the bundle that the command line names."""
    options = json.loads(sys.argv[1])
    _end_with_parent()
    _limit(options)
    print(json.dumps(try_bundle(options)), flush=True)  # noqa: T201 - the parent reads it
    os._exit(0)  # does not wait for threads of the runtime


if __name__ == "__main__":
    main()
