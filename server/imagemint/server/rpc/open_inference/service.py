"""GRPCInferenceService: the Open Inference Protocol, for clients of KServe and Triton."""

import asyncio
from importlib.metadata import version as release_of
from typing import Any

import grpc
import numpy as np
import structlog

from imagemint.engine.errors import InvalidRequest, Violation, shorten
from imagemint.open_inference import grpc_service_pb2 as messages
from imagemint.open_inference import grpc_service_pb2_grpc
from imagemint.server.access.caller import current_caller
from imagemint.server.batching import Job
from imagemint.server.peers import Peers
from imagemint.server.repository import Model, ModelRepository, ServedVersion, State
from imagemint.server.repository.model_control import ModelControl
from imagemint.server.rpc.call import current_call
from imagemint.server.rpc.open_inference.descriptions import (
    describe_configuration,
    describe_statistics,
    describe_tensors,
)
from imagemint.server.rpc.open_inference.requests import (
    MOST_ID_CHARACTERS,
    InferCall,
    check_parts,
    read_infer,
)
from imagemint.server.rpc.open_inference.tensors import add_output, add_texts
from imagemint.server.rpc.request_stream import RequestStream
from imagemint.server.rpc.status import make_outcome
from imagemint.server.rpc.submission import Gate, Submission, get_deadline, wait_or_drop
from imagemint.server.telemetry.metrics import Metrics
from imagemint.server.telemetry.statistics import add_sums, dump_sums, parse_sums

_log = structlog.stdlib.get_logger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]

# Triton's names of the extensions that are always available.
_EXTENSIONS = ("statistics", "model_configuration", "parameters", "schedule_policy")
_STATISTICS_S = 2.0  # a worker that takes longer is stuck
_REPOSITORY_EXTENSION = "model_repository"
_STATES = {
    State.READY: "READY",
    State.LOADING: "LOADING",
    State.FAILED: "UNAVAILABLE",
    State.UNLOADING: "UNLOADING",
    State.UNLOADED: "UNAVAILABLE",
}
_ACCEPT_CHANGED = "accept_changed_bundle"


class InferenceServicer(grpc_service_pb2_grpc.GRPCInferenceServiceServicer):
    """Generates images for clients of the Open Inference Protocol.

    Args:
        repository: the models.
        control: loads and unloads the models.
        metrics: the server's metrics.
        gate: tells streams to end.
        peers: the workers of the server, including this one.
    """

    def __init__(
        self,
        repository: ModelRepository,
        control: ModelControl,
        metrics: Metrics,
        gate: Gate,
        peers: Peers,
    ) -> None:
        self.ready = False
        """Whether models are ready and no drain has begun. The server sets it."""
        self._repository = repository
        self._control = control
        self._submission = Submission(repository, metrics, gate)
        self._gate = gate
        self._peers = peers
        peers.on("statistics", self._collect_sums)
        self._streams: set[RequestStream[messages.ModelInferRequest]] = set()
        self._dismissed = False

    # --- health and descriptions ----------------------------------------------------------------

    async def ServerLive(  # noqa: N802 - named by the schema
        self, request: messages.ServerLiveRequest, context: Context
    ) -> messages.ServerLiveResponse:
        """Returns that the server is live."""
        del request, context
        return messages.ServerLiveResponse(live=True)

    async def ServerReady(  # noqa: N802 - named by the schema
        self, request: messages.ServerReadyRequest, context: Context
    ) -> messages.ServerReadyResponse:
        """Returns whether the server is ready for calls."""
        del request, context
        return messages.ServerReadyResponse(ready=self.ready)

    async def ModelReady(  # noqa: N802 - named by the schema
        self, request: messages.ModelReadyRequest, context: Context
    ) -> messages.ModelReadyResponse:
        """Returns whether a version is ready. A version that does not exist is not."""
        del context
        _require("name", request.name)
        current_caller.get().check_model(request.name)
        model = self._repository.models.get(request.name)
        if model is None:
            return messages.ModelReadyResponse(ready=False)
        current_call.get().model = model.name
        if not request.version:
            return messages.ModelReadyResponse(ready=model.default_version is not None)
        ready = {str(version.number) for version in model.versions.values() if version.served}
        return messages.ModelReadyResponse(ready=request.version in ready)

    async def ServerMetadata(  # noqa: N802 - named by the schema
        self, request: messages.ServerMetadataRequest, context: Context
    ) -> messages.ServerMetadataResponse:
        """Returns the name, the version and the extensions of the server."""
        del request, context
        control = (_REPOSITORY_EXTENSION,) if self._control.is_offered else ()
        return messages.ServerMetadataResponse(
            name="imagemint",
            version=release_of("imagemint"),
            extensions=(*_EXTENSIONS, *control),
        )

    async def ModelMetadata(  # noqa: N802 - named by the schema
        self, request: messages.ModelMetadataRequest, context: Context
    ) -> messages.ModelMetadataResponse:
        """Returns the tensors of a model's graph."""
        del context
        model, version = self._resolve(request.name, request.version)
        return describe_tensors(model, version)

    async def ModelConfig(  # noqa: N802 - named by the schema
        self, request: messages.ModelConfigRequest, context: Context
    ) -> messages.ModelConfigResponse:
        """Returns the configuration of a model."""
        del context
        _, version = self._resolve(request.name, request.version)
        return messages.ModelConfigResponse(config=describe_configuration(version))

    async def ModelStatistics(  # noqa: N802 - named by the schema
        self, request: messages.ModelStatisticsRequest, context: Context
    ) -> messages.ModelStatisticsResponse:
        """Returns the statistics of one version, of a model's served versions, or of all of them.

        They are the sums over all running workers.
        """
        del context
        if request.name or request.version:
            model, version = self._resolve(request.name, request.version)
            versions = [version] if request.version else _list_served(model)
        else:
            models = self._list_visible()
            versions = [version for model in models for version in _list_served(model)]
        answers = await self._peers.ask("statistics", timeout_s=_STATISTICS_S)
        found = [parse_sums(answer.value) for answer in answers if not answer.error]
        return messages.ModelStatisticsResponse(
            model_stats=[
                describe_statistics(
                    version,
                    add_sums(sums[key] for sums in found if (key := _get_key(version)) in sums),
                )
                for version in versions
            ]
        )

    async def _collect_sums(self, _: object) -> list[Any]:
        models = self._repository.models.values()
        versions = [version for model in models for version in _list_served(model)]
        return dump_sums(
            {_get_key(version): version.batcher.statistics.copy_sums() for version in versions}
        )

    def _resolve(
        self, name: str, version: str, *, field: str = "name"
    ) -> tuple[Model, ServedVersion]:
        _require(field, name)
        current_caller.get().check_model(name)
        model = self._repository.get_model(name)
        current_call.get().model = model.name
        return model, self._repository.resolve(name, version)

    def _list_visible(self) -> list[Model]:
        """Returns the models that the caller may use."""
        may_use = current_caller.get().may_use
        return [model for name, model in self._repository.models.items() if may_use(name)]

    # --- images ---------------------------------------------------------------------------------

    async def ModelInfer(  # noqa: N802 - named by the schema
        self, request: messages.ModelInferRequest, context: Context
    ) -> messages.ModelInferResponse:
        """Answers one request."""
        return await self._infer(request, context, patient=False, streamed=False)

    async def ModelStreamInfer(  # type: ignore[override] # noqa: N802 - named by the schema; the stub has only the generator form
        self, request_iterator: object, context: Context
    ) -> None:
        """Answers the requests of a stream in order. A failed request does not end the stream.

        Raises:
            Draining: the server shuts down; the accepted requests are answered.
        """
        del request_iterator
        stream = RequestStream(context, self._answer_in_stream, self._gate)
        if self._dismissed:
            stream.dismiss()
        self._streams.add(stream)
        try:
            await stream.run()
        finally:
            self._streams.discard(stream)

    def dismiss(self) -> None:
        """Ends current and future streams when they are silent. They may be silent forever."""
        self._dismissed = True
        for stream in self._streams:
            stream.dismiss()

    async def _answer_in_stream(
        self, request: messages.ModelInferRequest, context: Context, *, patient: bool
    ) -> messages.ModelStreamInferResponse:
        """Answers one request of a stream; a failure becomes an answer too."""
        response = messages.ModelStreamInferResponse()
        try:
            response.infer_response.CopyFrom(await self._infer(request, context, patient=patient))
        except Exception as error:  # noqa: BLE001 - the answer has its text
            self._submission.count_refusal(error)
            error = current_caller.get().filter_error(error)
            outcome = make_outcome(error, current_call.get().request_id)
            if outcome.code is grpc.StatusCode.INTERNAL:
                _log.exception("call failed", request_id=current_call.get().request_id)
            response.error_message = outcome.message
            response.infer_response.id = shorten(request.id, MOST_ID_CHARACTERS)
            response.infer_response.model_name = shorten(request.model_name)
            response.infer_response.model_version = shorten(request.model_version)
        # Triton sets this in the last answer to a request. Here, each request has one answer.
        response.infer_response.parameters["triton_final_response"].bool_param = True
        return response

    async def _infer(
        self,
        request: messages.ModelInferRequest,
        context: Context,
        *,
        patient: bool,
        streamed: bool = True,
    ) -> messages.ModelInferResponse:
        """Answers one request. A patient request waits for the queue and for its rate."""
        check_parts(request)
        with self._submission.hold_version(request.model_name, request.model_version) as version:
            call = read_infer(request, version)
            images = call.image_request
            job = images.make_job(0, images.count, min(call.deadline, get_deadline(context)))
            job.sources = call.sources
            await self._compute(version, job, patient=patient, streamed=streamed)
            return _build_answer(request, call, job)

    async def _compute(
        self, version: ServedVersion, job: Job, *, patient: bool, streamed: bool
    ) -> None:
        piece = asyncio.current_task()
        if patient:
            await self._submission.submit_when_room(version, job, piece)
        else:
            await self._submission.submit(version, job, piece if streamed else None)
        await wait_or_drop(version.batcher, job)
        current_call.get().images += job.count

    # --- the repository -------------------------------------------------------------------------

    async def RepositoryIndex(  # noqa: N802 - named by the schema
        self, request: messages.RepositoryIndexRequest, context: Context
    ) -> messages.RepositoryIndexResponse:
        """Returns every version with its state."""
        del context
        _refuse_repository(request.repository_name)
        index = messages.RepositoryIndexResponse()
        for model in self._list_visible():
            for version in model.versions.values():
                if version.served or not request.ready:
                    index.models.add(
                        name=model.name,
                        version=str(version.number),
                        state=_STATES[version.state],
                        reason=version.reason,
                    )
            if not model.versions and not request.ready:
                index.models.add(name=model.name, state=_STATES[State.FAILED], reason=model.problem)
        return index

    async def RepositoryModelLoad(  # noqa: N802 - named by the schema
        self, request: messages.RepositoryModelLoadRequest, context: Context
    ) -> messages.RepositoryModelLoadResponse:
        """Loads a model from the repository, or updates it.

        Raises:
            NotAllowed: the caller's key does not allow model control, or not this model.
            ModelControlRefused: the server does not load or unload on request.
            ModelNotFound: the model does not exist.
            LoadFailed: a version was refused; versions that were ready stay ready.
        """
        self._check_control(request)
        if len(request.parameters) > (_ACCEPT_CHANGED in request.parameters):
            await context.abort(
                grpc.StatusCode.UNIMPLEMENTED,
                f"load takes no parameter except {_ACCEPT_CHANGED}",
            )
        accept = request.parameters.get(_ACCEPT_CHANGED)
        if accept is not None and accept.WhichOneof("parameter_choice") != "bool_param":
            name = f"parameters.{_ACCEPT_CHANGED}"
            raise InvalidRequest([Violation(name, "not a bool_param")])
        await self._control.load(
            request.model_name, accept_changed=accept is not None and accept.bool_param
        )
        return messages.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(  # noqa: N802 - named by the schema
        self, request: messages.RepositoryModelUnloadRequest, context: Context
    ) -> messages.RepositoryModelUnloadResponse:
        """Unloads a model; its running calls finish.

        Raises:
            NotAllowed: the caller's key does not allow model control, or not this model.
            ModelControlRefused: the server does not load or unload on request.
            ModelNotFound: the model does not exist.
        """
        del context
        self._check_control(request)
        await self._control.unload(request.model_name)
        return messages.RepositoryModelUnloadResponse()

    def _check_control(
        self, request: messages.RepositoryModelLoadRequest | messages.RepositoryModelUnloadRequest
    ) -> None:
        """Checks that the server and the caller's key allow control of this model."""
        _refuse_repository(request.repository_name)
        _require("model_name", request.model_name)
        current_caller.get().check_model_control()
        self._submission.name_model(request.model_name)
        self._control.require()


def _require(field: str, value: str) -> None:
    if not value:
        raise InvalidRequest([Violation(field, "required")])


def _refuse_repository(name: str) -> None:
    if name:
        raise InvalidRequest(
            [Violation("repository_name", "must be empty: the server has one repository")]
        )


def _list_served(model: Model) -> list[ServedVersion]:
    return [version.served for version in model.versions.values() if version.served]


def _get_key(version: ServedVersion) -> tuple[str, int]:
    return version.spec.name, version.version


def _build_answer(
    request: messages.ModelInferRequest, call: InferCall, job: Job
) -> messages.ModelInferResponse:
    images = call.image_request
    version, conditions = images.version, job.conditions
    response = messages.ModelInferResponse(
        model_name=version.spec.name, model_version=str(version.version), id=request.id
    )
    response.parameters["variant"].string_param = version.backend.variant.name
    for name in call.outputs:
        if name == "image":
            add_output(response, name, job.images)
        elif name == "serial":
            add_texts(response, name, images.make_serials(0, job.count, conditions))
        elif name == "caption" and conditions.captions is not None:
            add_texts(response, name, conditions.captions)
        elif name == "class_id" and conditions.class_id is not None:
            add_output(response, name, np.array(conditions.class_id, np.int64)[:, np.newaxis])
    return response
