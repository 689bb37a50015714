"""Gathers the settings of a command from flags, environment and file, and reports all errors."""

import contextlib
import difflib
import inspect
import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, Field, SecretStr, ValidationError, create_model
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    CliPositionalArg,
    CliSettingsSource,
    EnvSettingsSource,
    SettingsError,
    TomlConfigSettingsSource,
)

from imagemint.client.spelling import suggest

PREFIX = "IMAGEMINT_"
_PAIRS = 'must be NAME=VALUE as a flag, {"NAME": "VALUE"} as a variable, a table in a file'

_LIKENESS = 0.85
"""Of a misspelt variable and a setting, from 0 to 1; higher than for names that are typed."""
_JSON_WORDS = {"true", "false", "null", "None"}
"""Words that pydantic-settings reads as other values than texts, also in a list of texts."""
_PLACED = get_args(CliPositionalArg[str])[1]  # the mark of an argument without a flag

CommandT = TypeVar("CommandT", bound=BaseModel)


class UsageError(Exception):
    """The command line or its settings are wrong; `faults` has one line for each error."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = tuple(faults)


@dataclass(frozen=True, slots=True)
class _Origin:
    """One source of settings: its values by field name, and how it spells a field."""

    values: Mapping[str, Any]
    spelling: str

    def spell(self, name: str) -> str:
        return self.spelling.format(flag=_to_flag(name), variable=_to_variable(name), key=name)


def gather_settings(command: type[CommandT], prog: str, arguments: Sequence[str]) -> CommandT:
    """Returns the command with its settings. Flags override variables, the file, and the defaults.

    Args:
        command: class of the command; see `imagemint.client.cli`.
        prog: name of the command in the help, such as `imagemint serve`.
        arguments: the rest of the command line.

    Raises:
        UsageError: a flag or a key of the file is unknown, or a value is invalid or missing.
        SystemExit: `--help` was given, and the help is printed.
    """
    sources = _build_sources(command)
    try:
        flags: dict[str, Any] = CliSettingsSource(
            sources,
            cli_prog_name=prog,
            cli_parse_args=_quote_words(command, _repeat_flags(command, arguments)),
            cli_exit_on_error=False,
        )()
        variables = _Variables(sources)()
    except SettingsError as error:
        message = str(error).removeprefix("error parsing CLI: ")
        faults = _find_unknown_flags(message, command, prog) or [_describe_pairs(message)]
        raise UsageError(faults) from None
    path = flags.pop("config", None) or variables.get("config")
    variables.pop("config", None)
    keys = _read_file(sources, Path(path)) if path else {}
    origins = (
        _Origin(flags, "{flag}"),
        _Origin(variables, "{variable}"),
        _Origin(keys, f"{{key}} in {path}"),
    )
    known = {_get_setting_name(name, field) for name, field in command.model_fields.items()}
    unknown = [
        f"{key} in {path}: there is no such setting{suggest(key, known)}"
        for key in keys
        if key not in known
    ]
    values = {**keys, **variables, **flags}
    try:
        built = command.model_validate({name: values[name] for name in values if name in known})
    except ValidationError as error:
        raise UsageError([*unknown, *_describe_faults(command, error, origins)]) from None
    if unknown:
        raise UsageError(unknown)
    return built


def read_environment(command: type[CommandT], **given: object) -> CommandT:
    """Returns a command with settings from environment variables only.

    Args:
        command: class of the command.
        given: values that replace variables, by name.

    Raises:
        UsageError: a value is invalid.
    """
    variables = _Variables(_build_sources(command))()
    variables.pop("config", None)
    try:
        return command.model_validate(variables | given)
    except ValidationError as error:
        raise UsageError(
            _describe_faults(command, error, (_Origin(variables, "{variable}"),))
        ) from None


def find_misspelt_variables(
    command: type[BaseModel], environment: Collection[str]
) -> dict[str, str]:
    """Returns variables that are no settings of a command but look like one, with that one's name.

    Variables that look like none can be settings of other commands, or what Kubernetes derives from
    a service of this name. So can those that differ by a final S only, such as ``API_KEY`` of
    clients and ``API_KEYS`` of the server.

    Args:
        command: class of the command.
        environment: names of the variables.
    """
    fields = command.model_fields.items()
    known = [_get_setting_name(name, field).upper() for name, field in fields]
    found = {}
    for variable in sorted(environment):
        name = variable.removeprefix(PREFIX)
        if variable.startswith(PREFIX) and not {name, f"{name}S", name[:-1]}.intersection(known):
            alike = difflib.get_close_matches(name, known, 1, _LIKENESS)
            if alike:
                found[variable] = PREFIX + alike[0]
    return found


class _Variables(EnvSettingsSource):
    """Environment variables. Values of a list are comma-separated, as in a flag."""

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:  # noqa: ANN401 - theirs
        with contextlib.suppress(ValueError):
            decoded = super().decode_complex_value(field_name, field, value)
            if isinstance(decoded, list | dict):
                return decoded
        # If the field is not a list, validation fails and names the variable.
        return str(value).split(",")


def _repeat_flags(command: type[BaseModel], arguments: Sequence[str]) -> list[str]:
    """Returns the arguments with the flag of a list before each of its values.

    A shell makes `--source a.png b.png` of `--source *.png`. If a command has arguments without a
    flag, they may stand after a list, so nothing is changed.
    """
    fields = command.model_fields.items()
    if any(_PLACED in field.metadata for _, field in fields):
        return list(arguments)
    lists = [(name, field) for name, field in fields if _is_list(field.annotation)]
    flags = {_to_flag(_get_setting_name(name, field)) for name, field in lists}
    repeated: list[str] = []
    flag = ""  # of the list whose values are read
    for argument in arguments:
        if argument.startswith("-"):
            flag = argument if argument in flags else ""
        elif flag and repeated[-1] != flag:
            repeated.append(flag)
        repeated.append(argument)
    return repeated


def _is_list(annotation: object) -> bool:
    """Returns whether values of a type are lists, or lists and None."""
    return any(get_origin(each) is list for each in (annotation, *get_args(annotation)))


def _quote_words(command: type[BaseModel], arguments: Sequence[str]) -> list[str]:
    """Returns the arguments with those words in lists of texts quoted that JSON gives a meaning.

    pydantic-settings would read `--labels true,None` as a boolean and nothing.
    """
    fields = command.model_fields.items()
    flags = {_to_flag(_get_setting_name(n, f)) for n, f in fields if f.annotation == list[str]}
    quoted = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        flag, equals, value = argument.partition("=")
        if before in flags:
            quoted.append(_quote_list(argument))
        else:
            quoted.append(f"{flag}={_quote_list(value)}" if equals and flag in flags else argument)
    return quoted


def _quote_list(text: str) -> str:
    if '"' in text or text.startswith("["):
        return text  # a list of JSON
    return ",".join(
        f'"{word.strip()}"' if word.strip() in _JSON_WORDS else word for word in text.split(",")
    )


def _build_sources(command: type[BaseModel]) -> type[BaseSettings]:
    """Returns the class that pydantic-settings reads: the command with the option --config."""
    return create_model(
        command.__name__,
        __base__=(BaseSettings, command),  # type: ignore[arg-type]  # one base suffices
        __module__=command.__module__,
        __doc__=inspect.cleandoc(command.__doc__ or ""),
        __cls_kwargs__={
            "env_prefix": PREFIX,
            "env_prefix_target": "all",
            "cli_avoid_json": True,
            "cli_hide_none_type": True,
            "cli_implicit_flags": True,
            "cli_kebab_case": True,
            "cli_show_env_vars": True,
        },
        config=(Path | None, Field(None, description="TOML file with settings.")),
    )


def _read_file(sources: type[BaseSettings], path: Path) -> dict[str, Any]:
    if not path.is_file():  # the source would ignore a missing file
        raise UsageError([f"{_to_flag('config')}: there is no file {path}"])
    try:
        return TomlConfigSettingsSource(sources, toml_file=path)()
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError([f"{path}: {error}"]) from None


def _find_unknown_flags(message: str, command: type[BaseModel], prog: str) -> list[str]:
    """Returns a line for each unknown flag; empty if argparse reports another error."""
    _, separator, rest = message.partition("unrecognized arguments: ")
    if not separator:
        return []
    fields = {
        _to_flag(_get_setting_name(name, field)): field
        for name, field in command.model_fields.items()
    }
    placed = {flag for flag, field in fields.items() if _PLACED in field.metadata}
    known = [*(flag for flag in fields if flag not in placed), "--config", "--help"]
    flags = [each.partition("=")[0] for each in rest.split() if each.startswith("--")]
    return [
        f"{flag}: {flag[2:].upper()} is given by its place, without a flag"
        if flag in placed
        else f"{flag}: there is no such option{suggest(flag, known)} ({prog} --help lists them)"
        for flag in flags
    ]


def _describe_pairs(message: str) -> str:
    """Returns the fault of a flag whose pairs cannot be read, or the text of another fault."""
    found = re.match(r"Parsing error encountered for (\w+): ", message)
    return message if found is None else f"{_to_flag(found[1])}: {_PAIRS}"


def _describe_faults(
    command: type[BaseModel], error: ValidationError, origins: Sequence[_Origin]
) -> list[str]:
    """Returns a line for each error, which names the flag, variable or key of the value."""
    secret = {
        _get_setting_name(name, field)
        for name, field in command.model_fields.items()
        if SecretStr.__name__ in str(field.annotation)
    }
    lines = []
    for fault in error.errors(include_url=False):
        message = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "dict_type":
            message = _PAIRS
        if not fault["loc"]:
            lines.append(message)
            continue
        name = str(fault["loc"][0])
        origin = next((each for each in origins if name in each.values), None)
        if origin is None:
            required = (
                f"{_to_flag(name)} is required (or {_to_variable(name)}, or {name} in a file)"
            )
            lines.append(required if fault["type"] == "missing" else f"{_to_flag(name)}: {message}")
        elif name in secret:
            lines.append(f"{origin.spell(name)}: {message}")
        else:
            lines.append(f"{origin.spell(name)}: {message} (got {fault['input']!r})")
    return lines


def _get_setting_name(name: str, field: FieldInfo) -> str:
    """Returns the name of a field in flags, variables and files: its alias, or its own name."""
    return field.alias or name


def _to_flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _to_variable(name: str) -> str:
    return PREFIX + name.upper()
