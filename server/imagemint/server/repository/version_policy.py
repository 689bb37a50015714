"""Selects the versions to serve, and the default version of each model."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class VersionPolicy:
    """A rule that selects versions.

    Attributes:
        text: the policy as in the settings: ``all``, ``latest:N``, or numbers with commas.
        limit: maximum number of versions that serve at once; None for no limit.
        named: the versions that can serve; None for any.
    """

    text: str
    limit: int | None = None
    named: frozenset[int] | None = None

    @classmethod
    def parse(cls, text: str) -> "VersionPolicy":
        """Parses a policy.

        Raises:
            ValueError: the text is not a policy.
        """
        if text == "all":
            return cls(text)
        if text.startswith("latest:"):
            return cls(text, limit=int(text.removeprefix("latest:")))
        return cls(text, named=frozenset(int(number) for number in text.split(",")))

    def list_candidates(self, numbers: Iterable[int]) -> list[int]:
        """Returns the versions that can serve, newest first; they are tried in this order.

        The list can be longer than `limit`, because the next version replaces one that fails.
        """
        return sorted(
            (number for number in numbers if self.named is None or number in self.named),
            reverse=True,
        )

    def is_full(self, serving: int) -> bool:
        """Returns whether the limit is reached when `serving` versions serve."""
        return self.limit is not None and serving >= self.limit


@dataclass(frozen=True)
class Policies:
    """The version policies of all models.

    Attributes:
        general: the policy of models without their own.
        of_models: policies of single models, by model name.
        pins: the default version, by model name. It serves whatever the policy says.
    """

    general: VersionPolicy = field(default_factory=lambda: VersionPolicy.parse("all"))
    of_models: Mapping[str, VersionPolicy] = field(default_factory=dict)
    pins: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def parse(
        cls, general: str, of_models: Mapping[str, str], pins: Mapping[str, int]
    ) -> "Policies":
        """Parses the policies of the settings."""
        own = {name: VersionPolicy.parse(text) for name, text in of_models.items()}
        return cls(VersionPolicy.parse(general), own, dict(pins))

    def of(self, model: str) -> VersionPolicy:
        """Returns the policy of one model."""
        return self.of_models.get(model, self.general)

    def list_candidates(self, model: str, numbers: Iterable[int]) -> list[int]:
        """Returns the versions of a model that can serve, in the order in which they are tried."""
        found = list(numbers)
        chosen = self.of(model).list_candidates(found)
        pin = self.pins.get(model)
        return [*chosen, pin] if pin in found and pin not in chosen else chosen

    def choose_first(self, model: str, numbers: Iterable[int]) -> set[int]:
        """Returns the versions of a model that serve if none fails."""
        candidates = self.list_candidates(model, numbers)
        pin = self.pins.get(model)
        return {
            *candidates[: self.of(model).limit],
            *(candidate for candidate in candidates if candidate == pin),
        }
