"""The pages of all settings: of every command, and of every recipe of `imagemint train`."""

import types
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from markdown_text import GENERATED, escape, format_table
from pydantic import BaseModel
from pydantic.fields import FieldInfo

_Row = tuple[str, str, str, str]
_HEAD = ("flag", "value", "default", "meaning")
_NAMES = {
    "str": "text",
    "SecretStr": "secret",
    "Path": "path",
    "int": "integer",
    "float": "number",
    "dict": "`NAME=VALUE`",
    "bool": "",  # the flag says it: --name or --no-name
}
_COMMANDS = """\
# Settings of the commands

Each setting has a flag, an environment variable and a key of a TOML file with the same name:
`--first-index`, `IMAGEMINT_FIRST_INDEX`, `first_index`. A flag overrides a variable, a variable
overrides the file, and the file overrides the default. `--config` or `IMAGEMINT_CONFIG` names the
file. A list is comma-separated, or a repeated flag. An unknown flag or key of the file is an error.
A variable that is no setting is ignored, since it can be for another command; if it looks like a
misspelt setting, the command says so. `imagemint COMMAND --help` shows the same texts.

[deploy/serve.toml](../../deploy/serve.toml) is a file with all settings of the server, and
[who sets what](../notes/settings.md) says which of them you need.
"""
_RECIPES = """\
# Options of the recipes

`imagemint train RECIPE` trains a network. [Generators](#all-generators),
[translators](#all-translators) and [classifiers](#all-classifiers) share the options of one table
each. Below it, each recipe has a table of its other options, and of those with another default.
[The zoo](../zoo.md) compares what the recipes make, and [Train a generator](../training.md) is the
guide.
"""


def render() -> dict[str, str]:
    """Returns the pages by name: `settings.md` and `recipes.md`."""
    settings, recipes = GENERATED + _COMMANDS, ""
    for entry in sorted(entry_points(group="imagemint.commands"), key=lambda each: each.name):
        command = entry.load()
        title = f"\n## imagemint {entry.name}\n\n{_read_summary(command)}\n\n"
        if entry.name == "train":
            recipes = _render_recipes(
                {
                    name: (summary, command.load_variant(name))
                    for name, summary in command.list_variants().items()
                    if not name.startswith("-")
                }
            )
            settings += title + "[Options of the recipes](recipes.md) lists its options.\n"
        elif hasattr(command, "list_variants"):
            settings += title + _render_variants(entry.name, command)
        else:
            settings += title + format_table(_HEAD, map(_format_row, _list_fields(command).items()))
    return {"settings.md": settings, "recipes.md": GENERATED + _RECIPES + recipes}


def _render_variants(name: str, command: Any) -> str:  # noqa: ANN401 - see imagemint.client.cli
    text = ""
    for variant in command.list_variants():
        each = command.load_variant(variant)
        text += f"### imagemint {name} {variant}\n\n{_read_summary(each)}\n\n"
        text += format_table(_HEAD, map(_format_row, _list_fields(each).items())) + "\n"
    return text.removesuffix("\n")


def _render_recipes(recipes: Mapping[str, tuple[str, type[BaseModel]]]) -> str:
    rows = {
        name: {key: _format_row((key, field)) for key, field in _list_fields(each).items()}
        for name, (_, each) in recipes.items()
    }
    groups: dict[str, list[str]] = {}
    for name, (_, recipe) in recipes.items():
        # Each kind of recipe has a class of settings: TrainGenerator and the like.
        kind = recipe.__bases__[0].__name__.removeprefix("Train").lower()
        groups.setdefault(f"{kind}s", []).append(name)
    text = ""
    for title, names in groups.items():
        group = {name: rows[name] for name in names}
        usual = _find_common_rows(list(group.values()))
        text += f"\n## All {title}\n\n" + format_table(_HEAD, usual.values())
        for name, options in group.items():
            own = [row for flag, row in options.items() if usual.get(flag) != row]
            text += f"\n## {name}\n\n{escape(recipes[name][0])}\n\n"
            text += format_table(_HEAD, own) if own else "It has no other options.\n"
    return text


def _find_common_rows(recipes: Sequence[Mapping[str, _Row]]) -> dict[str, _Row]:
    """Returns the options that every recipe has, each as most of them have it."""
    flags = [flag for flag in recipes[0] if all(flag in recipe for recipe in recipes)]
    return {
        flag: Counter(recipe[flag] for recipe in recipes).most_common(1)[0][0] for flag in flags
    }


def _read_summary(command: type[BaseModel]) -> str:
    return escape((command.__doc__ or "").strip().partition("\n\n")[0])


def _list_fields(command: type[BaseModel]) -> dict[str, FieldInfo]:
    return {field.alias or name: field for name, field in command.model_fields.items()}


def _format_row(item: tuple[str, FieldInfo]) -> _Row:
    name, field = item
    positional = any(
        getattr(each, "__name__", "") == "_CliPositionalArg" for each in field.metadata
    )
    flag = f"`{name.upper()}`" if positional else f"`--{name.replace('_', '-')}`"
    return flag, _format_value(field), _format_default(field), escape(field.description or "")


def _format_value(field: FieldInfo) -> str:
    return " ".join(filter(None, (_format_kind(field.annotation), _format_bounds(field))))


def _format_kind(annotation: object) -> str:
    if get_origin(annotation) is Annotated:
        (annotation, *_) = get_args(annotation)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(f"`{argument}`" for argument in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(
            _format_kind(argument) for argument in arguments if argument is not types.NoneType
        )
    if origin is tuple:
        return ",".join(_format_kind(argument) for argument in arguments)
    if origin is list:
        return f"list: {_format_kind(arguments[0])}"
    name = "dict" if origin is dict else getattr(annotation, "__name__", str(annotation))
    return _NAMES.get(name, name)


def _format_bounds(field: FieldInfo) -> str:
    return ", ".join(
        _format_bound(each) for each in field.metadata if isinstance(each, Ge | Gt | Le | Lt)
    )


def _format_bound(limit: Ge | Gt | Le | Lt) -> str:
    sign, value = {
        Ge: ("≥", getattr(limit, "ge", None)),
        Gt: ("&gt;", getattr(limit, "gt", None)),
        Le: ("≤", getattr(limit, "le", None)),
        Lt: ("&lt;", getattr(limit, "lt", None)),
    }[type(limit)]
    return f"{sign} {value:,}" if isinstance(value, int | float) else f"{sign} {value}"


def _format_default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None or value in ("", [], {}, ()):
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list | tuple):
        return f"`{','.join(map(str, value))}`"
    return f"`{value.as_posix() if isinstance(value, Path) else value}`"
