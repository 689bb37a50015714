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
- Instead of `run`, it may have two class methods: `list_variants()` returns the names of further
  subcommands, each with one line of help, and `load_variant(name)` returns the `BaseModel` of one.
  The first argument then selects it, as in `imagemint train mnist --out RUN`. Only the selected one
  is loaded, so listing them stays quick.

The root handles errors for all commands. Each unknown flag, unknown key and invalid value gives one
line on stderr, and exit status 2. A failure (an exception class of imagemint, or an OSError)
gives one line and exit status 1. Other exceptions are bugs and show their traceback. If an extra is
missing, the message names it. Ctrl-C ends with status 130 and a closed pipe with 141, both without
output. Values of type `SecretStr` are never printed.
"""

# ruff: noqa: T201 - a command prints

import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Protocol, runtime_checkable

from pydantic import BaseModel

from imagemint.client.extras import DISTRIBUTION, MissingExtra, find_extra, install_command
from imagemint.client.interrupts import INTERRUPTED, find_interruption, ignore_unstarted_calls
from imagemint.client.settings import UsageError, find_misspelt_variables, gather_settings
from imagemint.client.spelling import suggest

GROUP = "imagemint.commands"

_FAILED, _MISUSED, _PIPE_CLOSED = 1, 2, 141


@runtime_checkable
class _Runnable(Protocol):
    def run(self) -> int | None: ...


@runtime_checkable
class _HasVariants(Protocol):
    @classmethod
    def list_variants(cls) -> dict[str, str]: ...
    @classmethod
    def load_variant(cls, name: str) -> type[BaseModel]: ...


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line `argv` (None: that of the process) and returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        status = _dispatch(arguments)
        sys.stdout.flush()  # here, a closed pipe still raises
    except UsageError as error:
        for fault in error.faults:
            _print_error(arguments, fault)
        return _MISUSED
    except KeyboardInterrupt:
        ignore_unstarted_calls()
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has gone. The interpreter flushes again at exit, which must not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _PIPE_CLOSED
    except Exception as error:
        if find_interruption(error) is not None:
            return INTERRUPTED
        if not _is_failure(error):
            raise
        _print_error(arguments, _describe_failure(error))
        return _FAILED
    return status


def _dispatch(arguments: list[str]) -> int:
    commands = {entry_point.name: entry_point for entry_point in metadata.entry_points(group=GROUP)}
    match arguments:
        case ["--version" | "-V", *_]:
            print(DISTRIBUTION, metadata.version(DISTRIBUTION))
            return 0
        case [] | ["--help" | "-h", *_]:
            lines = {name: _summarize(commands[name]) for name in sorted(commands)}
            print(_format_overview(DISTRIBUTION, "COMMAND", lines))
            return 0 if arguments else _MISUSED
        case [name, *rest] if name in commands:
            return _start(commands[name], rest)
    exist = ", ".join(sorted(commands))
    near = suggest(arguments[0], sorted(commands))
    raise UsageError([f"there is no command {arguments[0]!r}; the commands are {exist}{near}"])


def _start(entry: metadata.EntryPoint, arguments: list[str]) -> int:
    try:
        return _run(f"{DISTRIBUTION} {entry.name}", entry.load(), arguments)
    except ModuleNotFoundError as error:
        raise _explain_missing(entry, error) from error


def _run(prog: str, command: type[BaseModel], arguments: list[str]) -> int:
    if isinstance(command, _HasVariants):
        return _run_variant(prog, command, arguments)
    try:
        ready = gather_settings(command, prog, arguments)
    except SystemExit as end:  # argparse has printed the help
        return end.code if isinstance(end.code, int) else 0
    for variable, setting in find_misspelt_variables(command, os.environ).items():
        print(f"{prog}: {variable} is no setting; did you mean {setting}?", file=sys.stderr)
    if not isinstance(ready, _Runnable):
        raise TypeError(f"{command.__qualname__} has no method run; see {__name__}")
    return ready.run() or 0


def _run_variant(prog: str, command: type[_HasVariants], arguments: list[str]) -> int:
    variants = command.list_variants()
    match arguments:
        case ["--help" | "-h", *_]:
            print(_format_overview(prog, "SUBCOMMAND", variants))
            return 0
        case [name, *rest] if name in variants:
            return _run(f"{prog} {name}", command.load_variant(name), rest)
    given = "none is given"
    if arguments:
        given = f"{arguments[0]!r} is none of them{suggest(arguments[0], variants)}"
    raise UsageError([f"expects one of {', '.join(variants)}; {given}"])


def _summarize(entry: metadata.EntryPoint) -> str:
    """Returns the first line of the help of a command, or how to install what it needs."""
    try:
        return _read_first_line(entry.load())
    except ModuleNotFoundError as error:
        with contextlib.suppress(ModuleNotFoundError):
            return str(_explain_missing(entry, error))
        return f"cannot be loaded: {error}"


def _read_first_line(command: type[BaseModel]) -> str:
    return (command.__doc__ or "").strip().partition("\n")[0]


def _format_overview(prog: str, placeholder: str, lines: Mapping[str, str]) -> str:
    width = max(map(len, lines), default=0)
    listed = "\n".join(f"  {name:<{width}}  {line}" for name, line in lines.items())
    return (
        f"usage: {prog} {placeholder} [options]\n\n{listed}\n\n"
        f"{prog} {placeholder} --help lists its options;"
        f" {DISTRIBUTION} --version prints the version."
    )


def _explain_missing(entry: metadata.EntryPoint, error: ModuleNotFoundError) -> MissingExtra:
    """Returns an error that names the extra to install; raises `error` if no extra helps."""
    extra = find_extra(error.name or "", entry.module)
    if extra is None:
        raise error
    return MissingExtra(f"needs: {install_command(extra)} (no module {error.name})")


def _is_failure(error: Exception) -> bool:
    """Returns whether `error` is a failure, not a bug, without importing its class."""
    classes = type(error).__mro__
    ours = any(class_.__module__.partition(".")[0] == DISTRIBUTION for class_ in classes)
    return ours or isinstance(error, OSError)


def _describe_failure(error: Exception) -> str:
    """Returns the text of a failure, that of an OSError without its number."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return str(error) or type(error).__name__


def _print_error(arguments: list[str], message: str) -> None:
    """Prints one line on stderr that begins with the name of the command."""
    command = [argument for argument in arguments[:1] if not argument.startswith("-")]
    line = " ".join(message.split())
    print(f"{' '.join([DISTRIBUTION, *command])}: {line}", file=sys.stderr)
