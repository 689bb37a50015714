"""What the probe of a bundle found out, in a form that crosses processes."""

import json
from dataclasses import asdict, dataclass
from typing import Self

from imagemint.engine.onnx.batch_invariance import Batching


@dataclass(frozen=True, slots=True)
class Findings:
    """How the batches of one graph must be run on the CPUs of this machine."""

    sha256: str
    """Of the graph that was probed."""
    batching: Batching
    spread: bool
    """Whether a batch that is alone may be shared by several threads."""
    most_rows: int
    """Rows of the largest batch that was probed; larger ones are cut."""

    def to_json(self) -> str:
        """A line of JSON."""
        return json.dumps(asdict(self) | {"batching": self.batching.name})

    @classmethod
    def of_json(cls, text: str) -> Self:
        """The findings of such a line."""
        fields = json.loads(text)
        return cls(**(fields | {"batching": Batching[fields["batching"]]}))
