"""The program `imagemint`: imports the command line, which takes a moment, and runs it."""

import os
import signal

_INTERRUPTED = 130


def main() -> int:
    """Runs the command line of the process; returns the exit status.

    Ctrl-C ends it with 130 and without a traceback from the first moment to the last: during the
    imports, where an exception could surface anywhere, and while the interpreter shuts down.
    """
    signal.signal(signal.SIGINT, lambda *_: os._exit(_INTERRUPTED))
    from imagemint.client.cli import main as run  # noqa: PLC0415 - see above

    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return run()
    finally:
        signal.signal(signal.SIGINT, lambda *_: os._exit(_INTERRUPTED))
