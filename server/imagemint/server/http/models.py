"""ModelService over HTTP, and the card and the samples of a bundle."""

from typing import Any, cast

from imagemint.server.access.caller import current_caller
from imagemint.server.http.entity_tags import NOT_MODIFIED, spell_etag
from imagemint.server.http.exchange import Exchange
from imagemint.server.http.json_messages import encode_json
from imagemint.server.http.parameters import (
    INT32_MAX,
    Setter,
    parse_integer,
    set_parameters,
    spell_parameter,
)
from imagemint.server.http.problems import Problem
from imagemint.server.http.rpcs import Reply
from imagemint.server.repository import ModelRepository, ServedVersion
from imagemint.server.rpc.call import current_call
from imagemint.server.rpc.v1.models import ModelServicer
from imagemint.v1 import model_service_pb2 as messages

SERVICE = "/imagemint.v1.ModelService"
FILES = {"card.md": "text/markdown; charset=utf-8", "samples.png": "image/png"}
"""Media types of the files of a bundle that callers may read, by name."""


class Models:
    """Handlers of ModelService.

    Args:
        servicer: describes the models.
        repository: the models.
    """

    def __init__(self, servicer: ModelServicer, repository: ModelRepository) -> None:
        self._servicer = servicer
        self._repository = repository

    async def list(self, exchange: Exchange) -> Reply:
        """Answers `GET /v1/models` with a ListModelsResponse."""
        exchange.spell_field = spell_parameter
        request = messages.ListModelsRequest()
        setters: dict[str, Setter] = {
            "pageSize": lambda text: setattr(request, "page_size", parse_integer(text, INT32_MAX)),
            "pageToken": lambda text: setattr(request, "page_token", text),
        }
        # As in JSON, the names of the schema are accepted, too.
        names = {"page_size": "pageSize", "page_token": "pageToken"}
        items = [(names.get(name, name), text) for name, text in exchange.query.multi_items()]
        set_parameters(items, setters)
        response = await self._servicer.ListModels(request, cast("Any", exchange.context))
        return _reply_json(encode_json(response))

    async def get(self, exchange: Exchange) -> Reply:
        """Answers `GET /v1/models/{model}` with a Model."""
        request = messages.GetModelRequest(model=exchange.path["model"])
        response = await self._servicer.GetModel(request, cast("Any", exchange.context))
        return _reply_json(encode_json(response.model))

    async def get_file(self, exchange: Exchange) -> Reply:
        """Answers `GET /v1/models/{model}/versions/{version}/{file}`: a card or samples."""
        model, number, name = (exchange.path[each] for each in ("model", "version", "file"))
        version = resolve_allowed(self._repository, model, number)
        document = version.bundle.documents.get(name)
        if document is None:
            why = f"the bundle of {model}@{number} has no {name}"
            members = {"reason": "NO_SUCH_PATH", "request_id": current_call.get().request_id}
            problem = Problem(404, why, "NOT_FOUND", members)
            return Reply(problem.encode(), problem.make_headers(), problem.status)
        headers = {"etag": spell_etag(document.sha256), "cache-control": "no-cache"}
        if exchange.has_copy(headers["etag"]):
            return Reply(b"", headers, NOT_MODIFIED)
        return Reply(document.content, headers | {"content-type": FILES[name]})


def resolve_allowed(repository: ModelRepository, model: str, version: str) -> ServedVersion:
    """Returns a version if the caller may use its model.

    Raises:
        NotAllowed: the caller may not use the model.
        ModelNotFound, VersionNotFound, ModelNotReady: as in `ModelRepository.resolve`.
    """
    current_caller.get().check_model(model)
    current_call.get().model = repository.get_model(model).name
    return repository.resolve(model, version)


def _reply_json(body: bytes) -> Reply:
    return Reply(body, {"content-type": "application/json", "cache-control": "no-store"})
