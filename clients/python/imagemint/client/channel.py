"""Opens gRPC channels: targets, load balancing, TLS, and the retries of the service config."""

import asyncio
import ipaddress
import os
import re
import socket
import ssl
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import NamedTuple, TypeAlias

import grpc
from grpc import aio

from imagemint.client.arguments import describe, parse_number
from imagemint.client.errors import InvalidRequest, Unavailable

# gRPC's default of 4 MB holds only five images of 512x512x3. This limit still protects the caller.
MAX_RECEIVE_BYTES = 256 * 2**20
# gRPC retries a call only while it holds the request. Unless told otherwise, it holds 256 KB: too
# little for photos. The request is in memory anyway until the call ends.
RETRIED_BYTES = 2**31 - 1
# When a worker dies, connections that it has not accepted are reset, so the first attempt to
# reconnect may fail although other workers serve. gRPC's default of one second exceeds the retries.
RECONNECT_MS = 100
# gRPC's default waits up to two minutes between attempts, long after a server is back.
LONGEST_RECONNECT_MS = 2_000
# A connection without an answer to a ping is closed after the sum of both. Our server takes pings
# that are 10 s apart, and proxies often expect no more.
KEEPALIVE_MS = 20_000
KEEPALIVE_TIMEOUT_MS = 10_000

_PEM_BEGIN = b"-----BEGIN "
_METADATA_NAME = re.compile(r"[0-9a-z_.-]+")

Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]
MetadataLike: TypeAlias = Mapping[str, str | bytes] | Sequence[tuple[str, str | bytes]]
"""Metadata of calls: a mapping, or pairs of name and value, of which several may have one name."""
Options: TypeAlias = list[tuple[str, str | int]]


class Certificates(NamedTuple):
    """Contents of PEM files, in the order of gRPC's arguments; None for gRPC's default."""

    roots: bytes | None
    private_key: bytes | None
    certificate_chain: bytes | None


@dataclass(frozen=True, slots=True)
class Tls:
    """Encryption settings. All paths are PEM files.

    `Tls()` trusts the certificate authorities that gRPC includes.

    Raises:
        ValueError: only one of private key and certificate chain is given.
        TypeError: a value has the wrong type.
    """

    root_certificates_path: Path | str | None = None
    """Certificate authorities to trust instead of gRPC's."""
    private_key_path: Path | str | None = None
    """Key of the client, for servers that require client certificates."""
    certificate_chain_path: Path | str | None = None
    """Certificate of the client, which belongs to the key."""
    server_name: str | None = None
    """Name that the server's certificate must have. Default: the host of the target."""

    def __post_init__(self) -> None:
        for name in ("root_certificates_path", "private_key_path", "certificate_chain_path"):
            path = getattr(self, name)
            if not isinstance(path, str | os.PathLike | None):
                raise TypeError(f"{name}: {describe(path)} is not a path")
        if not isinstance(self.server_name, str | None):
            raise TypeError(f"server_name: {describe(self.server_name)} is not a str")
        if (self.private_key_path is None) != (self.certificate_chain_path is None):
            # gRPC would abort the whole process.
            raise ValueError("set the private key and the certificate chain together")

    def certificates(self) -> Certificates:
        """Reads the files.

        Raises:
            OSError: a file cannot be read, is not a PEM file, or key and certificate are no pair.
        """
        if self.private_key_path is not None and self.certificate_chain_path is not None:
            _check_pair(self.private_key_path, self.certificate_chain_path)
        return Certificates(
            _read(self.root_certificates_path),
            _read(self.private_key_path),
            _read(self.certificate_chain_path),
        )


def parse_targets(target: str | Sequence[str]) -> tuple[str, ...]:
    """Splits "host:port", "a:1,b:2" or ["a:1", "b:2"] into single targets.

    Raises:
        ValueError: there is no target, one is empty or lacks its port, or there are several and one
            of them is a gRPC URI (`unix:`, `dns:`, ...), which must be the only target.
        TypeError: it is neither a text nor several texts.
    """
    if isinstance(target, bytes) or not isinstance(target, Iterable):
        raise TypeError(f"target: {describe(target)} is neither HOST:PORT nor a sequence of these")
    several = target.split(",") if isinstance(target, str) else list(target)
    for address in several:
        if not isinstance(address, str):
            raise TypeError(f"target: {describe(address)} is not HOST:PORT, a str")
    names = tuple(each.strip() for each in several)
    if not names or not all(names):
        raise ValueError(f"{target!r} names no server; expected HOST:PORT, or several")
    if len(names) == 1 and _is_uri(names[0]):
        return names
    for name in names:
        host, port = split_address(name)
        if not host or not 0 < port < 2**16:
            raise ValueError(f"{name!r} is not HOST:PORT")
    return names


def check_tls(tls: Tls | None) -> Tls | None:
    """Returns encryption settings.

    Raises:
        TypeError: they are no `Tls`.
    """
    if not isinstance(tls, Tls | None):
        raise TypeError(f"tls: {describe(tls)} is not a Tls")
    return tls


def parse_timeout(timeout_s: float | None) -> float | None:
    """Returns the default time limit of calls in seconds; None for no limit.

    Raises:
        ValueError: it is not above 0.
        TypeError: it is not a number.
    """
    if timeout_s is None:
        return None
    try:
        seconds = parse_number("timeout_s", timeout_s)
    except InvalidRequest as error:
        raise TypeError(error.message) from None
    if not seconds > 0:
        raise ValueError(f"timeout_s: {seconds:g} is not above 0")
    return seconds


def parse_metadata(metadata: MetadataLike) -> Metadata:
    """Returns pairs of metadata with names in lower case, which gRPC demands.

    Raises:
        ValueError: gRPC cannot send a pair. The message names it, but not its value, which may be a
            secret.
        TypeError: it is no sequence of pairs, or a name or value has the wrong type.
    """
    given = metadata.items() if isinstance(metadata, Mapping) else metadata
    try:
        found = [(name, value) for name, value in given]
    except (TypeError, ValueError):  # its text may hold a secret
        raise TypeError("metadata: not pairs of name and value") from None
    for name, value in found:
        if not isinstance(name, str):
            raise TypeError(f"metadata: the name {describe(name)} is not a str")
        if not isinstance(value, bytes if name.lower().endswith("-bin") else str | bytes):
            kind = type(value).__name__
            raise TypeError(
                f"metadata: the value of {name!r} is of type {kind}. It must be bytes if the name"
                " ends with -bin, otherwise a str"
            )
    pairs = tuple((name.lower(), value) for name, value in found)
    for name, value in pairs:
        if _METADATA_NAME.fullmatch(name) is None:
            raise ValueError(
                f"metadata: {name!r} is not a name of letters, digits, and the characters - _ ."
            )
        text = value.decode("latin-1") if isinstance(value, bytes) else value
        if not name.endswith("-bin") and not (text.isascii() and text.isprintable()):
            raise ValueError(f"metadata: the value of {name!r} is not printable ASCII")
    return pairs


def parse_api_key(api_key: str | None) -> tuple[tuple[str, str], ...]:
    """Returns the metadata of an API key; none without one.

    Raises:
        TypeError: it is not a text. The message does not show it.
    """
    if not isinstance(api_key, str | None):
        raise TypeError(f"api_key: a value of type {type(api_key).__name__} is not a str")
    return () if api_key is None else (("authorization", f"Bearer {api_key}"),)


def join_metadata(first: Metadata, second: MetadataLike, *, replaces: bool = False) -> Metadata:
    """Returns the metadata of both.

    Args:
        first: metadata, of which the values are not checked yet.
        second: likewise.
        replaces: whether a name of the second replaces the same name of the first.

    Raises:
        ValueError: gRPC cannot send a pair, or both have `authorization`.
        TypeError: as `parse_metadata`.
    """
    before, after = parse_metadata(first), parse_metadata(second)
    names = {name for name, _ in after}
    if replaces:
        before = tuple(pair for pair in before if pair[0] not in names)
    elif any(name in names for name, _ in before):
        raise ValueError("api_key: metadata has `authorization`, too; give one of them")
    return (*before, *after)


def may_move(targets: tuple[str, ...]) -> bool:
    """Returns whether targets have to be resolved again: several, of which one is a host name.

    gRPC follows a single name.
    """
    return len(targets) > 1 and not all(_is_ip(split_address(target)[0]) for target in targets)


def split_address(name: str) -> tuple[str, int]:
    """Returns host, without brackets, and port; the port is 0 if it is missing or not a number."""
    host, _, port = name.rpartition(":")
    if host.count(":") and not host.startswith("["):  # a bare IPv6 address: no port at all
        return name, 0
    return host.strip("[]"), int(port) if port.isascii() and port.isdigit() else 0


@dataclass(frozen=True, slots=True)
class ChannelPlan:
    """Everything that opens a channel, in this process or in the helper of a forked process."""

    address: str
    """Address for gRPC, such as `dns:///host:8001` or `ipv4:10.0.0.1:8001,10.0.0.2:8001`."""
    options: Options
    """Channel arguments."""
    certificates: Certificates | None
    """Contents of the PEM files; None for plain text."""

    def open(self) -> aio.Channel:
        """Creates a channel in this process. It connects with the first call."""
        if self.certificates is None:
            return aio.insecure_channel(self.address, options=self.options)
        credentials = grpc.ssl_channel_credentials(*self.certificates)
        return aio.secure_channel(self.address, credentials, options=self.options)


async def plan_channel(
    targets: tuple[str, ...], tls: Tls | None, *, retries: bool = True
) -> ChannelPlan:
    """Plans a channel over all targets, which calls use in turn.

    gRPC resolves a single host name again when servers come and go. Several names are resolved
    here, and `Connection` does it again. A name that does not resolve is left out, unless none
    does: where a server is down, its name is often gone.

    Args:
        targets: result of `parse_targets`.
        tls: encryption settings; None for plain text.
        retries: whether gRPC retries calls as the service config specifies.

    Raises:
        OSError: a TLS file cannot be read.
        Unavailable: no host name resolves, or the hosts share no address family.
    """
    address = targets[0] if _is_uri(targets[0]) else await _build_address(targets)
    options = _build_options(targets, tls)
    if not retries:
        options.append(("grpc.enable_retries", 0))
    certificates = None if tls is None else tls.certificates()
    return ChannelPlan(address, options, certificates)


def read_service_config() -> str:
    """Returns the service config that ships with the stubs: retries and round robin."""
    return resources.files("imagemint.v1").joinpath("service_config.json").read_text("utf-8")


def _build_options(targets: tuple[str, ...], tls: Tls | None) -> Options:
    options: Options = [
        ("grpc.service_config", read_service_config()),
        ("grpc.max_receive_message_length", MAX_RECEIVE_BYTES),
        ("grpc.per_rpc_retry_buffer_size", RETRIED_BYTES),
        ("grpc.initial_reconnect_backoff_ms", RECONNECT_MS),
        ("grpc.max_reconnect_backoff_ms", LONGEST_RECONNECT_MS),
        # Without pings, calls wait on a connection whose server has vanished without a word.
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        # gRPC's pings that measure the bandwidth come first, and would wait for a minute.
        ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.http2.max_pings_without_data", 0),
        # Otherwise all clients of a process share one connection, and therefore one worker.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    hosts = [split_address(target)[0] for target in targets if not _is_uri(target)]
    if all(is_loopback(host) for host in hosts):
        # gRPC would send even these calls through the http_proxy of the environment.
        options.append(("grpc.enable_http_proxy", 0))
    server_name = tls and tls.server_name
    if tls and not server_name and len(hosts) > 1:
        server_name = hosts[0]  # addresses alone do not determine the name in the certificate
    if server_name:
        options.append(("grpc.ssl_target_name_override", server_name))
        options.append(("grpc.default_authority", server_name))
    return options


async def _build_address(targets: tuple[str, ...]) -> str:
    if len(targets) == 1 and not _is_ip(split_address(targets[0])[0]):
        return f"dns:///{targets[0]}"
    found = await asyncio.gather(
        *(_resolve(*split_address(target)) for target in targets), return_exceptions=True
    )
    resolved = [each for each in found if isinstance(each, dict)]
    faults = [each for each in found if isinstance(each, BaseException)]
    if not resolved or not all(isinstance(fault, Unavailable) for fault in faults):
        raise faults[0]
    for scheme, family in (("ipv4", socket.AF_INET), ("ipv6", socket.AF_INET6)):
        if all(family in addresses for addresses in resolved):
            # Name servers change the order of addresses, which has no meaning here.
            several = dict.fromkeys(one for each in resolved for one in sorted(each[family]))
            return f"{scheme}:{','.join(several)}"
    raise Unavailable(f"{', '.join(targets)}: no address family in common", reason="UNRESOLVED")


async def _resolve(host: str, port: int) -> dict[int, list[str]]:
    """Returns the addresses of a host by family, in the syntax of gRPC."""
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
    """Returns whether `host`, a name or an address without brackets, is a loopback address."""
    return host == "localhost" or (_is_ip(host) and ipaddress.ip_address(host).is_loopback)


def _check_pair(key: Path | str, chain: Path | str) -> None:
    """Checks that a key and a certificate belong together: gRPC would only fail to connect.

    Raises:
        OSError: they do not, or one of them cannot be read.
    """
    for path in (key, chain):
        _read(path)
    try:
        # Without a password, OpenSSL would ask for that of an encrypted key.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(chain, key, password="")
    except ssl.SSLError as error:
        why = error.reason or "not valid"
        raise OSError(f"{key} is not the key of the certificate in {chain}: {why}") from None


def _read(path: Path | str | None) -> bytes | None:
    if path is None:
        return None
    content = Path(path).read_bytes()
    if _PEM_BEGIN not in content:  # gRPC would only say that it cannot reach the server
        raise OSError(f"{path} is not a PEM file")
    return content
