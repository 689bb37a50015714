"""The connection: targets, load balancing, TLS, and the retries of the service config."""

import asyncio
import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TypeAlias

import grpc
from grpc import aio

from imagemint.client.errors import Unavailable

# gRPC's own limit of 4 MB holds 16 images of 512x512; this one is still far from hurting a caller.
MAX_RECEIVE_BYTES = 256 * 2**20
# A worker that dies resets the connections that it has not accepted yet, so that the first attempt
# to come back may fail although others serve. gRPC's own second would outlast the retries.
RECONNECT_MS = 100

Options: TypeAlias = list[tuple[str, str | int]]


@dataclass(frozen=True, slots=True)
class Tls:
    """How to encrypt, and whom to trust. All paths are PEM files.

    `Tls()` trusts the certificate authorities that gRPC brings along.
    """

    root_certificates_path: Path | str | None = None
    """Certificate authorities to trust instead."""
    private_key_path: Path | str | None = None
    """Key of the client, where the server demands to know it."""
    certificate_chain_path: Path | str | None = None
    """Certificate of the client, beside its key."""
    server_name: str | None = None
    """Name that the server's certificate must bear, if not that of the target."""

    def credentials(self) -> grpc.ChannelCredentials:
        """What gRPC wants to be told.

        Raises:
            OSError: a file cannot be read.
        """
        return grpc.ssl_channel_credentials(
            root_certificates=_read(self.root_certificates_path),
            private_key=_read(self.private_key_path),
            certificate_chain=_read(self.certificate_chain_path),
        )


def targets_of(target: str | Sequence[str]) -> tuple[str, ...]:
    """The single targets in "host:port", "a:1,b:2" or ["a:1", "b:2"].

    Raises:
        ValueError: there is none, one is empty or lacks its port, or several of which one is a
            URI of gRPC's (`unix:`, `dns:`, ...), which can only stand alone.
    """
    several = target.split(",") if isinstance(target, str) else target
    names = tuple(each.strip() for each in several)
    if not names or not all(names):
        raise ValueError(f"{target!r} names no server; wanted HOST:PORT, or several")
    if len(names) == 1 and _is_uri(names[0]):
        return names
    for name in names:
        host, port = host_and_port(name)
        if not host or not 0 < port < 2**16:
            raise ValueError(f"{name!r} is not HOST:PORT")
    return names


def host_and_port(name: str) -> tuple[str, int]:
    """Host, without brackets, and port; port 0 if there is none or it is no number."""
    host, _, port = name.rpartition(":")
    if host.count(":") and not host.startswith("["):  # a bare IPv6 address: no port at all
        return name, 0
    return host.strip("[]"), int(port) if port.isascii() and port.isdigit() else 0


async def open_channel(
    targets: tuple[str, ...], tls: Tls | None, *, retries: bool = True
) -> aio.Channel:
    """A channel over all targets, in turn. It connects with the first call.

    One host name is left to gRPC, which resolves it anew as servers come and go; several are
    resolved once, here.

    Args:
        targets: as `targets_of` gives them.
        tls: how to encrypt; None for plain text.
        retries: whether calls are retried as the service config says.

    Raises:
        OSError: a TLS file cannot be read.
        Unavailable: a host name does not resolve, or the hosts share no address family.
    """
    address = targets[0] if _is_uri(targets[0]) else await _address(targets)
    options = _options(targets, tls)
    if not retries:
        options.append(("grpc.enable_retries", 0))
    if tls is None:
        return aio.insecure_channel(address, options=options)
    return aio.secure_channel(address, tls.credentials(), options=options)


def service_config() -> str:
    """The service config that ships beside the stubs: retries, and round robin."""
    return resources.files("imagemint.v1").joinpath("service_config.json").read_text("utf-8")


def _options(targets: tuple[str, ...], tls: Tls | None) -> Options:
    options: Options = [
        ("grpc.service_config", service_config()),
        ("grpc.max_receive_message_length", MAX_RECEIVE_BYTES),
        ("grpc.initial_reconnect_backoff_ms", RECONNECT_MS),
        # Clients of one process would otherwise share one connection, and so one worker.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    hosts = [host_and_port(each)[0] for each in targets if not _is_uri(each)]
    if all(is_loopback(host) for host in hosts):
        # gRPC would send even this through an http_proxy of the environment.
        options.append(("grpc.enable_http_proxy", 0))
    server_name = tls and tls.server_name
    if tls and not server_name and len(hosts) > 1:
        server_name = hosts[0]  # the addresses alone do not say whose certificate is right
    if server_name:
        options.append(("grpc.ssl_target_name_override", server_name))
        options.append(("grpc.default_authority", server_name))
    return options


async def _address(targets: tuple[str, ...]) -> str:
    if len(targets) == 1 and not _is_ip(host_and_port(targets[0])[0]):
        return f"dns:///{targets[0]}"
    resolved = [await _resolved(*host_and_port(each)) for each in targets]
    for scheme, family in (("ipv4", socket.AF_INET), ("ipv6", socket.AF_INET6)):
        if all(family in addresses for addresses in resolved):
            return f"{scheme}:{','.join(','.join(each[family]) for each in resolved)}"
    raise Unavailable(f"{', '.join(targets)}: no address family in common", reason="UNRESOLVED")


async def _resolved(host: str, port: int) -> dict[int, list[str]]:
    """The addresses of a host by family, each as gRPC writes it."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise Unavailable(f"{host}: {error.strerror}", reason="UNRESOLVED") from error
    addresses: dict[int, list[str]] = {}
    for family, _, _, _, (ip, *_) in found:
        text = f"[{ip}]:{port}" if family == socket.AF_INET6 else f"{ip}:{port}"
        addresses.setdefault(family, []).append(text)
    return addresses


def _is_uri(target: str) -> bool:
    return target.startswith(
        ("unix:", "unix-abstract:", "vsock:", "dns:", "ipv4:", "ipv6:", "xds:")
    )


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether `host`, a name or an address without brackets, is this machine by its name alone."""
    return host == "localhost" or (_is_ip(host) and ipaddress.ip_address(host).is_loopback)


def _read(path: Path | str | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()
