"""Distinguishes permanent failures, caused by a file, from transient ones of the machine."""

import errno

from imagemint.engine.errors import BundleRefused

# The texts of runtimes, which have no error types for a lack of memory or threads.
_WANTS = (
    *("bad_alloc", "bad allocation", "allocate memory", "out of memory", "start new thread"),
    "failed to allocate",
)
# These errors concern the path itself. Others, such as EIO, EMFILE or ESTALE, can be transient.
_LASTING = frozenset(
    {
        *(errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EISDIR),
        *(errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL, errno.ENXIO),
    }
)


def is_passing(error: BaseException) -> bool:
    """Returns whether an error is transient, so that a retry with the same bytes may succeed."""
    if isinstance(error, BundleRefused):
        return error.passing
    if isinstance(error, OSError):
        return error.errno not in _LASTING
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(sign in text for sign in _WANTS)
