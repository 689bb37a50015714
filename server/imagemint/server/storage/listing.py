"""What the last listing of an object store found, as a file that several processes share."""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Self


@dataclass(frozen=True)
class Entry:
    """A directory ``model/version`` in the store."""

    stamp: str
    """Differs if one of its files was written, added or removed."""
    bundle: str = ""
    """Id of the bundle to serve: SHA-256 over SHA256SUMS and its signature. Empty for none."""
    is_signed: bool = False
    """Whether the bundle has a signature."""
    fault: str = ""
    """Why the present files are no bundle, such as an incomplete upload."""


@dataclass(frozen=True)
class Listing:
    """The result of listing a store, or of failing to do so."""

    at: float = 0.0
    """Time of the attempt, as seconds since the epoch."""
    entries: Mapping[str, Entry] = field(default_factory=dict)
    """The versions by ``model/version``; of the last successful attempt."""
    error: str = ""
    """Why the attempt failed; empty if it succeeded."""
    lasting: bool = False
    """Whether a retry is unlikely to help."""

    def is_fresh(self, max_age_s: float) -> bool:
        """Returns whether the attempt was less than `max_age_s` ago."""
        return 0 <= time.time() - self.at < max_age_s

    def to_json(self) -> str:
        """Returns the listing as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def of_json(cls, text: str) -> Self:
        """Returns the listing of `to_json`.

        Raises:
            ValueError, TypeError, KeyError, AttributeError: the text is not of that form.
        """
        fields = json.loads(text)
        entries = {key: Entry(**entry) for key, entry in fields.pop("entries").items()}
        return cls(entries=entries, **fields)
