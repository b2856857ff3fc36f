"""HTTP ingress: routes, server-sent events, OpenAI error bodies, the console's files."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import cast

from fastapi import FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from pydantic import ValidationError
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator
from starlette.exceptions import HTTPException

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.store import Store
from headwater.llm.examples.rankings import RankedAnswer, Ranking, save
from headwater.llm.grounding.cite import without_markers
from headwater.llm.grounding.passages import Passage
from headwater.serving.answers.answer import AnswerJob, Delta, Event, Finished, Started
from headwater.serving.api import openai_types as api
from headwater.serving.api.auth import RANK, Key, check_key, read_keys
from headwater.serving.api.limits import PerMinute, SecurityHeaders, read_json_body
from headwater.serving.api.metrics import CONTENT_TYPE, Metrics
from headwater.serving.config import AppConfig
from headwater.serving.errors import ApiError

log = logging.getLogger("headwater")

CONSOLE = Path(__file__).parents[1] / "console"
RETRY_SECONDS = 2
"""Retry-After of an overloaded server, in seconds: about the time of one short answer."""

Handler = Callable[[Request], Awaitable[Response]]


class Ingress:
    """One replica of the HTTP ingress. Its only state is its metrics and how much each rater has sent."""

    def __init__(
        self, config: AppConfig, engine: DeploymentHandle, retrieval: DeploymentHandle | None
    ) -> None:
        self._config, self._retrieval = config, retrieval
        self._engine = engine.options(stream=True)
        self._keys = read_keys(config.api_keys)
        several = config.api.max_replicas > 1
        self._metrics = Metrics(serve.get_replica_context().replica_id.unique_id if several else "")
        self._rankings = PerMinute(config.rankings_per_minute)
        self._created = int(time.time())

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Build this replica's ASGI application. Called by Serve."""
        app = FastAPI(title="Headwater", docs_url=None, redoc_url=None, openapi_url=None)
        app.add_middleware(SecurityHeaders)
        if self._config.cors_origins:
            app.add_middleware(
                CORSMiddleware,
                allow_origins=list(self._config.cors_origins),
                allow_methods=["GET", "POST"],
                allow_headers=["authorization", "content-type"],
            )
        app.add_exception_handler(HTTPException, _http_error)
        app.add_exception_handler(Exception, _unforeseen)
        routes: list[tuple[str, str, Handler]] = [
            ("POST", "/v1/chat/completions", self._counted("chat", self.chat)),
            ("POST", "/v1/rankings", self._counted("rankings", self.rank)),
            ("GET", "/v1/models", self._counted("models", self.models)),
            ("GET", "/v1/models/{name:path}", self._counted("models", self.models)),
        ]
        for method, path, handler in routes:
            app.add_api_route(path, handler, methods=[method], response_model=None)
        app.add_api_route("/healthz", self.health, methods=["GET"], response_model=None)
        app.add_api_route("/metrics", self.metrics, methods=["GET"], response_model=None)
        app.add_api_route("/", self.page, methods=["GET"], response_model=None)
        app.add_api_route("/console/{name}", self.page_file, methods=["GET"], response_model=None)
        return app

    def _counted(self, route: str, handler: Handler) -> Handler:
        """Wrap a handler: check the API key, turn errors into responses, record metrics.

        The duration of a stream is recorded when it ends.
        """

        async def handle(request: Request) -> Response:
            started = time.monotonic()
            try:
                request.state.key = check_key(request.headers.get("authorization"), self._keys)
                response = await handler(request)
            except ApiError as error:
                response = _error_response(error)
            self._metrics.requests.labels(route, response.status_code).inc()
            if not isinstance(response, StreamingResponse):
                self._metrics.seconds.labels(route).observe(time.monotonic() - started)
            return response

        return handle

    # -- chat ----------------------------------------------------------------------------------
    async def chat(self, request: Request) -> Response:
        started = time.monotonic()
        body = await read_json_body(request, self._config.max_body_bytes)
        wanted = api.parse(api.ChatRequest, body)
        wanted.check_supported()
        self._check_model(wanted.model)
        events = self._answer(wanted, started)
        first = await anext(events)  # raises errors before the response starts
        assert isinstance(first, Started)
        identifier = f"chatcmpl-{uuid.uuid4().hex}"
        if wanted.stream:
            return StreamingResponse(
                self._sse(wanted, first, events, identifier, started),
                media_type="text/event-stream",
                headers={"cache-control": "no-cache", "x-accel-buffering": "no"},
            )
        async with contextlib.aclosing(events):
            return await self._whole(wanted, first, events, identifier)

    def _check_model(self, name: str) -> None:
        if name != self._config.model_name:
            raise ApiError(
                404,
                f"The model `{name[:100]}` does not exist. This server has `{self._config.model_name}`.",
                code="model_not_found",
                param="model",
            )

    async def _answer(self, wanted: api.ChatRequest, started: float) -> AsyncGenerator[Event, None]:
        """Search passages, then yield the events of the answer."""
        self._metrics.in_progress.inc()
        try:
            with _parts_explained():
                job = await self._job(wanted)
                spoken = False
                call = cast(DeploymentResponseGenerator, self._engine.answer.remote(job))
                try:
                    async for event in call:
                        if isinstance(event, ApiError):
                            raise event
                        if isinstance(event, Delta) and not spoken:
                            spoken = True
                            self._metrics.first_token_seconds.observe(time.monotonic() - started)
                        yield event
                finally:
                    call.cancel()  # no-op if the call has ended
        finally:
            self._metrics.in_progress.dec()

    async def _job(self, wanted: api.ChatRequest) -> AnswerJob:
        config = self._config
        passages = await self._passages(api.question(wanted.messages), wanted.retrieval)
        return AnswerJob(
            messages=[message.plain() for message in wanted.messages],
            passages=passages,
            mode=config.answer,
            max_tokens=wanted.max_completion_tokens or wanted.max_tokens or config.max_tokens,
            temperature=config.temperature if wanted.temperature is None else wanted.temperature,
            top_p=1.0 if wanted.top_p is None else wanted.top_p,
            seed=wanted.seed,
            stops=wanted.stops(),
            choices=wanted.n or 1,
            quoted_sentences=config.quoted_sentences,
        )

    async def _passages(self, question: str, retrieval: bool | None) -> list[Passage] | None:
        """What is found for a question; None without retrieval."""
        config = self._config
        if self._retrieval is not None and retrieval is not False:
            return await self._retrieval.search.remote(
                question, config.passages, config.per_document, config.min_relevance
            )
        if retrieval:
            raise ApiError(
                400, "This server has no index to search.", code="unsupported_parameter", param="retrieval"
            )
        return None

    async def _whole(
        self, wanted: api.ChatRequest, first: Started, events: AsyncIterator[Event], identifier: str
    ) -> Response:
        texts = [""] * (wanted.n or 1)
        ends: list[Finished] = []
        async for event in events:
            if isinstance(event, Delta):
                texts[event.choice] += event.text
            elif isinstance(event, Finished):
                ends.append(event)
        choices = [(texts[end.choice], end.reason, end.citations, _ids(wanted, end)) for end in ends]
        used = self._count(first, ends)
        return JSONResponse(api.completion(identifier, self._config.model_name, choices, used))

    async def _sse(
        self,
        wanted: api.ChatRequest,
        first: Started,
        events: AsyncGenerator[Event, None],
        identifier: str,
        started: float,
    ) -> AsyncIterator[str]:
        chunks = api.Chunks(identifier, self._config.model_name)
        ends: list[Finished] = []
        try:
            for choice in range(wanted.n or 1):
                yield chunks.delta(choice, {"role": "assistant", "content": ""})
            async for event in events:
                if isinstance(event, Delta):
                    yield chunks.delta(event.choice, {"content": event.text})
                elif isinstance(event, Finished):
                    ends.append(event)
                    yield chunks.finish(event.choice, event.reason, event.citations, _ids(wanted, event))
            if wanted.stream_options and wanted.stream_options.include_usage:
                yield chunks.usage(api.usage(first.prompt_tokens, sum(end.completion_tokens for end in ends)))
            yield api.DONE
        except ApiError as error:  # the status is already sent, so the error is sent as an event
            yield api.event(error.body())
        finally:
            await events.aclose()
            self._count(first, ends)
            self._metrics.seconds.labels("chat").observe(time.monotonic() - started)

    def _count(self, first: Started, ends: list[Finished]) -> dict[str, int]:
        used = api.usage(first.prompt_tokens, sum(end.completion_tokens for end in ends))
        self._metrics.tokens.labels("prompt").inc(used["prompt_tokens"])
        self._metrics.tokens.labels("completion").inc(used["completion_tokens"])
        self._metrics.citations.inc(sum(len(end.citations) for end in ends))
        return used

    # -- the other routes -----------------------------------------------------------------------
    async def rank(self, request: Request) -> Response:
        key: Key = request.state.key
        if RANK not in key.roles:
            raise ApiError(403, f"This API key has not the role `{RANK}`.", code="not_allowed")
        body = await read_json_body(request, self._config.max_body_bytes)
        wanted = api.parse(api.RankingRequest, body)
        if not self._config.store:
            raise ApiError(404, "This server does not store rankings.", code="rankings_disabled")
        self._rankings.check(key.name, time.monotonic())
        prompt = [message.plain() for message in wanted.messages]
        with _parts_explained():  # the same search as for the answers
            passages = await self._passages(api.question(wanted.messages), wanted.retrieval)
        try:
            answers = [  # [1] is added by the server, not written by the model
                RankedAnswer(**each.model_dump() | {"text": without_markers(each.text)})
                for each in wanted.answers
            ]
            ranking = Ranking(
                prompt=prompt,
                answers=answers,
                ranks=wanted.ranks,
                rater=key.name,
                source="console",
                model=self._config.model_name,
                model_key=self._config.model_key,
                passages=[asdict(passage) for passage in passages or []],
                reason=wanted.reason,
                blind=wanted.blind,
            )
            await asyncio.to_thread(save, Store(self._config.store), ranking)
        except ValidationError as error:
            message = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
            raise ApiError(400, message, code="invalid_value") from error
        except HeadwaterError as error:
            raise ApiError(400, str(error), code="invalid_value") from error
        return JSONResponse({"object": "ranking", "saved": True}, status_code=201)

    async def models(self, request: Request) -> Response:
        entry = {
            "id": self._config.model_name,
            "object": "model",
            "created": self._created,
            "owned_by": "headwater",
            "retrieval": self._retrieval is not None,
            "rankings": bool(self._config.store) and RANK in request.state.key.roles,
        }
        if name := request.path_params.get("name"):
            self._check_model(name)
            return JSONResponse(entry)
        return JSONResponse({"object": "list", "data": [entry]})

    async def health(self) -> Response:
        """200 if every deployment is healthy, 503 otherwise."""
        status = await asyncio.to_thread(serve.status)
        parts = {
            name: deployment.status.value
            for application in status.applications.values()
            for name, deployment in application.deployments.items()
        }
        well = all(state in ("HEALTHY", "UPSCALING", "DOWNSCALING") for state in parts.values())
        body = {"status": "ok" if well else "unhealthy", "model": self._config.model_name, "parts": parts}
        return JSONResponse(body, status_code=200 if well else 503)

    async def metrics(self) -> Response:
        return Response(self._metrics.render(), media_type=CONTENT_TYPE)

    async def page(self) -> Response:
        return FileResponse(CONSOLE / "index.html", headers={"cache-control": "no-cache"})

    async def page_file(self, name: str) -> Response:
        files = {path.name: path for path in CONSOLE.iterdir() if path.suffix in (".js", ".css", ".svg")}
        if name not in files:
            return _error_response(ApiError(404, "There is no such file.", code="not_found"))
        return FileResponse(files[name], headers={"cache-control": "no-cache"})


def _ids(wanted: api.ChatRequest, end: Finished) -> dict[str, list[int]]:
    return {"token_ids": end.token_ids} if wanted.return_token_ids else {}


@contextlib.contextmanager
def _parts_explained() -> Iterator[None]:
    """ApiError 503 if the model or the search is overloaded or has failed."""
    try:
        yield
    except BackPressureError as error:
        message = "The request queue is full. Try again shortly."
        raise ApiError(503, message, code="overloaded", retry_after=RETRY_SECONDS) from error
    except (RayError, RayServeException) as error:
        log.exception("the model or the search failed")
        raise ApiError(
            503, "A part of this server is not available.", code="unavailable", retry_after=RETRY_SECONDS
        ) from error


def _error_response(error: ApiError) -> Response:
    headers = {} if error.retry_after is None else {"retry-after": str(error.retry_after)}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(error.body(), status_code=error.status, headers=headers)


async def _http_error(request: Request, error: Exception) -> Response:
    """Starlette's own errors (404, 405) as OpenAI error bodies."""
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
    return _error_response(
        ApiError(error.status_code, f"{error.detail}: {request.method} {request.url.path[:200]}", code=code)
    )


async def _unforeseen(request: Request, error: Exception) -> Response:
    """An unexpected error. Starlette logs its traceback; the client gets no details."""
    return _error_response(ApiError(500, "Internal server error.", code="internal_error"))
