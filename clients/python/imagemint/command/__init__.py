"""Entry point of the program `imagemint`: imports the command line and runs it."""

import os
import signal
import sys

_INTERRUPTED = 130


def main() -> int:
    """Runs the command line of the process and returns the exit status.

    Ctrl-C always ends the process with status 130 and without a traceback, even during the imports,
    where an exception could surface anywhere, and while the interpreter shuts down.
    """
    signal.signal(signal.SIGINT, lambda *_: os._exit(_INTERRUPTED))
    if sys.argv[1:2] == ["serve"]:
        # SIGHUP makes a server reload its files. It must not end one that is still starting.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    from imagemint.client.cli import main as run  # noqa: PLC0415 - see above

    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return run()
    finally:
        signal.signal(signal.SIGINT, lambda *_: os._exit(_INTERRUPTED))
