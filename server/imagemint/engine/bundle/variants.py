"""The graphs of one bundle, and the choice of the graph that a device runs."""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from imagemint.engine.bundle.memory_estimate import Estimate
from imagemint.engine.bundle.probe_hints import ProbeHints
from imagemint.v1 import manifest_pb2 as pb

AUTO = "auto"
"""Selects the variant that was made for the device, if there is one."""
REFERENCE = "reference"
"""Selects model.onnx, whatever its precision."""

_CPU, _CUDA = "cpu", "cuda"
_TARGETS = {pb.TARGET_DEVICE_CPU: _CPU, pb.TARGET_DEVICE_CUDA: _CUDA}
_CPU_INFO = Path("/proc/cpuinfo")
# CPU flags of x86 and ARM. Without them, 8-bit sums are slow; on x86 they also saturate at 16 bits,
# so that pixels would differ more than measured.
_DOT_PRODUCTS = frozenset({"avx512_vnni", "avx_vnni", "asimddp"})


@dataclass(frozen=True, slots=True)
class Variant:
    """One graph of a bundle."""

    name: str
    """Name in the manifest; for model.onnx, its precision in lower case, such as `fp32`."""
    path: Path
    """Path of its file."""
    sha256: str
    """SHA-256 of its file, lower-case hexadecimal."""
    size: int
    """Size of its file in bytes."""
    precision: str
    """`fp32`, `fp16` or `int8`."""
    target: str | None
    """Device that it was made for, `cpu` or `cuda`; None for model.onnx, which runs on any."""
    estimate: Estimate = field(default=Estimate(0, is_complete=False), repr=False, compare=False)
    """Its estimated time and memory."""
    hints: ProbeHints = field(default=ProbeHints(), repr=False, compare=False)
    """Hints for its probe."""

    @property
    def is_reference(self) -> bool:
        """Whether this is model.onnx."""
        return self.target is None

    @property
    def name_in_serials(self) -> str | None:
        """Name in serial numbers; None for the reference, which they do not name."""
        return None if self.is_reference else self.name

    def is_named(self, requested: str) -> bool:
        """Returns whether a request for this name, or for `REFERENCE`, selects this variant."""
        return requested == self.name or (requested == REFERENCE and self.is_reference)


def choose_variant(variants: Sequence[Variant], device: str, requested: str) -> tuple[Variant, str]:
    """Returns the graph that a device runs, and the reason.

    Args:
        variants: all variants of a bundle, model.onnx first.
        device: `cpu` or `cuda`.
        requested: the name of a variant, `REFERENCE` or `AUTO`.

    Raises:
        LookupError: there is no variant of that name.
    """
    reference, *others = variants
    if requested == REFERENCE:
        return reference, "asked for"
    if requested != AUTO:
        for variant in variants:
            if variant.name == requested:
                return variant, "asked for"
        names = ", ".join(variant.name for variant in variants)
        raise LookupError(f"it has no variant {requested!r}; there is {names}")
    for_device = [variant for variant in others if variant.target == device]
    runnable = [
        variant for variant in for_device if variant.precision != "int8" or has_dot_products()
    ]
    if runnable:
        return runnable[0], f"made for {device}"
    if for_device:
        return reference, f"this processor lacks what {for_device[0].name} needs"
    return reference, f"none was made for {device}"


@functools.cache
def has_dot_products() -> bool:
    """Returns whether the CPU has instructions for dot products of bytes."""
    try:
        text = _CPU_INFO.read_text()
    except OSError:
        return False
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return flags is not None and not _DOT_PRODUCTS.isdisjoint(flags[1].split())


def spell_precision(precision: int) -> str:
    """Returns `fp32`, `fp16` or `int8` for a value of `pb.Precision`."""
    return pb.Precision.Name(precision).removeprefix("PRECISION_").lower()  # type: ignore[arg-type] # the stub wants its own int


def spell_target(target: int) -> str:
    """Returns `cpu` or `cuda` for a known value of `pb.TargetDevice`."""
    return _TARGETS[target]  # type: ignore[index] # the stub wants its own int
