"""Runs `imagemint dataset` again and again, and kills it at chosen steps on the file system.

Usage: dataset_killer.py FOLDER STEPS ARGUMENTS...

STEPS are numbers, separated by commas. A child process counts the files and folders that it opens,
makes, renames and deletes in FOLDER, and kills itself (SIGKILL) before the step with the number.
The next child continues, and takes the next number. The last child is not killed. It prints the
number of its steps. The program forks from a process that has imported everything, for speed.
"""

import os
import signal
import sys

import imagemint.dataset.command
import imagemint.dataset.formats.parquet
import imagemint.dataset.local  # noqa: F401 - imported before the forks
from imagemint.client.cli import main

STEPS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"}


def run_child(folder, fatal, arguments):
    """Runs the command, and kills this process before its step number `fatal`."""
    taken = 0

    def count(event, values):
        nonlocal taken
        if event in STEPS and any(str(value).startswith(folder) for value in values[:2]):
            taken += 1
            if taken == fatal:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    status = main(arguments)
    if fatal == 0:
        sys.stdout.write(f"{taken}\n")
        sys.stdout.flush()
    os._exit(status)


def run(folder, steps, arguments):
    """Runs a child for each step, and one more."""
    for fatal in [*steps, 0]:
        child = os.fork()
        if child == 0:
            run_child(folder, fatal, arguments)
        _, status = os.waitpid(child, 0)
        ended = os.waitstatus_to_exitcode(status)
        # 0: the data set was complete before that step.
        assert ended == 0 or (fatal and ended == -signal.SIGKILL), ended


if __name__ == "__main__":
    run(sys.argv[1], [int(each) for each in sys.argv[2].split(",") if each], sys.argv[3:])
