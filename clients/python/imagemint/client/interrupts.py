"""How a command ends when Ctrl-C interrupts it."""

import warnings

INTERRUPTED = 130
"""Exit status of an interrupted command: 128 and the number of SIGINT, as in a shell."""


def ignore_unstarted_calls() -> None:
    """Silences the warning about a call that was interrupted before it began.

    An interrupt may come after a coroutine is made and before the event loop has it. Python then
    warns that it was never awaited, on the terminal of a user who pressed Ctrl-C.
    """
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)


def find_interruption(error: BaseException | None) -> KeyboardInterrupt | None:
    """Returns the interruption that is, or was replaced by, an exception; None without one.

    An interruption can come between a step and the note that it is done. The cleanup then repeats
    the step, and its error replaces the interruption: `shutil.rmtree` closes a descriptor twice.
    """
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error
