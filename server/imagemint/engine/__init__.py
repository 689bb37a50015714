"""From a serial number to latents to pixels; no gRPC here.

Only what needs NumPy and SciPy is imported: training draws its latents here where neither onnx nor
onnxruntime is installed. Bundles and backends are imported from their modules.
"""

from imagemint.engine.errors import (
    BackendFailed,
    BundleRefused,
    ClassUnsupported,
    DeadlinePassed,
    Draining,
    ImagemintError,
    InvalidRequest,
    LoadFailed,
    ModelControlRefused,
    ModelNotFound,
    ModelNotReady,
    QueueFull,
    VariantMismatch,
    VersionNotFound,
    Violation,
)
from imagemint.engine.sampling import Distribution, drawn_classes, latents
from imagemint.engine.serial import Serial

__all__ = [
    "BackendFailed",
    "BundleRefused",
    "ClassUnsupported",
    "DeadlinePassed",
    "Distribution",
    "Draining",
    "ImagemintError",
    "InvalidRequest",
    "LoadFailed",
    "ModelControlRefused",
    "ModelNotFound",
    "ModelNotReady",
    "QueueFull",
    "Serial",
    "VariantMismatch",
    "VersionNotFound",
    "Violation",
    "drawn_classes",
    "latents",
]
