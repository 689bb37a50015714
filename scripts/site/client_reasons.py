"""The reasons of errors that the Python client raises itself, from its code."""

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

_MEANINGS: Mapping[str, str] = {
    "BUNDLE_CHANGED": "The files of the version have changed since an earlier answer.",
    "CANCELLED": "The server, or a proxy, cancelled the call.",
    "CHUNK_OVERDUE": "The next part of a stream did not arrive within `timeout_s`.",
    "CLIENT_CLOSED": "The client was closed, before the call or during it.",
    "CLIENT_FORKED": "The client was created before this process was forked.",
    "CONNECTION_LOST": "The connection ended while the server answered, and again in the call that"
    " the client made in its place.",
    "DEADLINE_EXCEEDED": "The answer did not arrive within `timeout_s`. If the server notices"
    " first, the reason is `DEADLINE_PASSED`.",
    "MALFORMED_ANSWER": "Parts of the answer contradict each other, or are not valid.",
    "NOT_FOUND": "The client finds no such model, or no such version that is ready; or the status"
    " came without a reason.",
    "NOT_SERVING": "The server says that it does not serve now: it shuts down, or still loads its"
    " models.",
    "SERVER_UNREACHABLE": "No server answers at the address.",
    "STREAM_GAP": "A part of a stream is not the next one.",
    "STREAM_TRUNCATED": "The server ended a stream too early.",
    "UNIMPLEMENTED": "The server does not know the call: it is older, or another service.",
    "UNKNOWN": "The default of the base class, of which the client raises only subclasses.",
    "UNRESOLVED": "The name of a server has no address, or several servers have no family of"
    " addresses in common.",
    "VARIANT_CHANGED": "The server runs another variant than at the start of the stream.",
    "VERSION_NOT_READY": "The server does not list the version as ready.",
}
# Defaults of classes whose statuses carry a reason, unless they are not of an imagemint server.
_WITHOUT_REASON = ("FAILED_PRECONDITION", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED")


class ReasonError(Exception):
    """A reason that cannot be read from the code, or has no meaning here."""


class _Use(NamedTuple):
    reason: str
    error: str
    """Name of the class of errors."""


def find_reasons(folder: Path) -> dict[str, set[str]]:
    """Returns the classes of errors by the reasons that the code gives them.

    They are the arguments `reason=` of calls and the attributes `default_reason` of classes.

    Args:
        folder: the Python files, at any depth.

    Raises:
        ReasonError: a reason is neither a text, nor a constant of its module, nor that of another
            error.
    """
    found: dict[str, set[str]] = defaultdict(set)
    for path in sorted(folder.rglob("*.py")):
        for reason, error in _find_uses(path):
            found[reason].add(error)
    return dict(found)


def describe(reason: str) -> str:
    """Returns the meaning of a reason.

    Raises:
        ReasonError: it is not described here.
    """
    if reason in _WITHOUT_REASON:
        return "The status came without a reason: gRPC, a proxy or another service sent it."
    if reason not in _MEANINGS:
        raise ReasonError(f"describe the reason {reason} in {Path(__file__).name}")
    return _MEANINGS[reason]


def _find_uses(path: Path) -> Iterator[_Use]:
    module = ast.parse(path.read_text(encoding="utf-8"))
    constants = dict(_find_constants(module))
    for node in ast.walk(module):
        if isinstance(node, ast.Call):
            values = [keyword.value for keyword in node.keywords if keyword.arg == "reason"]
            error = ast.unparse(node.func).rpartition(".")[2]
        elif isinstance(node, ast.ClassDef):
            values = [value for name, value in _find_assignments(node) if name == "default_reason"]
            error = node.name
        else:
            continue
        for value in values:
            for reason in _read_values(value, constants, f"{path}:{value.lineno}"):
                yield _Use(reason, error)


def _read_values(value: ast.expr, constants: Mapping[str, str], place: str) -> Iterator[str]:
    match value:
        case ast.Constant(value=str(text)):
            if text:
                yield text
        case ast.Name(id=name) if name in constants:
            yield constants[name]
        case ast.IfExp(body=body, orelse=other):
            yield from _read_values(body, constants, place)
            yield from _read_values(other, constants, place)
        case ast.Attribute(attr="reason"):  # passed on from another error, or from the server
            return
        case _:
            raise ReasonError(f"{place}: the reason {ast.unparse(value)} is no text or constant")


def _find_constants(module: ast.Module) -> Iterator[tuple[str, str]]:
    for name, value in _find_assignments(module):
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield name, value.value


def _find_assignments(node: ast.Module | ast.ClassDef) -> Iterator[tuple[str, ast.expr]]:
    """Yields names and values of the assignments in the body of a module or class."""
    for each in node.body:
        match each:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                yield name, value
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                yield name, value
