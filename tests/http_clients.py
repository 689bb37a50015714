"""Clients of the HTTP interface. Imported by name, like held_backend."""

import asyncio
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import httpx

EVERYWHERE = {
    "grpc_address": "127.0.0.1:0",
    "metrics_address": "127.0.0.1:0",
    "http_address": "127.0.0.1:0",
}


@asynccontextmanager
async def browse(app, **options):
    """Opens a client of a server that ignores proxies of the environment."""
    async with httpx.AsyncClient(
        base_url=app.http_url, trust_env=False, timeout=60, **options
    ) as client:
        yield client


@asynccontextmanager
async def open_socket(app):
    """Opens a raw connection and yields its reader and its writer."""
    address = urlsplit(app.http_url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        yield reader, writer
    finally:
        writer.close()
