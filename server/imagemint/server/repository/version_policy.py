"""Which of the versions found are to be served, and which of them is the default."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class VersionPolicy:
    """A rule that picks versions.

    Attributes:
        text: as the settings spell it: ``all``, ``latest:N``, or numbers with commas.
        limit: most versions that serve at once; None for any number.
        named: the only ones that may serve; None for any.
    """

    text: str
    limit: int | None = None
    named: frozenset[int] | None = None

    @classmethod
    def parse(cls, text: str) -> "VersionPolicy":
        """Returns the policy of a text.

        Raises:
            ValueError: it is none.
        """
        if text == "all":
            return cls(text)
        if text.startswith("latest:"):
            return cls(text, limit=int(text.removeprefix("latest:")))
        return cls(text, named=frozenset(int(number) for number in text.split(",")))

    def candidates(self, numbers: Iterable[int]) -> list[int]:
        """Returns those that may serve, in the order in which they are to be tried: newest first.

        More of them than `limit`: one that fails leaves its place to the next.
        """
        return sorted(
            (number for number in numbers if self.named is None or number in self.named),
            reverse=True,
        )

    def is_full(self, serving: int) -> bool:
        """Whether no more may serve beside so many."""
        return self.limit is not None and serving >= self.limit


@dataclass(frozen=True)
class Policies:
    """The policy of every model.

    Attributes:
        general: for models that have none of their own.
        of_models: by model.
        pins: the default version, by model. It serves whatever the policy says.
    """

    general: VersionPolicy = field(default_factory=lambda: VersionPolicy.parse("all"))
    of_models: Mapping[str, VersionPolicy] = field(default_factory=dict)
    pins: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def parse(
        cls, general: str, of_models: Mapping[str, str], pins: Mapping[str, int]
    ) -> "Policies":
        """Returns the policies as the settings spell them."""
        own = {name: VersionPolicy.parse(text) for name, text in of_models.items()}
        return cls(VersionPolicy.parse(general), own, dict(pins))

    def of(self, model: str) -> VersionPolicy:
        """Returns the policy of one model."""
        return self.of_models.get(model, self.general)

    def candidates(self, model: str, numbers: Iterable[int]) -> list[int]:
        """Returns those that may serve, in the order in which they are to be tried."""
        found = list(numbers)
        chosen = self.of(model).candidates(found)
        pin = self.pins.get(model)
        return [*chosen, pin] if pin in found and pin not in chosen else chosen

    def first_choice(self, model: str, numbers: Iterable[int]) -> set[int]:
        """Returns those that serve if none fails."""
        candidates = self.candidates(model, numbers)
        pin = self.pins.get(model)
        return {*candidates[: self.of(model).limit], *(each for each in candidates if each == pin)}
