"""The connection: targets, load balancing, TLS, and the retries of the service config."""

import asyncio
import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import NamedTuple, TypeAlias

import grpc
from grpc import aio

from imagemint.client.errors import Unavailable

# gRPC's own limit of 4 MB holds 16 images of 512x512; this one is still far from hurting a caller.
MAX_RECEIVE_BYTES = 256 * 2**20
# A worker that dies resets the connections that it has not accepted yet, so that the first attempt
# to come back may fail although others serve. gRPC's own second would outlast the retries.
RECONNECT_MS = 100
# By itself gRPC waits up to two minutes between attempts to reconnect, long after a server is back.
LONGEST_RECONNECT_MS = 2_000

Options: TypeAlias = list[tuple[str, str | int]]


class Certificates(NamedTuple):
    """Contents of PEM files, in the order in which gRPC takes them; None for gRPC's default."""

    roots: bytes | None
    private_key: bytes | None
    certificate_chain: bytes | None


@dataclass(frozen=True, slots=True)
class Tls:
    """Encryption settings. All paths are PEM files.

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

    def certificates(self) -> Certificates:
        """The contents of the files.

        Raises:
            OSError: a file cannot be read.
        """
        return Certificates(
            _read(self.root_certificates_path),
            _read(self.private_key_path),
            _read(self.certificate_chain_path),
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


@dataclass(frozen=True, slots=True)
class ChannelPlan:
    """All that opens a channel, in this process or in the helper of a forked one."""

    address: str
    """What gRPC connects to, such as `dns:///host:8001` or `ipv4:10.0.0.1:8001,10.0.0.2:8001`."""
    options: Options
    """Channel arguments."""
    certificates: Certificates | None
    """Contents of the PEM files; None for plain text."""

    def open(self) -> aio.Channel:
        """A channel of this process. It connects with the first call."""
        if self.certificates is None:
            return aio.insecure_channel(self.address, options=self.options)
        credentials = grpc.ssl_channel_credentials(*self.certificates)
        return aio.secure_channel(self.address, credentials, options=self.options)


async def plan_channel(
    targets: tuple[str, ...], tls: Tls | None, *, retries: bool = True
) -> ChannelPlan:
    """The plan of a channel over all targets, in turn.

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
    certificates = None if tls is None else tls.certificates()
    return ChannelPlan(address, options, certificates)


def service_config() -> str:
    """The service config that ships beside the stubs: retries, and round robin."""
    return resources.files("imagemint.v1").joinpath("service_config.json").read_text("utf-8")


def _options(targets: tuple[str, ...], tls: Tls | None) -> Options:
    options: Options = [
        ("grpc.service_config", service_config()),
        ("grpc.max_receive_message_length", MAX_RECEIVE_BYTES),
        ("grpc.initial_reconnect_backoff_ms", RECONNECT_MS),
        ("grpc.max_reconnect_backoff_ms", LONGEST_RECONNECT_MS),
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
