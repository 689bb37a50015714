"""The models that are shipped with imagemint."""

from pathlib import Path


def find_shipped_models() -> Path:
    """Returns the directory of the model repository that is shipped with imagemint.

    Raises:
        FileNotFoundError: this installation contains no models.
    """
    package = Path(__file__).parents[2]
    for candidate in (package / "models", package.parents[1] / "models"):
        if candidate.is_dir():
            return candidate
    raise FileNotFoundError("this installation contains no models; set --repository")
