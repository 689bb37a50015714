"""Functions for `imagemint serve` as a process, and its log.

Imported by name, like held_backend.
"""

import asyncio
import json
import os
import signal
import sys
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import structlog
from held_backend import WAIT_S

COMMAND = Path(sys.executable).with_name("imagemint")


@asynccontextmanager
async def process(*arguments, **environment):
    """Starts a server on free ports in its own process group and kills it if it is left running.

    Yields the process.
    """
    started = await asyncio.create_subprocess_exec(
        *(COMMAND, "serve", "--grpc-address=127.0.0.1:0", "--metrics-address=127.0.0.1:0"),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
        env=os.environ | environment,
    )
    try:
        yield started
    finally:
        if started.returncode is None:
            os.killpg(started.pid, signal.SIGKILL)
        await started.communicate()


async def line_of(started, event, **fields):
    """Waits for the next log line of an event with these fields and returns it."""
    async with asyncio.timeout(WAIT_S):
        while line := await started.stderr.readline():
            logged = json.loads(line)
            if logged["event"] == event and logged.items() >= fields.items():
                return logged
    raise AssertionError(f"it ended without {event!r}")


async def ended(started):
    """Returns the exit status."""
    async with asyncio.timeout(WAIT_S):
        await started.communicate()
    return started.returncode


def watched(pid):
    """Watches any process and returns a function that waits for its end."""
    handle = os.pidfd_open(pid)
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()
    loop.add_reader(handle, gone.set)

    async def wait():
        try:
            async with asyncio.timeout(WAIT_S):
                await gone.wait()
        finally:
            loop.remove_reader(handle)
            os.close(handle)

    return wait


@contextmanager
def server_logs():
    """Redirects the log lines of servers in this process to pytest."""
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, structlog.stdlib.render_to_log_kwargs],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    yield
    structlog.reset_defaults()
