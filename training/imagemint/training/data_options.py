"""The options for reading a data set, which several commands share.

This module imports little.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from imagemint.training.datasets import LabelledImages, Split


class DataOptions(BaseModel):
    """How labels and pictures are found in a data set of your own."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    label_column: str | None = None
    """Column of a table or Parquet file, or field or suffix in tar shards, that holds the labels.
    Default: one of the usual names, such as label, class or category."""
    image_column: str | None = None
    """Column, or suffix in tar shards, that holds pictures or names their files. Default: one of
    the usual names, such as image or file_name."""
    labels_file: Path | None = None
    """Text file of class names in UTF-8, one a line, by index. Default: those of the data set."""
    strict: bool = False
    """Treat a broken picture or a row without a label as an error. Default: it is left out, named
    and counted."""

    @classmethod
    def of_settings(cls, settings: Mapping[str, Any]) -> Self:
        """Returns the options among the settings of a run, as ``options.json`` records them."""
        known = DataOptions.model_fields
        return cls.model_validate({name: settings[name] for name in known if name in settings})

    def load(
        self,
        name: str,
        split: "Split",
        data: Path | None,
        *,
        class_labels: tuple[str, ...] | None = None,
        **treatment: int | None,
    ) -> "LabelledImages":
        """Returns one split of a data set.

        Args:
            name: name or path of the data set.
            split: name of the split.
            data: folder that holds the data sets.
            class_labels: names of the classes, by index. None: those of ``labels_file``, if any.
            treatment: size, channels and the like, for `datasets.load_dataset`.

        Raises:
            DatasetError: as in `datasets.load_dataset`, or the file of labels is invalid.
        """
        from imagemint.training.datasets import load_dataset, read_labels_file  # noqa: PLC0415 - NumPy and Pillow

        if class_labels is None and self.labels_file is not None:
            class_labels = read_labels_file(self.labels_file)
        return load_dataset(
            name,
            split,
            data,
            label_column=self.label_column,
            image_column=self.image_column,
            class_labels=class_labels,
            strict=self.strict,
            **treatment,  # type: ignore[arg-type] # each is a number; only the seed is never None
        )
