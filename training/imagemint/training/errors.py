"""Errors of training.

TrainingError
├── DatasetError           data missing, damaged or of the wrong shape
├── CheckpointError        a checkpoint missing, damaged, or of another recipe
├── DamagedLog             a line in the middle of a log is unreadable
├── ProcessesError         several processes cannot do this together
└── TrainingFailed         the run itself went wrong
    ├── LossNotFinite      NaN or infinity
    ├── Diverged           finite, but beyond all measure
    └── ModeCollapse       the generator repeats itself, and goes on doing so
"""


class TrainingError(Exception):
    """Root of the errors of training. The command prints the text as it is."""


class DatasetError(TrainingError):
    """Data are missing, damaged or of the wrong shape. The message names all searched places."""


class CheckpointError(TrainingError):
    """A checkpoint is missing, damaged, or was made with another recipe or other options."""


class DamagedLog(TrainingError):  # noqa: N818 - it names what happened
    """A line in the middle of a log is unreadable. The message names the file and the line."""


class ProcessesError(TrainingError):
    """Several processes cannot do this together, or could not connect."""


class TrainingFailed(TrainingError):  # noqa: N818 - it names what happened
    """The run failed; the last good checkpoint is kept."""


class LossNotFinite(TrainingFailed):
    """A loss became NaN or infinite."""


class Diverged(TrainingFailed):
    """The losses are far larger than usual."""


class ModeCollapse(TrainingFailed):
    """Images of one class have been nearly equal for longer than a run takes to recover."""
