"""Reads and runs bundles: a directory per line of stdin, a verdict per line of stdout.

It is a process of its own, because a crash of the runtime must be distinguished from an error.
"""

import json
import logging
import resource
import sys
from pathlib import Path

from imagemint.engine.batch import draw_batch
from imagemint.engine.bundle import read_bundle
from imagemint.engine.errors import BundleRefused
from imagemint.engine.onnx.backend import OnnxBackend

# Limit of the address space. A larger request fails to allocate, as in a container.
_MOST_BYTES = 6 * 2**30


def judge(directory: Path) -> str:
    """Returns the result: loaded, refused, or another exception."""
    try:
        bundle = read_bundle(directory, max_bytes=2**24)
        backend = OnnxBackend(bundle, device="cpu")
    except BundleRefused as error:
        return f"refused: {error.why}"
    except BaseException as error:  # noqa: BLE001 - that is the question
        return f"raised {type(error).__name__}: {error}"
    images = backend.run(draw_batch(bundle.spec, 0, 0, 2))
    return f"loaded: {images.shape}"


def main() -> None:
    """Answers until the end of stdin."""
    logging.disable()
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_BYTES, _MOST_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = sys.stdout
    sys.stdout = sys.stderr
    for line in sys.stdin:
        answers.write(json.dumps(judge(Path(line.strip()))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
