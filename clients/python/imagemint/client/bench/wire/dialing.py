"""Addresses: how they are written, resolved and connected to, with or without TLS."""

import asyncio
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, replace

from imagemint.client.bench.target import CallFailed
from imagemint.client.bench.wire.connection import Connection, Owner
from imagemint.client.channel import Tls, host_and_port, targets_of

# As long as an answer to a first packet may take on a bad day.
_CONNECT_S = 10.0
_DEFAULT_PORT = 443
# URIs of gRPC's that `targets_of` lets pass.
_OTHERS = ("vsock", "xds")
_SCHEMES = ("unix", "unix-abstract", "dns", "ipv4", "ipv6", *_OTHERS)


@dataclass(frozen=True, slots=True)
class Address:
    """One of the addresses of one server name.

    Attributes:
        host: name or IP address; empty for a Unix socket.
        port: of TCP.
        path: of the Unix socket; begins with a zero byte for an abstract one.
        place: which of the addresses that the name resolves to, modulo how many there are.
        authority: what the request calls the server.
        server_name: name in its certificate.
        encryption: how to encrypt; None for plain text.
    """

    host: str
    port: int
    authority: str
    path: str = ""
    place: int = 0
    server_name: str | None = None
    encryption: ssl.SSLContext | None = None

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}".replace("\0", "@")
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


async def addresses(target: str | Sequence[str], tls: Tls | None) -> list[Address]:
    """Every address of a target.

    Args:
        target: as `imagemint.client.channel.targets_of` takes it.
        tls: how to encrypt; None for plain text. Where it names no server, the certificate must be
            that of the first target.

    Raises:
        CallFailed: a name does not resolve, or a URI is of a kind that only gRPC's core knows.
        OSError: a TLS file cannot be read.
        ValueError: the target is none.
    """
    encryption = None if tls is None else context(tls)
    places = [place for each in targets_of(target) for place in _places(each)]
    server_name = (tls and tls.server_name) or places[0][0] or "localhost"
    found = []
    for host, port, path in places:
        name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}" if host else "localhost"
        address = Address(
            host,
            port,
            tls.server_name if tls and tls.server_name else name,
            path,
            server_name=server_name if tls else None,
            encryption=encryption,
        )
        count = 1 if path else len(await _resolved(host, port))
        found += [replace(address, place=place) for place in range(count)]
    return found


def context(tls: Tls) -> ssl.SSLContext:
    """The settings as Python's ssl wants them.

    Without certificate authorities of its own it trusts those of the machine.

    Raises:
        OSError: a file cannot be read.
    """
    made = ssl.create_default_context(cafile=tls.root_certificates_path)
    made.set_alpn_protocols(["h2"])
    if tls.certificate_chain_path is not None:
        made.load_cert_chain(tls.certificate_chain_path, tls.private_key_path)
    return made


async def dialed(address: Address, owner: Owner) -> Connection:
    """A connection whose server has greeted.

    Raises:
        CallFailed: nobody answers, or not in HTTP/2.
    """
    connection: Connection | None = None
    try:
        async with asyncio.timeout(_CONNECT_S):
            connection = await _connected(address, owner)
            await connection.ready
    except OSError as error:
        _abort(connection)
        why = str(error) or f"no answer within {_CONNECT_S:g} s"
        raise CallFailed("UNAVAILABLE", f"{address}: {why}") from None
    except CallFailed as failure:
        _abort(connection)
        raise CallFailed(failure.code, f"{address}: {failure.message}") from None
    except asyncio.CancelledError:
        _abort(connection)
        raise
    if connection.leaving:
        raise CallFailed("UNAVAILABLE", f"{address}: it went away at once")
    return connection


async def _connected(address: Address, owner: Owner) -> Connection:
    loop = asyncio.get_running_loop()
    if address.path:
        _, connection = await loop.create_unix_connection(
            lambda: Connection(owner),
            address.path,
            ssl=address.encryption,
            server_hostname=address.server_name,
        )
        return connection
    found = await _resolved(address.host, address.port)
    _, connection = await loop.create_connection(
        lambda: Connection(owner),
        found[address.place % len(found)],
        address.port,
        ssl=address.encryption,
        server_hostname=address.server_name,
    )
    return connection


def _places(target: str) -> list[tuple[str, int, str]]:
    """Host, port and path of each address in one target; either host or path is empty."""
    scheme, colon, rest = target.partition(":")
    if not colon or scheme not in _SCHEMES:
        return [(*host_and_port(target), "")]
    if scheme == "unix":
        return [("", 0, rest.removeprefix("//"))]
    if scheme == "unix-abstract":
        return [("", 0, f"\0{rest}")]
    if scheme == "dns":
        rest = rest.rpartition("/")[2]  # after the name server, which nobody names
    names = rest.split(",")
    if scheme in _OTHERS or not all(names):
        raise CallFailed("UNAVAILABLE", f"{target}: only gRPC's own library finds such a server")
    places = [host_and_port(each) for each in names]
    return [(host.strip("[]"), port or _DEFAULT_PORT, "") for host, port in places]


async def _resolved(host: str, port: int) -> list[str]:
    """The IP addresses of a host, each once."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise CallFailed("UNAVAILABLE", f"{host}: {error.strerror}") from None
    return list(dict.fromkeys(str(where[0]) for *_, where in found))


def _abort(connection: Connection | None) -> None:
    if connection is not None:
        connection.abort()
