"""The pages of the Python client: signatures and docstrings, read by griffe from the sources.

They are files of the repository, so that a forge shows them, too. `Client` wraps the methods of
`AsyncClient`, and gets their signatures without `async`.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import griffe
from griffe import Attribute, Class, DocstringSection, DocstringSectionKind, Function, Parameter
from markdown_text import GENERATED

_ROOTS = ("clients/python", "proto/gen", "server")
_CLIENT = """\
# Python client

`pip install imagemint` installs the client alone, without torch and ONNX Runtime.
[clients/python](../../../clients/python/README.md) is the introduction, and
[Errors](../errors.md) lists the reasons. The texts are the docstrings of the code.
"""
_TORCH = """\
# Datasets for PyTorch

[Training with synthetic images](../../training-with-imagemint.md) shows them in a training loop.
The texts are the docstrings of the code.
"""
# The public names of each page by heading; all of them, or `render` fails.
_CLIENT_NAMES = {
    "Clients": ("Client", "AsyncClient", "Tls", "MetadataLike"),
    "What you ask for": (
        "Selection",
        "Condition",
        "Caption",
        "Cycle",
        "PerImage",
        "Weights",
        "Filter",
        "Format",
        "Priority",
        "Serial",
        "SerialLike",
        "Source",
        "SourceLike",
        "Sources",
        "Fit",
    ),
    "What you get": ("ImageBatch", "EncodedPicture", "Scores", "Timing", "Translated"),
    "Models": (
        "Model",
        "ModelVersion",
        "ModelState",
        "Manifest",
        "Captions",
        "Truncation",
        "Limits",
        "SourceShape",
        "Evaluation",
    ),
    "Errors": (
        "ImagemintError",
        "InvalidRequest",
        "Violation",
        "NotFound",
        "FailedPrecondition",
        "Unauthenticated",
        "PermissionDenied",
        "QueueFull",
        "Unavailable",
        "DeadlineExceeded",
        "Cancelled",
        "ClientClosed",
        "ClientForked",
        "ServerError",
        "Unimplemented",
    ),
}
_TORCH_NAMES = {
    "Data sets": ("SyntheticStream", "SyntheticImages", "mix", "MixedImages", "MixedSampler"),
    "Sources": ("ImageSource", "ServerSource", "SourceIdentity", "SourceImages"),
}
_WIDTH = 96
_TITLES = {
    DocstringSectionKind.parameters: "Arguments",
    DocstringSectionKind.other_parameters: "Arguments",
    DocstringSectionKind.attributes: "Attributes",
    DocstringSectionKind.returns: "Returns",
    DocstringSectionKind.yields: "Yields",
    DocstringSectionKind.raises: "Raises",
}


def render(root: Path) -> dict[str, str]:
    """Returns the pages by name: `python/client.md` and `python/torch.md`.

    Raises:
        LookupError: a public name has no place in a page, or is not there any more.
    """
    paths = [root / each for each in _ROOTS]
    loader = griffe.GriffeLoader(search_paths=paths, docstring_parser="google")
    client = _load(loader, "imagemint.client")
    torch = _load(loader, "imagemint.client.torch")
    engine = _load(loader, "imagemint.dataset.engine_source")
    loader.resolve_aliases()
    return {
        "python/client.md": GENERATED + _CLIENT + _render_module(client, _CLIENT_NAMES),
        "python/torch.md": GENERATED
        + _TORCH
        + _render_module(torch, _TORCH_NAMES)
        + "".join(_render(engine["EngineSource"], "EngineSource")),
    }


def _load(loader: griffe.GriffeLoader, name: str) -> griffe.Module:
    module = loader.load(name)
    if not isinstance(module, griffe.Module):
        raise TypeError(f"{name} is not a module")
    return module


def _render_module(module: griffe.Module, headings: Mapping[str, Sequence[str]]) -> str:
    shown = [name for names in headings.values() for name in names]
    public = {str(name).strip("'\"") for name in module.exports or ()}
    if public != set(shown):
        differing = ", ".join(sorted(public ^ set(shown)))
        raise LookupError(f"the page of {module.path} must have its public names: {differing}")
    parts: list[str] = []
    for heading, names in headings.items():
        parts.append(f"\n## {heading}\n")
        for name in names:
            found = module[name]
            parts += _render(found.final_target if found.is_alias else found, name)
    return "".join(parts)


def _render(found: griffe.Object | griffe.Alias, name: str) -> Iterator[str]:
    """Yields the entry of a class, a function or a type."""
    yield f"\n### {name}\n"
    if isinstance(found, Class):
        yield from _render_class(found, name)
    elif isinstance(found, Function):
        yield from _render_function(found, name)
    elif isinstance(found, Attribute):
        yield _format_code(f"{name} = {found.value}")
        yield from _render_docstring(found)


def _render_class(found: Class, name: str) -> Iterator[str]:
    init = found.members.get("__init__")
    if isinstance(init, Function):
        yield _format_signature(init, name, is_call=True)
    yield from _render_docstring(found)
    attributes = [each for each in _list_public(found) if isinstance(each, Attribute)]
    if fields := [
        attribute
        for attribute in attributes
        if attribute.docstring or "property" in attribute.labels
    ]:
        yield "\n**Fields**\n\n"
        for field in fields:
            kind = f" (`{field.annotation}`)" if field.annotation else ""
            yield f"- `{field.name}`{kind}: {_read_first_paragraph(field)}\n"
    for each in _list_public(found):
        method = _unwrap(each)
        is_internal = method is not None and "_pb2." in str(method.returns)
        if method is not None and method.docstring and not is_internal:
            yield f"\n#### {name}.{method.name}\n"
            yield from _render_function(method, method.name)


def _list_public(found: Class) -> Iterator[griffe.Object]:
    for name, member in found.members.items():
        if not name.startswith("_") and isinstance(member, griffe.Object):
            yield member


def _unwrap(member: griffe.Object) -> Function | None:
    """Returns a method; for an attribute of `Client`, the method of `AsyncClient` that it wraps."""
    if isinstance(member, Function):
        return member
    if not isinstance(member, Attribute) or not isinstance(member.value, griffe.ExprCall):
        return None
    if not str(member.value.function).startswith("_make_"):
        return None
    (wrapped,) = member.value.arguments
    owner, _, name = str(wrapped).rpartition(".")
    method = member.module[owner].final_target[name]
    blocking = Function(
        name,
        parameters=method.parameters,
        returns=str(method.returns).replace("AsyncGenerator", "Generator"),
        docstring=method.docstring,
    )
    if str(blocking.returns).startswith("Generator["):
        blocking.returns = str(blocking.returns).replace(", None]", ", None, None]")
    return blocking


def _render_function(function: Function, name: str) -> Iterator[str]:
    yield _format_signature(function, name)
    yield from _render_docstring(function)


def _format_signature(function: Function, name: str, *, is_call: bool = False) -> str:
    """Returns a block with a signature, on one line if it fits."""
    parameters = list(_list_parameters(function))
    start = "" if is_call else "async def " if "async" in function.labels else "def "
    end = "" if is_call else f" -> {function.returns}"
    text = f"{start}{name}({', '.join(parameters)}){end}"
    if len(text) > _WIDTH:
        lines = "".join(f"    {parameter},\n" for parameter in parameters)
        text = f"{start}{name}(\n{lines}){end}"
    return _format_code(text)


def _format_code(text: str) -> str:
    """Returns a block of code, with the quotes of `ruff format`, which checks Markdown as well."""
    quoted = text.replace("'", '"')
    return f"\n```py\n{quoted}\n```\n"


def _list_parameters(function: Function) -> Iterator[str]:
    is_keyword = False
    for parameter in function.parameters:
        if parameter.name in {"self", "cls"}:
            continue
        kind = parameter.kind
        if kind is griffe.ParameterKind.keyword_only and not is_keyword:
            is_keyword = True
            yield "*"
        yield _format_parameter(parameter)


def _format_parameter(parameter: Parameter) -> str:
    stars = {
        griffe.ParameterKind.var_positional: "*",
        griffe.ParameterKind.var_keyword: "**",
    }
    text = stars.get(parameter.kind, "") if parameter.kind else ""
    text += parameter.name
    if parameter.annotation is not None:
        text += f": {parameter.annotation}"
    if parameter.default is not None and not text.startswith("*"):
        text += f" = {parameter.default}"
    return text


def _render_docstring(found: griffe.Object) -> Iterator[str]:
    for section in found.docstring.parse("google") if found.docstring else ():
        if section.kind is DocstringSectionKind.text:
            yield f"\n{section.value}\n"
        elif section.kind in _TITLES:
            yield f"\n**{_TITLES[section.kind]}**\n\n"
            yield from (_list_item(section, each) for each in section.value)
        else:
            raise LookupError(f"{found.path}: a section {section.kind.value} has no form here")


def _list_item(section: DocstringSection, entry: griffe.DocstringElement) -> str:
    text = " ".join(entry.description.split())
    name = getattr(entry, "name", "")
    if section.kind is DocstringSectionKind.raises:
        name = str(entry.annotation)
    return f"- `{name}`: {text}\n" if name else f"- {text}\n"


def _read_first_paragraph(found: griffe.Object) -> str:
    text = found.docstring.value if found.docstring else ""
    return " ".join(text.partition("\n\n")[0].split())
