"""The command `imagemint export`: settings here, work elsewhere.

Import-light: torch is imported when it runs, not when its options are listed.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import CliPositionalArg


class Export(BaseModel):
    """Turns a training run into a bundle that the server loads, after comparing the two."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    source: CliPositionalArg[Path]
    """Directory of the training run; its newest checkpoint is exported."""
    name: str
    """Name of the model: lower-case letters, digits, '-', '_' and '.'."""
    repository: Path = Path("models")
    """Model repository to write to; made if missing."""
    version: int | None = Field(default=None, ge=1)
    """Version to write, refused if it exists; absent, one more than the last."""
    title: str | None = None
    """One line for people; absent, said from the data."""
    license: str | None = None
    """Licence of weights and samples; absent, that of the data."""
    threshold_minimum: float = Field(default=0.1, gt=0)
    """Smallest threshold of truncation that callers may ask for."""
    threshold_maximum: float = Field(default=4.0, gt=0)
    """Largest threshold of truncation that callers may ask for."""
    tolerance_levels: int = Field(default=1, ge=0, le=255)
    """Largest difference from PyTorch that is accepted, in levels of 255."""
    tolerance_share: float = Field(default=0.001, ge=0, le=1)
    """Largest share of differing pixel values that is accepted."""

    def run(self) -> int:
        """Exports, and says where to and how faithfully."""
        from imagemint.exporter.export import export_generator  # noqa: PLC0415 - torch
        from imagemint.exporter.parity import Tolerance  # noqa: PLC0415 - torch
        from imagemint.training.checkpoints import read_generator  # noqa: PLC0415 - torch

        trained = read_generator(self.source)
        bundle = export_generator(
            trained,
            name=self.name,
            repository=self.repository,
            title=self.title,
            license=self.license,
            version=self.version,
            thresholds=(self.threshold_minimum, self.threshold_maximum),
            tolerance=Tolerance(self.tolerance_levels, self.tolerance_share),
        )
        parity = bundle.manifest.parity
        print(  # noqa: T201 - the command's answer
            f"{bundle.directory}: {self.name}@{bundle.version}, {bundle.model_bytes / 1e6:.1f} MB; "
            f"PyTorch against {parity.backend} on {parity.samples:,} latents: at most "
            f"{parity.max_difference} levels apart, {parity.differing_share:.4%} of the values"
        )
        if not trained.evaluations:
            print("no measured quality in the card: run `imagemint evaluate` first")  # noqa: T201
        return 0
