"""Computes latents and images from serials, without gRPC.

This module imports only NumPy and SciPy, because training draws its latents here without onnx and
onnxruntime. Import bundles and backends from their own modules.
"""

from imagemint.engine.errors import (
    BackendFailed,
    BundleRefused,
    CaptionUnsupported,
    ClassUnsupported,
    DeadlinePassed,
    Draining,
    FilterExhausted,
    ImagemintError,
    InvalidRequest,
    LoadFailed,
    ModelControlRefused,
    ModelNotFound,
    ModelNotReady,
    QueueFull,
    ScoreUnsupported,
    SourceRequired,
    SourceUnsupported,
    VariantMismatch,
    VersionNotFound,
    Violation,
)
from imagemint.engine.sampling import Distribution, draw_classes, draw_latents
from imagemint.engine.serial import Serial

__all__ = [
    "BackendFailed",
    "BundleRefused",
    "CaptionUnsupported",
    "ClassUnsupported",
    "DeadlinePassed",
    "Distribution",
    "Draining",
    "FilterExhausted",
    "ImagemintError",
    "InvalidRequest",
    "LoadFailed",
    "ModelControlRefused",
    "ModelNotFound",
    "ModelNotReady",
    "QueueFull",
    "ScoreUnsupported",
    "Serial",
    "SourceRequired",
    "SourceUnsupported",
    "VariantMismatch",
    "VersionNotFound",
    "Violation",
    "draw_classes",
    "draw_latents",
]
