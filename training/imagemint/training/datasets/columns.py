"""Finds the columns of pictures, labels and texts in a table."""

from collections.abc import Collection, Sequence

from imagemint.training.datasets.classes import Label
from imagemint.training.errors import DatasetError

LABELS = (
    "label",
    "labels",
    "fine_label",
    "class",
    "target",
    "category",
    "class_name",
    "classname",
    "label_name",
    "category_name",
    "class_label",
    "cls",
    "class_id",
    "label_id",
    "category_id",
    "species",
    "breed",
)
PICTURES = ("image", "img", "picture", "jpg", "png", "jpeg", "webp", "images", "photo")
FILES = (
    "file_name",
    "filename",
    "file",
    "path",
    "filepath",
    "file_path",
    "image_path",
    "image_file",
    "image_name",
    "image_id",
    "id",
    "name",
)
TEXTS = ("text", "caption", "prompt")


def find_column(
    columns: Sequence[str],
    usual: Sequence[str],
    *,
    requested: str | None = None,
    flag: str = "",
    declared: Collection[str] = (),
) -> str | None:
    """Returns the column of a kind; None if there is none.

    Args:
        columns: columns of the table.
        usual: names to search for, the most specific first, compared without case.
        requested: the column that the user names.
        flag: the option that names it.
        declared: columns that the table itself declares to be of this kind, which come first.

    Raises:
        DatasetError: no column has the requested name.
    """
    if requested is not None:
        if requested not in columns:
            raise DatasetError(
                f"no column {requested!r} for {flag}; there are {', '.join(columns)}"
            )
        return requested
    by_name = {name.casefold(): name for name in reversed(columns)}
    matches = [by_name[name] for name in usual if name in by_name]
    candidates = [*matches, *(name for name in declared if name not in matches)]
    return next((name for name in candidates if name in declared), next(iter(candidates), None))


def as_label(value: object, place: str) -> Label | None:
    """Returns a label from a cell; None for an empty one.

    Args:
        value: the cell.
        place: the place for errors.

    Raises:
        DatasetError: the value is neither a text nor an integer.
    """
    if value is None or value != value:  # noqa: PLR0124 - NaN stands for an empty cell
        return None
    if isinstance(value, float) and value.is_integer():
        return int(value)  # pandas converts integers to floats if there are empty cells
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, int | str):
        return value
    raise DatasetError(f"{place} holds {value!r}, should hold one text or integer a row")


def describe_missing_labels(columns: Sequence[str]) -> str:
    """Returns the message for a table without a column of labels."""
    others = f"there are {', '.join(columns)}" if columns else "there is none"
    return (
        "no labels: all pictures are of one class; --label-column names the column that holds them"
        f" ({others})"
    )
