"""What a forked process must know about its parent's gRPC.

A fork copies only the thread that calls it, and gRPC lives on threads of its own. In the child
their work stands still, their locks may be taken for ever, the asyncio stack cannot be started
again (its state is private to Cython), and the epoll descriptors are shared with the parent. Two
facts therefore cross the fork: how many forks there have been, which tells a client that it was
inherited, and whether gRPC was running at that moment, in which case new clients of the child make
their calls through a helper process (see `relay`).

gRPC can handle forks for its blocking stack. Beside the asyncio stack it does half of the work: the
child gets threads that close the parent's calls, and aborts. So it is switched off, unless the
environment asks for it or somebody else has imported gRPC before.
"""

# The first call would import the modules marked F401. A fork in the middle of an import leaves its
# lock to a thread that the child does not have.
import concurrent.futures.thread  # noqa: F401
import contextlib
import ctypes
import encodings.idna  # noqa: F401
import importlib.readers  # noqa: F401
import os
import sys
import warnings
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

_SWITCH = "GRPC_ENABLE_FORK_SUPPORT"


@contextlib.contextmanager
def _without_fork_support() -> Iterator[None]:
    """Sets the variable while gRPC is imported, which is when it reads its environment."""
    if _SWITCH in os.environ or "grpc" in sys.modules:
        yield
        return
    os.environ[_SWITCH] = "0"
    try:
        yield
    finally:
        del os.environ[_SWITCH]


_imported_too_late = "grpc" in sys.modules and _SWITCH not in os.environ

with _without_fork_support():
    from grpc import aio

# Names of gRPC's own threads in Linux, where the kernel keeps 15 characters of them.
_THREADS = frozenset({"event_engine", "grpc_global_tim", "lifeguard"})

_generation = 0
_grpc_is_broken = False
_had_threads = False  # between the hook before a fork and the one in the child
_opening: set[object] = set()
_channels: "weakref.WeakSet[aio.Channel]" = weakref.WeakSet()


def generation() -> int:
    """Number of forks between the first process that imported this module and this one."""
    return _generation


def grpc_is_broken() -> bool:
    """Whether this process was forked while gRPC was running, so that it must not use gRPC."""
    return _grpc_is_broken


def open_channel(factory: Callable[[], aio.Channel]) -> aio.Channel:
    """The channel that `factory` makes, made known to the hooks around a fork.

    A forked child must never destroy its copy of the channel, which would wait for ever. And while
    gRPC starts on one thread, another may fork.
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
    """Whether anybody's gRPC has its threads in this process."""
    with contextlib.suppress(OSError):  # no /proc but in Linux, or a thread that has just ended
        tasks = Path("/proc/self/task").iterdir()
        return any((task / "comm").read_text().strip() in _THREADS for task in tasks)
    return False


def _before() -> None:
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


def _in_child() -> None:
    global _generation, _grpc_is_broken  # noqa: PLW0603 - one process, one state
    _generation += 1
    # Our own state is looked at here, because it is exactly that of the moment of the fork: after
    # the hook before it, another thread may have opened a channel.
    if _had_threads or _opening or len(_channels):
        _grpc_is_broken = True
    for channel in list(_channels):
        # The destructor of the last channel waits for the poller thread, which did not survive.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(channel))
    _channels.clear()
    _opening.clear()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(before=_before, after_in_child=_in_child)
