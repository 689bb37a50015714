"""API keys: whom the server knows, what he may, and the file that says so.

The file is TOML, a table for each client::

    [[key]]
    name = "augmentation"
    sha256 = "9f86d08…"            # of the whole key; a list of them while one replaces another
    models = ["mnist"]             # or "*", all of them
    rate_images_per_s = 500.0      # absent: no limit
    burst_images = 2000            # absent: what the rate gives in a second
    max_concurrent_calls = 16      # absent: no limit
    model_control = false

Keys are 256 random bits, so that a plain SHA-256 is the right thing to store: a slow, salted hash
protects what people think up, where an attacker who has the file can try what is likely; here there
is nothing likely, and it would cost time at every call.
"""

import hashlib
import hmac
import re
import secrets
import threading
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal, Self

import structlog
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from imagemint.server.signatures import signature_of

_log = structlog.stdlib.get_logger(__name__)

PREFIX = "imk_"
"""What every key begins with, so that scanners for leaked secrets can find it."""

_KEY_BYTES = 32
_LONGEST_KEY = 256
_LARGEST_FILE = 2**20
_MOST_CLIENTS = 1_000
# A person may paste the key where its digest belongs, and no fault that is logged may repeat it.
_LOOKS_LIKE_KEY = re.compile(rf"{PREFIX}[\w-]{{8,}}")
# How long a change of the file may go unseen: a look at it costs a system call.
_LOOK_S = 1.0

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


class Client(BaseModel):
    """What one client may."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True
    )

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """Name in logs and metrics; not secret."""
    sha256: Annotated[list[Digest], BeforeValidator(_listed), Field(min_length=1, max_length=8)]
    """SHA-256 of the key, lower-case hexadecimal; several while one key replaces another."""
    models: Literal["*"] | list[str] = "*"
    """Names of the models it may use; "*" for all."""
    rate_images_per_s: float | None = Field(default=None, gt=0, le=1e9)
    """Images a second, in the long run; absent, as many as the server makes."""
    burst_images: int | None = Field(default=None, ge=1, le=10**9)
    """Images at once after a rest; absent, what the rate gives in a second."""
    max_concurrent_calls: int | None = Field(default=None, ge=1)
    """Calls that may run side by side; absent, any number."""
    model_control: bool = False
    """Whether it may load and unload models."""

    @model_validator(mode="after")
    def _burst_has_a_rate(self) -> Self:
        if self.burst_images is not None and self.rate_images_per_s is None:
            raise ValueError("burst_images means nothing without rate_images_per_s")
        return self

    @property
    def burst(self) -> float:
        """Images at once after a rest; only with a rate."""
        return float(self.burst_images or max(1.0, self.rate_images_per_s or 0.0))

    def may_use(self, model: str) -> bool:
        """Whether it may use a model, be there one of that name or not."""
        return self.models == "*" or model in self.models


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    key: list[Client] = Field(min_length=1, max_length=_MOST_CLIENTS)

    @model_validator(mode="after")
    def _nothing_twice(self) -> Self:
        names = [client.name for client in self.key]
        digests = [digest for client in self.key for digest in client.sha256]
        if len(set(names)) != len(names):
            raise ValueError("two clients have the same name")
        if len(set(digests)) != len(digests):
            raise ValueError("two clients have the same sha256")
        return self


class KeyFileError(ValueError):
    """A file of keys cannot be used; says why, and repeats nothing that could be a key."""


def new_key() -> str:
    """Returns a fresh key: 256 random bits as text."""
    return PREFIX + secrets.token_urlsafe(_KEY_BYTES)


def digest_of(key: str) -> str:
    """Returns what is stored of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def read_keys(path: Path) -> list[Client]:
    """Returns the clients of a file.

    Raises:
        KeyFileError: it cannot be read, or anything in it is wrong. A file without keys is wrong
            too: it is more likely half-written than meant to lock everybody out.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_FILE + 1)
        if len(content) > _LARGEST_FILE:
            raise KeyFileError(f"{path} is larger than {_LARGEST_FILE:,} bytes")
        return _File.model_validate(tomllib.loads(content.decode())).key
    except OSError as error:
        raise KeyFileError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise KeyFileError(f"{path} is not text") from None
    except tomllib.TOMLDecodeError as error:
        raise KeyFileError(f"{path}: {_masked(str(error))}") from None
    except RecursionError:
        raise KeyFileError(f"{path}: nested too deeply") from None
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False, include_context=False)
        told = "; ".join(
            f"{'.'.join(map(str, fault['loc']))}: {fault['msg'].removeprefix('Value error, ')}"
            for fault in faults[:10]
        )
        raise KeyFileError(f"{path}: {_masked(told)}") from None


def _masked(text: str) -> str:
    return _LOOKS_LIKE_KEY.sub(PREFIX + "…", text)


class KeyRing:
    """The clients of a file, read again when it changes; a bad file leaves them as they were.

    Args:
        path: the file.
        on_reload: told after every attempt but the first whether it worked.
        clock: seconds; for tests.

    Raises:
        KeyFileError: the file is bad from the start.
    """

    def __init__(
        self,
        path: Path,
        on_reload: Callable[[bool], object] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._on_reload = on_reload
        self._clock = clock
        self._lock = threading.Lock()
        # Before the reading: a file that changes meanwhile is read once more.
        self._signature = signature_of([path])
        self._looked_s = clock()
        self._use(read_keys(path))

    def find(self, presented: str) -> Client | None:
        """Returns whose key was presented, None for nobody's.

        Every stored digest is compared, each in constant time, so that the time tells neither how
        much of a digest was right nor whose it was.
        """
        self._look()
        if len(presented) > _LONGEST_KEY:
            return None
        digest = digest_of(presented).encode()
        found: Client | None = None
        for stored, client in self._by_digest:
            if hmac.compare_digest(digest, stored):
                found = client
        return found

    def current(self, client: Client) -> Client | None:
        """Returns what a client may now; None if it is no longer known."""
        self._look()
        return self._by_name.get(client.name)

    def _use(self, clients: list[Client]) -> None:
        self._by_digest = [
            (digest.encode(), client) for client in clients for digest in client.sha256
        ]
        self._by_name = {client.name: client for client in clients}

    def _look(self) -> None:
        """Reads the file again if it has changed, looking at most every second."""
        if self._clock() - self._looked_s < _LOOK_S:
            return
        with self._lock:
            self._looked_s = self._clock()
            signature = signature_of([self._path])
            if signature == self._signature:
                return
            self._signature = signature
            try:
                clients = read_keys(self._path)
            except KeyFileError as error:
                _log.error("api keys not reloaded, the old ones stay", why=str(error))
                self._on_reload(False)
                return
            self._use(clients)
        _log.info("api keys reloaded", clients=len(clients))
        self._on_reload(True)
