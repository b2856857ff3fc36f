"""`POST /v1/search`: search. `POST`, `DELETE` and `GET /v1/documents`: change and list documents."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field, field_validator
from typing_extensions import TypedDict

from headwater.serving.api.backend import Backend, parts_explained
from headwater.serving.api.bodies import Body, RequestBody, parse
from headwater.serving.api.keys.auth import ADMIN, check_role
from headwater.serving.api.limits import read_json_body
from headwater.serving.errors import ApiError
from headwater.serving.retrieval.changes import Change
from headwater.serving.retrieval.passages import Filters

MOST = 100
"""Passages of one search, and documents of one listing."""
MAX_URL = 2048
DATE = r"^(\d{4}(-\d{2}(-\d{2}(T[0-9:.+Z-]{1,30})?)?)?)?$"


class SearchFilters(Body):
    site: str = Field("", max_length=253)
    language: str = Field("", max_length=16)
    since: str = Field("", pattern=DATE)
    until: str = Field("", pattern=DATE)


class SearchRequest(RequestBody):
    """The body of `POST /v1/search`."""

    example: ClassVar[dict[str, Any]] = {"query": "old stone bridge"}

    query: str = Field(max_length=100_000)
    limit: int = Field(10, ge=1, le=MOST)
    per_document: int = Field(1, ge=1, le=MOST)
    """At most so many passages of one document."""
    min_relevance: float = Field(0.0, ge=0, le=1, allow_inf_nan=False)
    filters: SearchFilters = SearchFilters()


class DocumentRequest(RequestBody):
    """The body of `POST /v1/documents`: a document, which replaces one of the same URL."""

    example: ClassVar[dict[str, Any]] = {
        "url": "https://example.org/bridge",
        "text": "The bridge is open again.",
    }

    url: str = Field(min_length=1, max_length=MAX_URL)
    title: str = Field("", max_length=1000)
    text: str = Field(min_length=1, max_length=1_000_000)
    language: str = Field("", max_length=16)
    date: str = Field("", pattern=DATE)

    @field_validator("url")
    @classmethod
    def _is_web(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
        except ValueError as error:
            raise ValueError("no URL") from error
        if parts.scheme not in ("http", "https") or not parts.hostname or not url.isprintable() or " " in url:
            raise ValueError("must be an http or https URL")
        return url


class PassageOut(TypedDict):
    """A passage: its place in the document in code points, and its relevance from 0 to 1."""

    object: Literal["passage"]
    relevance: float
    document_id: str
    url: str
    title: str
    text: str
    start: int
    end: int
    score: float


class SearchResponse(TypedDict):
    object: Literal["list"]
    data: list[PassageOut]


class DocumentSaved(TypedDict):
    object: Literal["document"]
    url: str
    passages: int


class DocumentDeleted(TypedDict):
    object: Literal["document"]
    url: str
    deleted: bool


class DocumentOut(TypedDict):
    object: Literal["document"]
    id: str
    url: str
    title: str
    language: str
    date: str


class Documents(TypedDict):
    """`total`: all documents, or all of the URL that was asked for."""

    object: Literal["list"]
    data: list[DocumentOut]
    total: int


LISTED = {
    "url": {"type": "string"},
    "limit": {"type": "integer", "minimum": 1, "maximum": MOST, "default": MOST},
    "offset": {"type": "integer", "minimum": 0, "maximum": 10**12 - 1, "default": 0},
}
"""Query parameters of a listing."""


async def search(backend: Backend, request: Request) -> Response:
    """The best passages for a query."""
    wanted = parse(SearchRequest, await read_json_body(request, backend.config.max_body_bytes))
    wanted.check_supported()
    filters = Filters(**wanted.filters.model_dump())
    found = await _call(
        backend, "find", wanted.query, wanted.limit, wanted.per_document, wanted.min_relevance, filters
    )
    data = [{"object": "passage", "relevance": each.relevance, **asdict(each.passage)} for each in found]
    return JSONResponse({"object": "list", "data": data})


async def put(backend: Backend, request: Request) -> Response:
    """Add or replace a document. Searchable when the response is sent."""
    check_role(request.state.key, ADMIN)
    wanted = parse(DocumentRequest, await read_json_body(request, backend.config.max_body_bytes))
    wanted.check_supported()
    passages = await _call(
        backend, "put", Change(**wanted.model_dump(include=set(DocumentRequest.model_fields)))
    )
    if not passages:
        raise ApiError(400, "`text` has no words.", code="invalid_value", param="text")
    body: DocumentSaved = {"object": "document", "url": wanted.url, "passages": passages}
    return JSONResponse(body, status_code=201)


async def delete(backend: Backend, request: Request) -> Response:
    """Delete the documents of the query's `url`. No search finds them when the response is sent."""
    check_role(request.state.key, ADMIN)
    url = request.query_params.get("url", "")
    if not url or len(url) > MAX_URL:
        raise ApiError(400, "`url` is missing or too long.", code="invalid_value", param="url")
    if not await _call(backend, "delete", url):
        raise ApiError(404, "There is no document of this URL.", code="not_found", param="url")
    body: DocumentDeleted = {"object": "document", "url": url, "deleted": True}
    return JSONResponse(body)


async def listed(backend: Backend, request: Request) -> Response:
    """Documents in order, `limit` from `offset` on; with `url` those of that URL."""
    query = request.query_params
    limit, offset = (
        _number(query.get(name, str(default))) for name, default in (("limit", MOST), ("offset", 0))
    )
    if limit is None or offset is None or not 1 <= limit <= MOST:
        raise ApiError(400, f"`limit` is 1 to {MOST}, `offset` a number.", code="invalid_value")
    total, found = await _call(backend, "documents", query.get("url", "")[:MAX_URL], limit, offset)
    data: list[dict[str, Any]] = [{"object": "document", **each} for each in found]
    return JSONResponse({"object": "list", "data": data, "total": total})


def _number(text: str) -> int | None:
    """Of decimal digits alone: `int` takes `1_0` and ` 5`, too."""
    return int(text) if re.fullmatch("[0-9]{1,12}", text) else None


async def _call(backend: Backend, method: str, *args: Any) -> Any:
    """What a method of the search returns. Raises ApiError."""
    if backend.retrieval is None:
        raise ApiError(404, "This server has no index to search.", code="retrieval_disabled")
    if method in ("find", "documents"):
        return await backend.ask(backend.retrieval, method, *args)
    with parts_explained():  # a change is not made twice: whoever sent it decides
        return await getattr(backend.retrieval, method).remote(*args)
