"""Finds the extra to install for a missing module, in an explicit table."""

import json
from importlib import metadata
from urllib.parse import unquote, urlsplit

DISTRIBUTION = "imagemint"

_SERVER = frozenset(
    [
        "grpc_health",
        "grpc_reflection",
        "onnx",
        "onnxruntime",
        "prometheus_client",
        "scipy",
        "structlog",
        "uvloop",
        "watchfiles",
    ]
)
_TRAIN = frozenset(
    [
        "lightning_fabric",
        "matplotlib",
        "pyarrow",
        "safetensors",
        "scipy",
        "tensorboard",
        "torch",
        "torchmetrics",
    ]
)
MODULES: dict[str, frozenset[str]] = {
    "server": _SERVER,
    "train": _TRAIN,
    "export": _SERVER | _TRAIN | {"onnxscript"},
    "bench": frozenset({"hdrh", "matplotlib", "uvloop"}),
    "trace": frozenset({"opentelemetry"}),
    "inception": frozenset({"torch_fidelity", "torchvision"}),
}
"""The modules that each extra installs; a test compares the table with pyproject.toml."""

_EXTRA_OF_PART = {
    "imagemint.server": "server",
    "imagemint.engine": "server",
    "imagemint.training": "train",
    "imagemint.exporter": "export",
    "imagemint.bench": "bench",
}


class MissingExtra(Exception):  # noqa: N818 - it names what is missing
    """A command needs an extra that is not installed; the message says which."""


def find_extra(module: str, part: str) -> str | None:
    """Returns the extra that installs `module`; None if there is none.

    Args:
        module: the missing module, such as `onnxruntime` or `torch.utils`.
        part: the module that needs it, such as `imagemint.server.commands.serve`.
    """
    name = module.partition(".")[0]
    own = _EXTRA_OF_PART.get(".".join(part.split(".")[:2]))
    if own is not None and name in MODULES[own]:
        return own
    return next((extra for extra, modules in MODULES.items() if name in modules), None)


def install_command(extra: str) -> str:
    """Returns the command that installs an extra, from the clone if imagemint runs from one."""
    return f"pip install {_find_source(extra)}"


def _find_source(extra: str) -> str:
    origin = metadata.distribution(DISTRIBUTION).read_text("direct_url.json")
    found = json.loads(origin) if origin else {}
    url = urlsplit(found.get("url", ""))
    if url.scheme != "file":
        return f"'{DISTRIBUTION}[{extra}]'"
    editable = "-e " if found.get("dir_info", {}).get("editable") else ""
    return f"{editable}'{unquote(url.path)}[{extra}]'"
