"""Client of an imagemint server: NumPy arrays and PIL images, blocking or with asyncio."""

# First, because gRPC reads its environment when it is imported.
import imagemint.client.forks  # noqa: F401  # isort: split
from imagemint.client.api import AsyncClient, Selection
from imagemint.client.blocking import Client
from imagemint.client.channel import MetadataLike, Tls
from imagemint.client.errors import (
    Cancelled,
    ClientClosed,
    ClientForked,
    DeadlineExceeded,
    FailedPrecondition,
    ImagemintError,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    QueueFull,
    ServerError,
    Unauthenticated,
    Unavailable,
    Unimplemented,
    Violation,
)
from imagemint.client.images import EncodedPicture, ImageBatch, Scores, Timing
from imagemint.client.models import (
    Captions,
    Evaluation,
    Limits,
    Manifest,
    Model,
    ModelState,
    ModelVersion,
    SourceShape,
    Truncation,
)
from imagemint.client.requests import (
    Caption,
    Condition,
    Cycle,
    Filter,
    Format,
    PerImage,
    Priority,
    Weights,
)
from imagemint.client.serials import Serial, SerialLike
from imagemint.client.translation import Fit, Source, SourceLike, Sources, Translated

__all__ = [
    "AsyncClient",
    "Cancelled",
    "Caption",
    "Captions",
    "Client",
    "ClientClosed",
    "ClientForked",
    "Condition",
    "Cycle",
    "DeadlineExceeded",
    "EncodedPicture",
    "Evaluation",
    "FailedPrecondition",
    "Filter",
    "Fit",
    "Format",
    "ImageBatch",
    "ImagemintError",
    "InvalidRequest",
    "Limits",
    "Manifest",
    "MetadataLike",
    "Model",
    "ModelState",
    "ModelVersion",
    "NotFound",
    "PerImage",
    "PermissionDenied",
    "Priority",
    "QueueFull",
    "Scores",
    "Selection",
    "Serial",
    "SerialLike",
    "ServerError",
    "Source",
    "SourceLike",
    "SourceShape",
    "Sources",
    "Timing",
    "Tls",
    "Translated",
    "Truncation",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "Violation",
    "Weights",
]
