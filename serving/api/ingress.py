"""HTTP ingress: the list of routes, what is around each of them, and errors in OpenAI's format."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, ClassVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.routing import Match

from headwater.serving import traces
from headwater.serving.api.backend import Backend
from headwater.serving.api.chat_types import ChatRequest
from headwater.serving.api.door import ANSWERED
from headwater.serving.api.extensions import console, console_routes, documents, key_routes, rankings
from headwater.serving.api.keys.auth import Key, check_key
from headwater.serving.api.limits import LoopbackHost, SecurityHeaders, cors, overloaded
from headwater.serving.api.openai import chat, completions, embeddings, models, responses, tokens
from headwater.serving.api.openai.chat_answers import ChatChunk, ChatResponse
from headwater.serving.api.openai.responses_types import ResponseObject, ResponsesRequest
from headwater.serving.api.openapi import document
from headwater.serving.api.routes import Route
from headwater.serving.config import AppConfig
from headwater.serving.errors import ApiError

ROUTES = (
    Route(
        "POST",
        "/v1/chat/completions",
        chat.chat,
        "chat",
        "Answer a conversation.",
        request=ChatRequest,
        response=ChatResponse,
        chunk=ChatChunk,
    ),
    Route(
        "POST",
        "/v1/completions",
        completions.completions,
        "completions",
        "Go on with a text.",
        request=completions.CompletionRequest,
        response=completions.CompletionResponse,
        chunk=completions.CompletionResponse,
    ),
    Route(
        "POST",
        "/v1/responses",
        responses.responses,
        "responses",
        "Answer a conversation (OpenAI's newer API).",
        request=ResponsesRequest,
        response=ResponseObject,
        chunk=dict[str, Any],
    ),
    Route(
        "POST",
        "/v1/embeddings",
        embeddings.embeddings,
        "embeddings",
        "Vectors of texts.",
        request=embeddings.EmbeddingRequest,
        response=embeddings.EmbeddingResponse,
    ),
    Route(
        "POST",
        "/v1/rankings",
        rankings.rank,
        "rankings",
        "Keep how a person ranks answers.",
        request=rankings.RankingRequest,
        response=rankings.Saved,
        status=201,
    ),
    Route(
        "POST",
        "/v1/search",
        documents.search,
        "search",
        "Search passages.",
        request=documents.SearchRequest,
        response=documents.SearchResponse,
    ),
    Route(
        "POST",
        "/v1/documents",
        documents.put,
        "documents",
        "Add or replace a document.",
        request=documents.DocumentRequest,
        response=documents.DocumentSaved,
        status=201,
    ),
    Route(
        "DELETE",
        "/v1/documents",
        documents.delete,
        "documents",
        "Delete the documents of a URL.",
        query={"url": {"type": "string", "minLength": 1, "maxLength": documents.MAX_URL}},
        response=documents.DocumentDeleted,
    ),
    Route(
        "GET",
        "/v1/documents",
        documents.listed,
        "documents",
        "List documents.",
        query=documents.LISTED,
        response=documents.Documents,
    ),
    Route("GET", "/v1/models", models.models, "models", "List the models.", response=models.Models),
    Route(
        "GET",
        "/v1/models/{name:path}",
        models.models,
        "models",
        "Show a model.",
        response=models.Model,
    ),
    Route(
        "POST",
        "/v1/models",
        models.add,
        "models",
        "Add a model, or put another one in its place.",
        request=models.ModelRequest,
        response=models.Model,
        status=201,
    ),
    Route(
        "DELETE",
        "/v1/models/{name:path}",
        models.remove,
        "models",
        "Remove a model.",
        response=models.Removed,
    ),
    Route(
        "POST",
        "/tokenize",
        tokens.tokenize,
        "tokenize",
        "The tokens of a text or a conversation.",
        request=tokens.TokenizeRequest,
        response=tokens.TokenizeResponse,
    ),
    Route(
        "POST",
        "/detokenize",
        tokens.detokenize,
        "detokenize",
        "The text of tokens.",
        request=tokens.DetokenizeRequest,
        response=tokens.DetokenizeResponse,
    ),
    Route("GET", "/healthz", models.health, "", "Health.", response=models.Health),
    Route("GET", "/health", models.health, "", "Health, by vLLM's name.", response=models.Health),
    Route("GET", "/version", models.version, "", "Headwater's version.", response=models.Version),
    Route("GET", "/metrics", models.metrics, "", "Prometheus metrics.", media="text/plain"),
    Route("GET", "/", console.page),
    Route("GET", "/console/{name}", console.page_file),
    *(Route("GET", path, handler, "console") for path, handler in console_routes.HANDLERS),
    Route("GET", "/console/api/keys", key_routes.listed, "console"),
    Route("POST", "/console/api/keys", key_routes.add, "console"),
    Route("DELETE", "/console/api/keys/{id}", key_routes.revoke, "console"),
)


class Ingress:
    """One replica of the HTTP ingress."""

    def __init__(
        self,
        config: AppConfig,
        engine: DeploymentHandle,
        retrieval: DeploymentHandle | None,
        web: DeploymentHandle | None = None,
    ) -> None:
        several = config.api.max_replicas > 1
        replica = serve.get_replica_context().replica_id.unique_id if several else ""
        self._backend = Backend(config, engine, retrieval, web, replica)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Build this replica's ASGI application. Called by Serve."""

        @contextlib.asynccontextmanager
        async def warmed(app: FastAPI) -> AsyncIterator[None]:
            await self._backend.ledger.sync_now()
            keeping = asyncio.create_task(self._backend.ledger.keep())
            following = asyncio.create_task(self._backend.follow_models())
            await self._backend.warm()
            yield
            keeping.cancel()
            following.cancel()
            await self._backend.ledger.sync_now()

        app = FastAPI(title="Headwater", docs_url=None, redoc_url=None, openapi_url=None, lifespan=warmed)
        app.add_middleware(WhileFull, backend=self._backend)
        if not self._backend.keys:
            app.add_middleware(LoopbackHost)
        app.add_middleware(SecurityHeaders)  # around what is refused, too
        app.user_middleware[:0] = cors(self._backend.config.cors_origins)
        app.add_exception_handler(HTTPException, _http_error)
        app.add_exception_handler(Exception, _unforeseen)
        described = JSONResponse(document(ROUTES, keys=bool(self._backend.keys)))
        app.add_api_route("/openapi.json", lambda: described, methods=["GET"], response_model=None)
        for route in ROUTES:
            handler = self._counted(route) if route.name else self._open(route)
            app.add_api_route(route.path, handler, methods=[route.method], response_model=None)
        return app

    def _open(self, route: Route) -> Callable[[Request], Awaitable[Response]]:
        async def handle(request: Request) -> Response:
            try:
                return await route.handler(self._backend, request)
            except ApiError as error:
                return _error_response(error)

        return handle

    def _counted(self, route: Route) -> Callable[[Request], Awaitable[Response]]:
        """Check the API key before the handler, turn errors into responses, record metrics.

        The duration of a stream is recorded when it ends.
        """
        metrics, respond = self._backend.metrics, self._open(route)

        async def handle(request: Request) -> Response:
            with traces.spanned(route.name, **{"http.route": route.path}) as span:
                response = await counted(request)
                traces.answered(span, response.status_code)
                return response

        async def counted(request: Request) -> Response:
            started = time.monotonic()
            try:
                key = check_key(request.headers.get("authorization"), self._backend.keys)
            except ApiError as error:
                response = _error_response(error)
            else:
                request.state.key = key
                response = await self._within_quota(key, respond, request)
            metrics.requests.labels(route.name, response.status_code).inc()
            if not isinstance(response, StreamingResponse):
                metrics.seconds.labels(route.name).observe(time.monotonic() - started)
            return response

        return handle

    async def _within_quota(
        self, key: Key, respond: Callable[[Request], Awaitable[Response]], request: Request
    ) -> Response:
        """The response, with the headers that tell how the key stands."""
        try:
            self._backend.quotas.request(key)
            response = await respond(request)
        except ApiError as error:
            response = _error_response(error)
        response.headers.update(self._backend.quotas.headers(key))
        return response


class WhileFull:
    """ASGI middleware: while no place is free, refuses what would wait for the model by path and key alone.

    The body is not read, and the request does not count for its key. Where Serve's proxy has the door, few
    come so far.
    """

    names: ClassVar = {route.path: route.name for route in ROUTES if route.path in ANSWERED}

    def __init__(self, app: Any, backend: Backend) -> None:
        self._app, self._backend = app, backend

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        full = scope["type"] == "http" and scope["method"] == "POST" and self._backend.full
        name = self.names.get(scope["path"]) if full else None
        if name is None:
            await self._app(scope, receive, send)
            return
        with traces.spanned(name, **{"http.route": scope["path"]}) as span:
            response = self._refusal(Headers(scope=scope).get("authorization"))
            traces.answered(span, response.status_code)
        self._backend.metrics.requests.labels(name, response.status_code).inc()
        await response(scope, receive, send)

    def _refusal(self, authorization: str | None) -> Response:
        try:
            key = check_key(authorization, self._backend.keys)
        except ApiError as error:
            return _error_response(error)
        response = _error_response(overloaded())
        response.headers.update(self._backend.quotas.headers(key))
        return response


def _error_response(error: ApiError) -> Response:
    return JSONResponse(error.body(), status_code=error.status, headers=error.headers())


async def _http_error(request: Request, error: Exception) -> Response:
    """Starlette's own errors (404, 405) as OpenAI error bodies."""
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
    response = _error_response(
        ApiError(error.status_code, f"{error.detail}: {request.method} {request.url.path[:200]}", code=code)
    )
    if error.status_code == 405:  # RFC 9110, section 15.5.6; Starlette tells those of the first route alone
        found = [each for each in request.app.routes if each.matches(request.scope)[0] is not Match.NONE]
        response.headers["allow"] = ", ".join(sorted({method for each in found for method in each.methods}))
    return response


async def _unforeseen(request: Request, error: Exception) -> Response:
    """An unexpected error. Starlette logs its traceback; the client gets no details."""
    return _error_response(ApiError(500, "Internal server error.", code="internal_error"))
