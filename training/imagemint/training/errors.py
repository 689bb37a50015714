"""What can go wrong in training.

TrainingError
├── DatasetError           data missing, damaged or of the wrong shape
├── CheckpointError        a checkpoint missing, damaged, or of another recipe
├── ProcessesError         several processes cannot do this together
└── TrainingFailed         the run itself went wrong
    ├── LossNotFinite      NaN or infinity
    ├── Diverged           finite, but beyond all measure
    └── ModeCollapse       the generator repeats itself, and goes on doing so
"""


class TrainingError(Exception):
    """Root of the errors of training. The command prints the text as it is."""


class DatasetError(TrainingError):
    """Data missing, damaged or of the wrong shape; the text names every place that was tried."""


class CheckpointError(TrainingError):
    """A checkpoint that is missing, damaged, or was made by another recipe or other options."""


class ProcessesError(TrainingError):
    """What several processes cannot do together, or could not join for."""


class TrainingFailed(TrainingError):  # noqa: N818 - it names what happened
    """The run went wrong; the last good checkpoint is kept."""


class LossNotFinite(TrainingFailed):
    """A loss turned NaN or infinite."""


class Diverged(TrainingFailed):
    """The losses are many times what they used to be."""


class ModeCollapse(TrainingFailed):
    """Images of one class are all but the same, for longer than a run takes to recover."""
