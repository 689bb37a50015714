"""Forwards TCP connections to a server, as a network that fails.

Imported by name: pyproject.toml puts tests/ on the path.
"""

import asyncio
import contextlib

CUT = b"cut-here"


class Forwarder:
    """A way to a server that can be blocked or cut.

    It closes a connection after data with `CUT` in it.

    Args:
        address: HOST:PORT of the server.
    """

    def __init__(self, address):
        self._address = address.split(":")
        self.connected, self.flows = asyncio.Event(), asyncio.Event()
        self.flows.set()
        self._writers, self._pumps, self._opening = [], [], set()

    async def start(self):
        """Listens on a free port."""
        self.server = await asyncio.start_server(self._forward, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]

    async def close(self):
        """Closes all connections."""
        self.server.close()
        await asyncio.gather(*self._opening)
        for pump in self._pumps:
            pump.cancel()
        for writer in self._writers:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _forward(self, reader, writer):
        self._writers.append(writer)
        opening = asyncio.ensure_future(asyncio.open_connection(*self._address))
        self._opening.add(opening)
        onward = await opening
        self._opening.discard(opening)
        self._writers.append(onward[1])
        for each in ((reader, onward[1]), (onward[0], writer)):
            self._pumps += [asyncio.ensure_future(self._pump(*each))]
        self.connected.set()

    async def _pump(self, reader, writer):
        while data := await reader.read(2**16):
            await self.flows.wait()
            writer.write(data)
            if CUT in data:
                break
        writer.close()


@contextlib.asynccontextmanager
async def run_forwarder(address):
    """Yields a forwarder to a server."""
    forwarder = Forwarder(address)
    await forwarder.start()
    try:
        yield forwarder
    finally:
        await forwarder.close()
