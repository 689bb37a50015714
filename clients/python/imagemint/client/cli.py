"""The root of the command `imagemint`: finds a subcommand, gathers its settings, and runs it.

The contract of a subcommand, for every part that registers one:

- An entry point of the group `imagemint.commands` names a subclass of `pydantic.BaseModel`. Its
  module imports quickly: torch, onnxruntime and the like are imported inside `run`.
- Its fields are its settings. The field `first_index` is the flag `--first-index`, the variable
  `IMAGEMINT_FIRST_INDEX` and the TOML key `first_index`. An alias replaces the name in all three,
  for names that are Python keywords. A flag goes before a variable, before the file of `--config`
  (or `IMAGEMINT_CONFIG`), before the default. A boolean field is `--name` and `--no-name`;
  `pydantic_settings.CliPositionalArg` makes a positional argument.
- The first line of its docstring is its help. The docstrings of its fields
  (`ConfigDict(use_attribute_docstrings=True)`) are the help of its options.
- `run(self) -> int | None` does the work and returns the exit status.
- Instead it may offer `variants()`, a class method that returns `dict[str, type[BaseModel]]`. The
  first argument then picks one of them, and each is a subcommand of its own:
  `imagemint train mnist --out RUN`.

The root does the following for all of them. An unknown flag, an unknown key and every bad value is
one line on stderr, with exit status 2. A failure (an exception of a class of imagemint, or an
OSError) is one line, with exit status 1; other exceptions are bugs and show their traceback. A
missing extra is named. Ctrl-C ends with status 130 and a closed pipe with 141, both without output.
Values of type `SecretStr` are never printed.
"""

# ruff: noqa: T201 - a command prints

import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Protocol, runtime_checkable

from pydantic import BaseModel

from imagemint.client.extras import DISTRIBUTION, MissingExtra, extra_of, install_command
from imagemint.client.settings import UsageError, gathered
from imagemint.client.spelling import did_you_mean

GROUP = "imagemint.commands"

_FAILED, _MISUSED, _INTERRUPTED, _PIPE_CLOSED = 1, 2, 130, 141


@runtime_checkable
class _Runs(Protocol):
    def run(self) -> int | None: ...


@runtime_checkable
class _Varies(Protocol):
    @classmethod
    def variants(cls) -> dict[str, type[BaseModel]]: ...


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line `argv` (None: that of the process) and returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        status = _dispatch(arguments)
        sys.stdout.flush()  # here, where a closed pipe is still an exception
    except UsageError as error:
        for fault in error.faults:
            _complain(arguments, fault)
        return _MISUSED
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # Nobody reads on. The interpreter flushes once more at exit, which must not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _PIPE_CLOSED
    except Exception as error:
        if not _is_failure(error):
            raise
        _complain(arguments, str(error) or type(error).__name__)
        return _FAILED
    return status


def _dispatch(arguments: list[str]) -> int:
    commands = {each.name: each for each in metadata.entry_points(group=GROUP)}
    match arguments:
        case ["--version" | "-V", *_]:
            print(DISTRIBUTION, metadata.version(DISTRIBUTION))
            return 0
        case [] | ["--help" | "-h", *_]:
            lines = {name: _one_liner(commands[name]) for name in sorted(commands)}
            print(_overview(DISTRIBUTION, "COMMAND", lines))
            return 0 if arguments else _MISUSED
        case [name, *rest] if name in commands:
            return _start(commands[name], rest)
    exist = ", ".join(sorted(commands))
    near = did_you_mean(arguments[0], sorted(commands))
    raise UsageError([f"there is no command {arguments[0]!r}; there are {exist}{near}"])


def _start(entry: metadata.EntryPoint, arguments: list[str]) -> int:
    try:
        return _run(f"{DISTRIBUTION} {entry.name}", entry.load(), arguments)
    except ModuleNotFoundError as error:
        raise _missing(entry, error) from error


def _run(prog: str, command: type[BaseModel], arguments: list[str]) -> int:
    if isinstance(command, _Varies):
        return _run_variant(prog, command.variants(), arguments)
    try:
        ready = gathered(command, prog, arguments)
    except SystemExit as end:  # argparse has printed the help
        return end.code if isinstance(end.code, int) else 0
    if not isinstance(ready, _Runs):
        raise TypeError(f"{command.__qualname__} has no method run; see {__name__}")
    return ready.run() or 0


def _run_variant(prog: str, variants: Mapping[str, type[BaseModel]], arguments: list[str]) -> int:
    match arguments:
        case ["--help" | "-h", *_]:
            lines = {name: _first_line(variants[name]) for name in variants}
            print(_overview(prog, "VARIANT", lines))
            return 0
        case [name, *rest] if name in variants:
            return _run(f"{prog} {name}", variants[name], rest)
    given = "none is given"
    if arguments:
        given = f"{arguments[0]!r} is none of them{did_you_mean(arguments[0], variants)}"
    raise UsageError([f"wants one of {', '.join(variants)}; {given}"])


def _one_liner(entry: metadata.EntryPoint) -> str:
    """The first line of the help of a command, or how to install what it needs."""
    try:
        return _first_line(entry.load())
    except ModuleNotFoundError as error:
        with contextlib.suppress(ModuleNotFoundError):
            return str(_missing(entry, error))
        return f"cannot be loaded: {error}"


def _first_line(command: type[BaseModel]) -> str:
    return (command.__doc__ or "").strip().partition("\n")[0]


def _overview(prog: str, what: str, lines: Mapping[str, str]) -> str:
    width = max(map(len, lines), default=0)
    listed = "\n".join(f"  {name:<{width}}  {line}" for name, line in lines.items())
    return (
        f"usage: {prog} {what} [options]\n\n{listed}\n\n"
        f"{prog} {what} --help lists its options; {DISTRIBUTION} --version prints the version."
    )


def _missing(entry: metadata.EntryPoint, error: ModuleNotFoundError) -> MissingExtra:
    """What to install; raises `error` again if no extra would help."""
    extra = extra_of(error.name or "", entry.module)
    if extra is None:
        raise error
    return MissingExtra(f"needs: {install_command(extra)} (no module {error.name})")


def _is_failure(error: Exception) -> bool:
    """Whether `error` is a failure and no bug. Its class says so, so no part imports another's."""
    classes = type(error).__mro__
    ours = any(each.__module__.partition(".")[0] == DISTRIBUTION for each in classes)
    return ours or isinstance(error, OSError)


def _complain(arguments: list[str], message: str) -> None:
    """Prints one line on stderr, which begins with the name of the command."""
    named = [each for each in arguments[:1] if not each.startswith("-")]
    line = " ".join(message.split())
    print(f"{' '.join([DISTRIBUTION, *named])}: {line}", file=sys.stderr)
