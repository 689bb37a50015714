"""Detects forks, after which gRPC does not work in the child.

A fork copies only the calling thread, but gRPC has threads of its own. In the child these threads
do not run, their locks may be held for ever, the asyncio stack cannot be started again (its state
is private to Cython), and the epoll descriptors are shared with the parent. This module therefore
keeps two facts: the number of forks, by which a client detects that it was inherited, and whether
gRPC was running during a fork. In the latter case, new clients of the child make their calls
through a helper process (see `relay`).

gRPC supports forks for its blocking stack. With the asyncio stack, this support is incomplete: the
child gets threads that close the parent's calls, and aborts. This module therefore disables the
support, unless the environment enables it or gRPC was imported before.
"""

# The first call would import the modules marked F401. After a fork during an import, the import
# lock belongs to a thread that does not exist in the child.
import concurrent.futures.thread  # noqa: F401 - see above
import contextlib
import ctypes
import encodings.idna  # noqa: F401 - see above
import importlib.readers  # noqa: F401 - see above
import os
import sys
import warnings
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

_SWITCH = "GRPC_ENABLE_FORK_SUPPORT"


@contextlib.contextmanager
def _disable_fork_support() -> Iterator[None]:
    """Sets the variable while gRPC is imported, because gRPC reads its environment then."""
    if _SWITCH in os.environ or "grpc" in sys.modules:
        yield
        return
    os.environ[_SWITCH] = "0"
    try:
        yield
    finally:
        del os.environ[_SWITCH]


_imported_too_late = "grpc" in sys.modules and _SWITCH not in os.environ

with _disable_fork_support():
    from grpc import aio

# Names of gRPC's threads on Linux, where the kernel keeps 15 characters.
_THREADS = frozenset({"event_engine", "grpc_global_tim", "lifeguard"})

_generation = 0
_grpc_is_broken = False
_had_threads = False  # set before a fork, read in the child
_opening: set[object] = set()
_channels: "weakref.WeakSet[aio.Channel]" = weakref.WeakSet()


def count_forks() -> int:
    """Returns the number of forks since the first process that imported this module."""
    return _generation


def is_grpc_broken() -> bool:
    """Returns whether this process was forked while gRPC ran, so that it must not use gRPC."""
    return _grpc_is_broken


def open_channel(factory: Callable[[], aio.Channel]) -> aio.Channel:
    """Creates a channel with `factory` and registers it for the fork hooks.

    A forked child must never destroy its copy of the channel, because the destructor would block
    for ever. Another thread may fork while gRPC starts.
    """
    opening = object()
    _opening.add(opening)
    try:
        channel = factory()
        _channels.add(channel)
    finally:
        _opening.discard(opening)
    return channel


def _has_threads() -> bool:
    """Returns whether threads of gRPC run in this process."""
    with contextlib.suppress(
        OSError
    ):  # /proc exists only on Linux, and a thread may just have ended
        tasks = Path("/proc/self/task").iterdir()
        return any((task / "comm").read_text().strip() in _THREADS for task in tasks)
    return False


def _before_fork() -> None:
    global _had_threads  # noqa: PLW0603 - one process, one state
    _had_threads = _has_threads()
    if _imported_too_late and (_had_threads or _channels):
        warnings.warn(
            "this process forks while a client of imagemint is open and grpc was imported before "
            f"imagemint.client: the child may abort. Set {_SWITCH}=0 in the environment, or import "
            "imagemint.client first",
            RuntimeWarning,
            stacklevel=2,
        )


def _after_fork_in_child() -> None:
    global _generation, _grpc_is_broken  # noqa: PLW0603 - one process, one state
    _generation += 1
    # The state is read here, because it is exactly that of the moment of the fork. Another thread
    # may have opened a channel after the hook that runs before the fork.
    if _had_threads or _opening or len(_channels):
        _grpc_is_broken = True
    for channel in list(_channels):
        # The destructor of the last channel waits for the poller thread, which did not survive.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(channel))
    _channels.clear()
    _opening.clear()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork_in_child)
