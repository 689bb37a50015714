"""The options that all runs have."""

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field


class RunOptions(BaseModel):
    """Options that determine the steps of a run: length, optimisers, average and seed.

    Checkpoints contain every option that the recipe had when they were written. For an option that
    was added later, older checkpoints have its default, or its value in `values_before` if the
    default changed the behaviour.
    """

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    name: ClassVar[str]
    """Its name on the command line, a key of a table in `recipes/__init__.py`."""
    dataset: ClassVar[str]
    """Data set it trains on, a key of `datasets.DATASETS`."""
    snapshots_every: ClassVar[int] = 64_000
    """Images between two checkpoints, unless a run says otherwise."""
    values_before: ClassVar[dict[str, Any]] = {}
    """Values that options have in checkpoints which do not name them, where not the default."""

    images: int = Field(default=480_000, ge=1)
    """Real images shown to the discriminator, counted with repetition: the length of the run."""
    batch_size: int = Field(default=64, ge=2)
    """Images in one step of either network."""
    learning_rate: float = Field(default=2e-4, gt=0)
    """Learning rate of the generator, and of the discriminator unless that has its own."""
    discriminator_learning_rate: float | None = Field(default=None, gt=0)
    """Learning rate of the discriminator, for two time scales (Heusel et al., 2017)."""
    optimizer: Literal["adam", "rmsprop"] = "adam"
    """Optimiser of both networks."""
    beta1: float = Field(default=0.5, ge=0, lt=1)
    """Adam's decay of the first moment."""
    beta2: float = Field(default=0.999, ge=0, lt=1)
    """Adam's decay of the second moment; RMSprop's only one."""
    adam_epsilon: float = Field(default=1e-8, gt=0)
    """What Adam adds to the root of the second moment. The larger it is, the smaller are the steps
    of weights whose gradients are small."""
    decay_share: float = Field(default=0.0, ge=0, le=1)
    """Last share of the run over which the learning rate falls to zero along a cosine."""
    ema_half_life: int = Field(default=50_000, ge=1)
    """Half-life of the generator's moving average, in images."""
    ema_ramp_up: float = Field(default=0.05, gt=0)
    """Cap of the half-life as a share of the images seen so far, so that it starts short."""
    seed: int = Field(default=0, ge=0, lt=2**64)
    """Seed of the initial weights and of everything that is drawn at random."""

    @classmethod
    def complete_options(cls, options: dict[str, Any]) -> dict[str, Any]:
        """Returns the options of an older run, including those that were added later."""
        fields = cls.model_fields.items()
        defaults = {name: field.default for name, field in fields if not field.is_required()}
        return defaults | cls.values_before | options
