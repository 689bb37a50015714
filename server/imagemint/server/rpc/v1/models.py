"""ModelService: describes the models."""

import zlib
from bisect import bisect_right
from typing import Any

import grpc

from imagemint.engine.errors import InvalidRequest, Violation
from imagemint.server.access.caller import current_caller
from imagemint.server.repository import Model, ModelRepository, State, Version
from imagemint.server.rpc.call import current_call
from imagemint.server.rpc.v1.requests import choose_default_chunk_size
from imagemint.server.settings import ServeSettings
from imagemint.v1 import model_service_pb2 as messages
from imagemint.v1 import model_service_pb2_grpc

_DEFAULT_PAGE = 100
_LARGEST_PAGE = 1_000
_LONGEST_NAME = 255  # of a folder name
_STATES = {
    State.LOADING: messages.MODEL_STATE_LOADING,
    State.READY: messages.MODEL_STATE_READY,
    State.FAILED: messages.MODEL_STATE_FAILED,
    State.UNLOADING: messages.MODEL_STATE_UNLOADING,
    State.UNLOADED: messages.MODEL_STATE_UNLOADED,
}


class ModelServicer(model_service_pb2_grpc.ModelServiceServicer):
    """Describes the models.

    Args:
        repository: the models.
        limits: limits of the server's settings, which the answer repeats.
    """

    def __init__(self, repository: ModelRepository, limits: messages.ModelLimits) -> None:
        self._repository = repository
        self._limits = limits

    async def ListModels(  # noqa: N802 - named by the schema
        self,
        request: messages.ListModelsRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> messages.ListModelsResponse:
        """Returns one page of the models that the caller may use.

        A token has the name of the last model of its page. The next page begins after that name,
        whether or not the model still exists.
        """
        del context
        may_use = current_caller.get().may_use
        models = self._repository.models  # a snapshot
        names = sorted(name for name in models if may_use(name))
        if request.page_size < 0:
            raise InvalidRequest([Violation("page_size", f"{request.page_size} is negative")])
        size = min(request.page_size or _DEFAULT_PAGE, _LARGEST_PAGE)
        start = bisect_right(names, _parse_token(request.page_token)) if request.page_token else 0
        page = names[start : start + size]
        return messages.ListModelsResponse(
            models=[self._describe_model(models[name]) for name in page],
            next_page_token=_make_token(page[-1]) if start + size < len(names) else "",
        )

    async def GetModel(  # noqa: N802 - named by the schema
        self,
        request: messages.GetModelRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> messages.GetModelResponse:
        """Returns one model."""
        del context
        if not request.model:
            raise InvalidRequest([Violation("model", "required")])
        current_caller.get().check_model(request.model)
        model = self._repository.get_model(request.model)
        current_call.get().model = model.name
        return messages.GetModelResponse(model=self._describe_model(model))

    def _describe_model(self, model: Model) -> messages.Model:
        default = model.default_version
        model_message = messages.Model(
            name=model.name,
            versions=[_describe_version(version) for version in model.versions.values()],
        )
        if not model.versions:
            model_message.versions.add(state=messages.MODEL_STATE_FAILED, reason=model.problem)
        if default is not None:
            model_message.default_version = str(default.version)
            model_message.limits.CopyFrom(self._limits)
            model_message.limits.max_images_per_request = default.max_images
            model_message.limits.default_chunk_size = choose_default_chunk_size(default)
        return model_message


def make_limits(settings: ServeSettings) -> messages.ModelLimits:
    """Returns the limits that all models of a server share."""
    return messages.ModelLimits(
        max_queue_images=settings.max_queue_images,
        max_request_bytes=settings.max_request_bytes,
        max_response_bytes=settings.max_response_bytes,
        max_source_pixels=settings.max_source_pixels,
    )


def _make_token(name: str) -> str:
    """Returns the page token after a model; the checksum detects tokens of other origin."""
    return f"{zlib.crc32(name.encode(errors='surrogateescape')):08x}.{name}"


def _parse_token(token: str) -> str:
    """Returns the name of the last model of a token's page."""
    checksum_size = 8
    name = token[checksum_size + 1 :]
    if len(name) > _LONGEST_NAME or token != _make_token(name):
        raise InvalidRequest([Violation("page_token", "not a page token of this server")])
    return name


def _describe_version(version: Version) -> messages.ModelVersion:
    message = messages.ModelVersion(
        version=str(version.number), state=_STATES[version.state], reason=version.reason
    )
    if version.served is not None:
        message.bundle_sha256 = version.served.bundle.sha256
        message.manifest.CopyFrom(version.served.manifest)
        message.execution_provider = version.served.backend.provider
        message.variant = version.served.backend.variant.name
    return message
