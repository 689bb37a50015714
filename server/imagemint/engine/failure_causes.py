"""Whether a failure lies in a file or in the state of the machine."""

import errno

from imagemint.engine.errors import BundleRefused

# How runtimes, which have no types for it, spell a want of memory or of threads.
_WANTS = (
    *("bad_alloc", "bad allocation", "allocate memory", "out of memory", "start new thread"),
    "failed to allocate",
)
# These errors say what a path is. Any other, such as EIO, EMFILE or ESTALE, may be gone next time.
_LASTING = frozenset(
    {
        *(errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EISDIR),
        *(errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL, errno.ENXIO),
    }
)


def is_passing(error: BaseException) -> bool:
    """Whether an error comes from the machine's state, and the same bytes may load another time."""
    if isinstance(error, BundleRefused):
        return error.passing
    if isinstance(error, OSError):
        return error.errno not in _LASTING
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(sign in text for sign in _WANTS)
