"""Errors of making a data set.

::

    DatasetError
    ├── OtherPlan         the folder belongs to another data set, or has other files
    ├── SourceChanged     a source runs another bundle, variant or provider than the plan names
    └── TemporaryFailure  a server or a store is away or busy; the same command continues
"""
# ruff: noqa: N818 - the names state the condition


class DatasetError(Exception):
    """A data set cannot be made, continued or verified. The message says why, and what to do."""


def refuse_translator(model: str) -> DatasetError:
    """Returns the error for a model that translates pictures."""
    return DatasetError(f"model {model} translates pictures, and a data set has generated images")


class OtherPlan(DatasetError):
    """The folder holds another data set, or files that this data set did not write."""


class SourceChanged(DatasetError):
    """A source would make other pixels than the plan names."""


class TemporaryFailure(DatasetError):
    """A server or a store is away or busy. The same command continues the data set later."""


CONTINUE = "Finished shards are kept. Run the same command again to continue"
"""What the messages of failures say that leave the data set as it was."""
