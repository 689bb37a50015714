"""API keys: the clients of the server and their permissions.

The key file is TOML, with a table for each client::

    [[key]]
    name = "augmentation"
    sha256 = "9f86d08…"            # digest of the whole key; a list while one key replaces another
    models = ["mnist"]             # or "*" for all models
    rate_images_per_s = 500.0      # default: no limit
    burst_images = 2000            # default: the images of one second at that rate
    max_concurrent_calls = 16      # default: the setting max_calls_per_caller
    model_control = false

A key is 256 random bits, so its plain SHA-256 is safe to store. Passwords need a slow, salted hash,
because an attacker who has the file can guess them. Random bits cannot be guessed, and a slow hash
would cost time at every call.
"""

import hashlib
import re
import secrets
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal, Self

import structlog
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from imagemint.server.file_changes import WatchedFiles, read_file

_log = structlog.stdlib.get_logger(__name__)

PREFIX = "imk_"
"""Prefix of every key, so that scanners for leaked secrets can find it."""

_KEY_BYTES = 32
_LARGEST_FILE = 2**20
_MOST_CLIENTS = 1_000
_MOST_FAULTS = 10
# An operator may paste a key where its digest belongs. No logged error may repeat it.
_LOOKS_LIKE_KEY = re.compile(rf"{PREFIX}[\w-]{{8,}}")
# Seconds between two checks of the file. Each check costs a system call.
_CHECK_INTERVAL_S = 1.0

# As in imagemint.engine.manifest_checks, which the command `imagemint key` does not need.
_MODEL_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def _check_models(models: str | list[str]) -> str | list[str]:
    """Refuses names that no model can have: such a key would be refused everywhere."""
    wrong = [] if isinstance(models, str) else [m for m in models if not _MODEL_NAME.fullmatch(m)]
    if wrong:
        raise ValueError(f'{wrong[0]!r} is not the name of a model; all models are models = "*"')
    return models


def _wrap_in_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


class Client(BaseModel):
    """A client and its permissions and limits."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True
    )

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """Name in logs and metrics. It is not a secret."""
    sha256: Annotated[
        list[Digest], BeforeValidator(_wrap_in_list), Field(min_length=1, max_length=8)
    ]
    """SHA-256 of the key in lower-case hexadecimal; a list while one key replaces another."""
    models: Annotated[Literal["*"] | list[str], AfterValidator(_check_models)] = "*"
    """Names of the models that the client may use; "*" for all."""
    rate_images_per_s: float | None = Field(default=None, gt=0, le=1e9)
    """Images per second in the long run. Default: no limit."""
    burst_images: int | None = Field(default=None, ge=1, le=10**9)
    """Images at once after a pause. Default: the images of one second at the rate."""
    max_concurrent_calls: int | None = Field(default=None, ge=1)
    """Calls that may run at the same time. Default: the setting `max_calls_per_caller`."""
    model_control: bool = False
    """Whether the client may load and unload models."""

    @model_validator(mode="after")
    def _check_burst(self) -> Self:
        if self.burst_images is not None and self.rate_images_per_s is None:
            raise ValueError("burst_images requires rate_images_per_s")
        return self

    @property
    def burst(self) -> float:
        """Images at once after a pause. It is defined only with a rate."""
        return float(self.burst_images or max(1.0, self.rate_images_per_s or 0.0))

    def divide_limits(self, workers: int) -> Self:
        """Returns the client with its limits divided evenly among workers.

        A share is at least one call and one image of burst, however many workers there are.
        """
        if workers == 1:
            return self
        rate, calls = self.rate_images_per_s, self.max_concurrent_calls
        return self.model_copy(
            update={
                "rate_images_per_s": rate and rate / workers,
                "burst_images": self.burst_images and max(1, self.burst_images // workers),
                "max_concurrent_calls": calls and max(1, calls // workers),
            }
        )

    def may_use(self, model: str) -> bool:
        """Returns whether the client may use a model. The model need not exist."""
        return self.models == "*" or model in self.models


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    key: list[Client] = Field(min_length=1, max_length=_MOST_CLIENTS)

    @model_validator(mode="after")
    def _check_unique(self) -> Self:
        names = [client.name for client in self.key]
        digests = [digest for client in self.key for digest in client.sha256]
        if len(set(names)) != len(names):
            raise ValueError("two clients have the same name")
        if len(set(digests)) != len(digests):
            raise ValueError("two clients have the same sha256")
        return self


class KeyFileError(ValueError):
    """A key file cannot be used. The message gives the reason and never repeats a key."""


def generate_key() -> str:
    """Returns a new key: 256 random bits as text."""
    return PREFIX + secrets.token_urlsafe(_KEY_BYTES)


def compute_digest(key: str) -> str:
    """Returns the digest of a key. The server stores only digests."""
    return hashlib.sha256(key.encode()).hexdigest()


def read_keys(path: Path) -> list[Client]:
    """Returns the clients of a key file.

    Raises:
        KeyFileError: the file cannot be read, or anything in it is wrong. A file without keys is
            wrong too: it is more likely half-written than meant to reject every caller.
    """
    try:
        content = read_file(path, _LARGEST_FILE)
    except OSError as error:
        raise _make_read_error(path, error) from None
    return _parse(path, content)


def _make_read_error(path: Path, error: OSError) -> KeyFileError:
    return KeyFileError(f"cannot read {path}: {error.strerror}")


def _parse(path: Path, content: bytes) -> list[Client]:
    try:
        return _File.model_validate(tomllib.loads(content.decode())).key
    except UnicodeDecodeError:
        raise KeyFileError(f"{path} is not text") from None
    except tomllib.TOMLDecodeError as error:
        raise KeyFileError(f"{path}: {_mask_keys(str(error))}") from None
    except RecursionError:
        raise KeyFileError(f"{path}: nested too deeply") from None
    except ValidationError as error:
        raise KeyFileError(f"{path}: {describe_faults(error)}") from None


def describe_faults(error: ValidationError) -> str:
    """Returns what is wrong with a client or a file of clients, without keys."""
    faults = error.errors(include_url=False, include_input=False, include_context=False)
    descriptions = []
    for fault in faults[:_MOST_FAULTS]:
        place = ".".join(map(str, fault["loc"]))
        message = fault["msg"].removeprefix("Value error, ")
        descriptions.append(f"{place}: {message}" if place else message)
    return _mask_keys("; ".join(descriptions))


def _mask_keys(text: str) -> str:
    return _LOOKS_LIKE_KEY.sub(PREFIX + "…", text)


class KeyRing:
    """The clients of a key file. The file is read again when it changes.

    If the changed file is invalid or cannot be read, the clients remain unchanged and the file is
    read again later.

    Args:
        path: the key file.
        on_reload: called after each change of the file with whether the change was applied. A
            lasting failure is reported once.
        clock: returns seconds; tests replace it.
        workers: number of processes among which the limits of each client are divided.

    Raises:
        KeyFileError: the file is invalid at the start.
    """

    def __init__(
        self,
        path: Path,
        on_reload: Callable[[bool], object] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
        *,
        workers: int = 1,
    ) -> None:
        self._path = path
        self._workers = workers
        self._on_reload = on_reload
        self._clock = clock
        self._file = WatchedFiles([path], _LARGEST_FILE)
        self._checked_s = clock()
        self._last_failure = ""
        self._is_unreadable = False
        self._is_invalid = False
        self._by_digest: dict[str, Client] = {}
        self._read()

    @property
    def is_refused(self) -> bool:
        """Whether the file cannot be read, or has an error, so that older clients stay in use."""
        return self._is_unreadable or self._is_invalid

    def find(self, presented: str) -> Client | None:
        """Returns the client of a key; None if the key is not known."""
        return self.find_by_digest(compute_digest(presented))

    def find_by_digest(self, digest: str) -> Client | None:
        """Returns the client of a key's digest in the current file; None if it is not known.

        The lookup in a dictionary takes the same time however many keys there are. Its comparison
        may stop at the first difference. That tells an attacker nothing useful: to choose a key
        whose digest shares a prefix with a stored one means to search SHA-256, and even the whole
        digest does not lead back to the 256 random bits of the key.
        """
        self.reload_if_changed()
        return self._by_digest.get(digest)

    def reload_if_changed(self) -> None:
        """Reads the file again if it has changed; checks at most once per second."""
        if self._clock() - self._checked_s < _CHECK_INTERVAL_S:
            return
        self._checked_s = self._clock()
        try:
            is_new = self._read()
        except KeyFileError as error:
            if str(error) != self._last_failure:
                self._last_failure = str(error)
                _log.error(
                    "api keys not reloaded, the old ones stay in use", why=self._last_failure
                )
                self._on_reload(False)
            return
        self._last_failure = ""
        if is_new:
            _log.info("api keys reloaded", clients=len(set(map(id, self._by_digest.values()))))
            self._on_reload(True)

    def _read(self) -> bool:
        """Reads the clients again if the file has changed; returns whether it has."""
        try:
            contents = self._file.read_changed()
        except OSError as error:
            self._is_unreadable = True
            raise _make_read_error(self._path, error) from None
        self._is_unreadable = False
        if contents is None:
            return False
        self._is_invalid = True
        clients = [
            client.divide_limits(self._workers) for client in _parse(self._path, contents[0])
        ]
        self._by_digest = {digest: client for client in clients for digest in client.sha256}
        self._is_invalid = False
        return True
