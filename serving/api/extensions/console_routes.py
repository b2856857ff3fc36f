"""`/console/api/…`: what the console shows besides answers. Every route only reads.

Views of the store need the role `admin`, which whoever uses a server without keys has.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import math
import re
from collections.abc import Awaitable, Callable
from typing import Any, ParamSpec, TypeVar

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.artifact import Artifact
from headwater.cluster.storage.store import Store
from headwater.data_pipeline.corpus import read_documents
from headwater.llm.examples.conversations import clean_title, question_about
from headwater.serving.api.backend import Backend, parts_explained
from headwater.serving.api.chat_types import RetrievalOptions
from headwater.serving.api.keys.auth import ADMIN, RANK, Key, check_role
from headwater.serving.api.retrieve import searched
from headwater.serving.errors import ApiError
from headwater.serving.views import corpus, lineage, people, prompts, runs

EXAMPLES = 4
"""Example questions on the empty chat page."""
CANDIDATES = 12
"""Headlines tried for these: only what the search finds is shown."""
MAX_SEARCH = 2_000
"""Characters of a search."""
_STAGE = re.compile(r"[a-z][a-z0-9_]{0,40}")
_KEY = re.compile(r"[0-9a-f]{4,64}")
_RUN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,100}")

P = ParamSpec("P")
T = TypeVar("T")


async def about(backend: Backend, request: Request) -> Response:
    """What the page needs to begin: the settings' defaults, what this key may do, the corpus, the presets."""
    config, key = backend.config, request.state.key
    store = Store(config.store) if config.store else None
    model_key = config.key_of(backend.models.first.folder)
    found = await _read(prompts.presets, store, model_key)
    body = {
        "model": config.model_name,
        "models": list(backend.models.now),
        "model_key": model_key,
        "answer": config.answer,
        "temperature": config.temperature,
        "max_tokens": config.max_tokens,
        "retrieval": backend.retrieval is not None,
        "web": config.web and {"search": config.web.search is not None, "by_default": config.web.by_default},
        "rankings": bool(config.store) and RANK in key.roles,
        "store": bool(config.store) and ADMIN in key.roles,
        "keys": bool(backend.keys) and ADMIN in key.roles,
        "rater": key.name if backend.keys else None,
        "presets": found,
        "corpus": await _corpus(backend) if backend.retrieval is not None else None,
    }
    return _json(body)


async def standing(backend: Backend, request: Request) -> Response:
    """How people's rankings stand; `rater` names who asks where the server has no keys."""
    key: Key = request.state.key
    check_role(key, RANK)
    if not backend.config.store:
        raise _no_store()
    rater = key.name if backend.keys else request.query_params.get("rater") or key.name
    return _json(await _read(people.standing, Store(backend.config.store), rater))


async def all_runs(backend: Backend, request: Request) -> Response:
    return _json({"runs": await _read(runs.all_runs, _store(backend, request))})


async def one_run(backend: Backend, request: Request) -> Response:
    store, run = _store(backend, request), _checked(request, "run", _RUN)
    attempt = request.path_params["attempt"]
    return _json(_there(await _read(runs.one_run, store, run, attempt)))


async def curves(backend: Backend, request: Request) -> Response:
    store = _store(backend, request)
    stage, key = _checked(request, "stage", _STAGE), _checked(request, "key", _KEY)
    return _json(_there(await _read(runs.curves, store, stage, key)))


async def corpora(backend: Backend, request: Request) -> Response:
    return _json({"corpora": await _read(corpus.corpora, _store(backend, request))})


async def documents(backend: Backend, request: Request) -> Response:
    store, key = _store(backend, request), _checked(request, "key", _KEY)
    text = request.query_params.get("text", "").strip()
    if not text or len(text) > MAX_SEARCH:
        message = f"`text` must have 1 to {MAX_SEARCH:,} characters."
        raise ApiError(400, message, code="invalid_value", param="text")
    _there(await _read(store.artifact("clean", key).manifest))
    return _json(await _read(corpus.documents, store, key, text))


async def artifacts(backend: Backend, request: Request) -> Response:
    found = await _read(lineage.all_artifacts, _store(backend, request))
    return _json({"artifacts": found, "served": backend.config.key_of(backend.models.first.folder)})


async def one_artifact(backend: Backend, request: Request) -> Response:
    store = _store(backend, request)
    stage, key = _checked(request, "stage", _STAGE), _checked(request, "key", _KEY)
    return _json(_there(await _read(lineage.one_artifact, store, stage, key)))


HANDLERS: tuple[tuple[str, Callable[[Backend, Request], Awaitable[Response]]], ...] = (
    ("/console/api/about", about),
    ("/console/api/rankings", standing),
    ("/console/api/runs", all_runs),
    ("/console/api/runs/{run}/{attempt:int}", one_run),
    ("/console/api/curves/{stage}/{key}", curves),
    ("/console/api/corpora", corpora),
    ("/console/api/corpora/{key}/documents", documents),
    ("/console/api/artifacts", artifacts),
    ("/console/api/artifacts/{stage}/{key}", one_artifact),
)
"""Path and handler of every route; the method is GET."""


async def _corpus(backend: Backend) -> dict[str, Any]:
    """Number of documents and passages of the index, and questions about documents that the search finds."""
    index = Artifact(backend.config.index)
    manifest = await _read(index.manifest)
    counts = manifest.metrics if manifest else {}
    found: dict[str, Any] = {name: counts.get(name) for name in ("documents", "passages")}
    key = manifest.inputs.get("clean", "") if manifest else ""
    headlines: dict[str, str] = {}
    if key and backend.config.store:
        headlines = await _read(_headlines, Store(backend.config.store).artifact("clean", key))
    examples = list(headlines.values())
    found["examples"] = []
    with contextlib.suppress(ApiError), parts_explained():  # an overloaded server has no examples
        hits = await asyncio.gather(
            *(searched(backend, question, RetrievalOptions()) for question in examples)
        )
        found["examples"] = [
            question
            for (identifier, question), passages in zip(headlines.items(), hits, strict=True)
            if any(passage.document_id == identifier for passage in passages or [])
        ][:EXAMPLES]
    return found


def _headlines(clean: Artifact) -> dict[str, str]:
    """Document id → question of the first documents with a fit headline."""
    rows = (
        row
        for batch in read_documents(clean, ["id", "url", "title"])
        for row in batch.to_pylist()
        if clean_title(row["title"], row["url"])
    )
    return {
        row["id"]: question_about(clean_title(row["title"], row["url"]))
        for row in itertools.islice(rows, CANDIDATES)
    }


async def _read(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a reader of the store in a thread. Raises ApiError 503 for what cannot be read."""
    try:
        return await asyncio.to_thread(functools.partial(function, *args, **kwargs))
    except (OSError, HeadwaterError) as error:
        raise ApiError(503, "The store cannot be read.", code="unavailable") from error


def _store(backend: Backend, request: Request) -> Store:
    """The server's store. Raises ApiError 403 without the role, 404 where there is none."""
    check_role(request.state.key, ADMIN)
    if not backend.config.store:
        raise _no_store()
    return Store(backend.config.store)


def _checked(request: Request, name: str, pattern: re.Pattern[str]) -> str:
    """A part of the path that becomes a part of a location. Raises ApiError 404 for any other text."""
    value = str(request.path_params[name])
    if not pattern.fullmatch(value):
        raise _missing()
    return value


def _there(found: T | None) -> T:
    if found is None:
        raise _missing()
    return found


def _missing() -> ApiError:
    return ApiError(404, "The store has nothing by this name.", code="not_found")


def _no_store() -> ApiError:
    return ApiError(404, "This server has no store.", code="store_disabled")


def _json(body: Any) -> Response:
    return JSONResponse(_plain(body), headers={"cache-control": "no-store"})


def _plain(value: Any) -> Any:
    """The value with null for numbers that are not finite: JSON has none."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(name): _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value
