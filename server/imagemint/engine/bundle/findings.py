"""The results of the probe of a bundle, which processes exchange as JSON."""

import enum
import json
from dataclasses import asdict, dataclass
from typing import Self

FIXED_BATCH = 64
"""Rows of every run if no smaller measure makes pixels independent of the batch."""


class Batching(enum.Enum):
    """How batches must run so that pixels do not depend on them."""

    AS_THEY_COME = "as they come"
    NEVER_ALONE = "never of one row"
    BUCKETS = "of certain sizes, always"
    FIXED = f"of {FIXED_BATCH} rows, always"
    ALONE = "of one row, always"


@dataclass(frozen=True, slots=True)
class Findings:
    """How to run the batches of one graph on the CPUs of this machine."""

    sha256: str
    """SHA-256 of the probed graph."""
    batching: Batching
    spread: bool
    """Whether several threads can share a batch while no other batch runs."""
    most_rows: int
    """Number of rows of the largest probed batch; larger batches are split."""

    def to_json(self) -> str:
        """Returns the findings as a line of JSON."""
        return json.dumps(asdict(self) | {"batching": self.batching.name})

    @classmethod
    def of_json(cls, text: str) -> Self:
        """Returns the findings of a line of JSON."""
        fields = json.loads(text)
        return cls(**(fields | {"batching": Batching[fields["batching"]]}))
