"""The ASGI application: its routes, and the headers and errors that all answers share."""

import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from imagemint.engine.errors import MOST_QUOTED, InvalidRequest, quote, shorten
from imagemint.server.http import openapi, page
from imagemint.server.http.generation import PICTURES, SERIAL_HEADER, SERVICE, Generation
from imagemint.server.http.images import Images
from imagemint.server.http.models import FILES, Models
from imagemint.server.http.models import SERVICE as MODEL_SERVICE
from imagemint.server.http.problems import Problem
from imagemint.server.http.rpcs import Rpcs
from imagemint.server.http.translation import SERVICE as TRANSLATION_SERVICE
from imagemint.server.http.translation import Translation
from imagemint.server.repository import ModelRepository
from imagemint.server.rpc.interceptor import read_request_id
from imagemint.server.rpc.server import Services
from imagemint.server.settings import ServeSettings

# Browsers must not guess other media types, and other sites must not embed these pages in frames.
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", page.POLICY.encode()),
)
_EXPOSED_HEADERS = (SERIAL_HEADER, "etag", "retry-after", "server-timing", "x-request-id")
_CORS_MAX_AGE_S = 600
_CODES = {404: "NOT_FOUND", 405: "UNIMPLEMENTED"}
_REASONS = {404: "NO_SUCH_PATH", 405: "METHOD_NOT_ALLOWED"}
_ABSOLUTE_FORM = re.compile(rb"https?://[^/]*", re.IGNORECASE)


class Probes(NamedTuple):
    """State of the server, for health checks and metrics.

    Attributes:
        is_ready: returns whether the server as a whole answers calls.
        scrape: returns the metrics as text; None if they are not served over HTTP.
    """

    is_ready: Callable[[], bool]
    scrape: Callable[[], bytes] | None


def make_application(
    settings: ServeSettings,
    services: Services,
    repository: ModelRepository,
    workers: ThreadPoolExecutor,
    probes: Probes,
) -> ASGIApp:
    """Returns the application.

    Args:
        settings: the settings of the server.
        services: the services that answer RPCs.
        repository: the models.
        workers: threads that convert large messages.
        probes: the state of the server.
    """
    middleware = [Middleware(_OriginForm), Middleware(_SharedHeaders)]
    if settings.http_allow_origins:
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=settings.http_allow_origins,
                allow_methods=["GET", "POST"],
                allow_headers=["*"],
                expose_headers=_EXPOSED_HEADERS,
                max_age=_CORS_MAX_AGE_S,
            )
        )
    application = Starlette(
        routes=[
            *_make_rpc_routes(settings, services, repository, workers),
            *_make_probe_routes(probes),
            Route("/openapi.json", openapi.make_endpoint()),
            *(
                page.make_routes(has_metrics=probes.scrape is not None)
                if settings.http_page
                else ()
            ),
        ],
        middleware=middleware,
        exception_handlers={HTTPException: _answer_http_error, Exception: _answer_fault},
    )
    # Behind a proxy that ends TLS, Starlette's redirect to a path without its last slash would lead
    # to a URL without TLS.
    application.router.redirect_slashes = False
    return application


def _make_rpc_routes(
    settings: ServeSettings,
    services: Services,
    repository: ModelRepository,
    workers: ThreadPoolExecutor,
) -> Sequence[BaseRoute]:
    rpcs = Rpcs(services.interceptor, settings.max_request_bytes, settings.http_receive_timeout_s)
    generation = Generation(services.generation, workers)
    translation = Translation(services.translation, workers, settings.http_allow_origins)
    models = Models(services.models, repository)
    images = Images(services.generation, repository)
    generate, get_model = f"{SERVICE}/Generate", f"{MODEL_SERVICE}/GetModel"
    model = "/v1/models/{model:name}"
    version = model + "/versions/{version}"
    return [
        Route(
            model + ":generate",
            rpcs.make_endpoint(generate, generation.generate, has_body=True),
            methods=["POST"],
        ),
        Route(
            model + ":streamGenerate",
            rpcs.make_endpoint(f"{SERVICE}/StreamGenerate", generation.stream, has_body=True),
            methods=["POST"],
        ),
        Route(
            model + ":interpolate",
            rpcs.make_endpoint(f"{SERVICE}/Interpolate", generation.interpolate, has_body=True),
            methods=["POST"],
        ),
        Route(
            model + ":translate",
            rpcs.make_endpoint(
                f"{TRANSLATION_SERVICE}/Translate", translation.translate, has_body=True
            ),
            methods=["POST"],
        ),
        Route(
            "/v1/models",
            rpcs.make_endpoint(f"{MODEL_SERVICE}/ListModels", models.list),
            methods=["GET"],
        ),
        Route(model, rpcs.make_endpoint(get_model, models.get), methods=["GET"]),
        Route(
            version + "/images/{seed}/{index}.{extension:picture}",
            rpcs.make_endpoint(generate, images.get),
            methods=["GET"],
        ),
        Route(
            version + "/{file:bundle_file}",
            rpcs.make_endpoint(get_model, models.get_file),
            methods=["GET"],
        ),
    ]


def _make_probe_routes(probes: Probes) -> Sequence[BaseRoute]:
    def check_health(_: Request) -> Response:
        return _make_text("ok\n")

    def check_ready(_: Request) -> Response:
        if probes.is_ready():
            return _make_text("ready\n")
        return _make_text("not ready\n", HTTPStatus.SERVICE_UNAVAILABLE)

    async def health(request: Request) -> Response:
        return check_health(request)

    async def ready(request: Request) -> Response:
        return check_ready(request)

    routes = [Route("/healthz", health), Route("/readyz", ready)]
    if (scrape := probes.scrape) is not None:

        def metrics(_: Request) -> Response:  # on a separate thread, because it takes milliseconds
            return Response(
                scrape(), media_type="text/plain; version=0.0.4; charset=utf-8", headers=_NOT_STORED
            )

        routes.append(Route("/metrics", metrics))
    return routes


_NOT_STORED = {"cache-control": "no-store"}


def _make_text(text: str, status: int = HTTPStatus.OK) -> Response:
    return Response(text, status, _NOT_STORED, "text/plain")


async def _answer_http_error(request: Request, error: Exception) -> Response:
    """Answers a request that no route takes."""
    assert isinstance(error, HTTPException)  # noqa: S101 - for the type checker
    code = _CODES.get(error.status_code, "INVALID_ARGUMENT")
    headers = dict(error.headers or {})
    detail = str(error.detail)
    if error.status_code == HTTPStatus.NOT_FOUND:
        path = quote(request.url.path, MOST_QUOTED)
        detail = f"there is no {path}; /openapi.json describes all paths"
    elif "Allow" in headers:
        headers["Allow"] = ", ".join(sorted(headers["Allow"].split(", ")))  # a set until here
        detail = f"{shorten(request.method)} is not allowed here; use {headers['Allow']}"
    members = {"reason": _REASONS.get(error.status_code, InvalidRequest.reason)}
    if request_id := read_request_id(request.headers.items()):
        members["request_id"] = request_id
    problem = Problem(error.status_code, detail, code, members)
    headers = problem.make_headers() | headers
    return Response(problem.encode(), problem.status, headers)


async def _answer_fault(_: Request, __: Exception) -> Response:
    """Answers a request that failed because of a bug; Starlette logs the exception."""
    problem = Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "the server failed", "INTERNAL")
    return Response(problem.encode(), problem.status, problem.make_headers())


class _OriginForm:
    """Takes the path from a target that is a whole URL, as proxies send it (RFC 9112, 3.2.2)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (match := _ABSOLUTE_FORM.match(scope["raw_path"])):
            raw = scope["raw_path"][match.end() :] or b"/"
            scope = {**scope, "raw_path": raw, "path": unquote(raw.decode("ascii"))}
        await self._app(scope, receive, send)


class _SharedHeaders:
    """Adds the headers of all answers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_HEADERS]
            await send(message)

        await self._app(scope, receive, send_with_headers)


def _register_convertor(name: str, regex: str) -> None:
    register_url_convertor(name, type(name, (StringConvertor,), {"regex": regex})())


_register_convertor("name", "[^/:]+")
_register_convertor("picture", "|".join(PICTURES))
_register_convertor("bundle_file", "|".join(FILES).replace(".", r"\."))
