"""`imagemint serve` as a process of its own, and its log. Imported by name, as held_backend is."""

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
    """A server on free ports, in a process group of its own; killed if it does not end by itself.

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
    """The next log line of an event, with these fields, once it is written."""
    async with asyncio.timeout(WAIT_S):
        while line := await started.stderr.readline():
            logged = json.loads(line)
            if logged["event"] == event and logged.items() >= fields.items():
                return logged
    raise AssertionError(f"it ended without {event!r}")


async def ended(started):
    """The exit status."""
    async with asyncio.timeout(WAIT_S):
        await started.communicate()
    return started.returncode


def watched(pid):
    """Watches for the end of a process that need not be a child: returns what waits for it."""
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
    """The lines of servers in this process end where pytest looks for them."""
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, structlog.stdlib.render_to_log_kwargs],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    yield
    structlog.reset_defaults()
