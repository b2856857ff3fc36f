"""`/v1/search` and `/v1/documents`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.testclient import TestClient

from headwater.cluster.storage.artifact import Artifact
from headwater.serving.api.extensions import documents
from headwater.serving.api.keys.auth import ADMIN, RANK, Key
from headwater.serving.config import AppConfig
from headwater.serving.errors import ApiError
from headwater.serving.replicas import RetrievalReplica
from tests.serving.conftest import BRIDGE, Endpoint

URL = "https://other.example/whale"
WHALE = {"url": URL, "title": "Whale rescued", "text": "Divers freed a humpback whale from a net off Tromsø."}
QUESTION = "Where did divers free a humpback whale from a net?"


def ask(endpoint: Endpoint) -> tuple[str, list[str]]:
    body = {"model": "tiny", "messages": [{"role": "user", "content": QUESTION}]}
    answer = httpx.post(f"{endpoint.url}/v1/chat/completions", json=body, timeout=60).json()
    message = answer["choices"][0]["message"]
    return message["content"], [a["url_citation"]["url"] for a in message.get("annotations", [])]


@pytest.mark.ray
def test_documents_are_in_searches_and_answers_until_they_are_deleted(endpoint: Endpoint) -> None:
    def search(query: str, **more: object) -> list[dict[str, object]]:
        return httpx.post(f"{endpoint.url}/v1/search", json={"query": query, **more}).json()["data"]

    listing = f"{endpoint.url}/v1/documents"
    before = httpx.get(listing).json()
    assert before["total"] == len(before["data"]) and BRIDGE in {each["title"] for each in before["data"]}
    assert search("old stone bridge", limit=1)[0]["title"] == BRIDGE
    made = httpx.post(listing, json=WHALE)
    assert made.status_code == 201 and made.json()["passages"] == 1
    assert search(QUESTION)[0]["url"] == URL and ask(endpoint)[1] == [URL]
    assert httpx.get(listing, params={"url": URL}).json()["total"] == 1
    assert search(QUESTION, filters={"site": "news.example"})[0]["url"] != URL
    assert httpx.delete(listing, params={"url": URL}).json()["deleted"] is True
    assert URL not in {each["url"] for each in search(QUESTION, limit=100)}
    text, cited = ask(endpoint)
    assert URL not in cited and "whale" not in text
    assert httpx.delete(listing, params={"url": URL}).status_code == 404
    assert httpx.get(listing).json() == before


class Direct:
    """A handle of a replica in this process."""

    def __init__(self, replica: RetrievalReplica) -> None:
        self._replica = replica

    def __getattr__(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(remote=getattr(self._replica, name))


def client(index: str, roles: set[str]) -> TestClient:
    async def ask(part: Any, method: str, *arguments: Any) -> Any:
        return await getattr(part, method).remote(*arguments)

    replica = Direct(RetrievalReplica(index)) if index else None
    parts = SimpleNamespace(config=AppConfig(model="m"), retrieval=replica, ask=ask)
    app = FastAPI()

    def route(handler: Callable[..., Awaitable[Response]], method: str, path: str) -> None:
        async def handle(request: Request) -> Response:
            request.state.key = Key(b"k", "who", frozenset(roles))
            try:
                return await handler(parts, request)
            except ApiError as error:
                return JSONResponse(error.body(), status_code=error.status)

        app.add_api_route(path, handle, methods=[method], response_model=None)

    route(documents.search, "POST", "/v1/search")
    route(documents.put, "POST", "/v1/documents")
    route(documents.delete, "DELETE", "/v1/documents")
    route(documents.listed, "GET", "/v1/documents")
    return TestClient(app)


@pytest.fixture(scope="module")
def admin(news_index: Artifact) -> TestClient:
    return client(news_index.location, {ADMIN})


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("search", {"query": "bridge", "limit": 0}, "limit"),
        ("search", {"query": "bridge", "filters": {"site": 3}}, "filters.site"),
        ("search", {"query": "bridge", "filters": {"since": "yesterday"}}, "filters.since"),
        ("search", {"query": "bridge", "top_k": 3}, "top_k"),
        ("documents", WHALE | {"url": "javascript:alert(1)"}, "url"),
        ("documents", WHALE | {"url": "https://other.example/\u202ewhale"}, "url"),
        ("documents", WHALE | {"text": " \u200b "}, "text"),
    ],
)
def test_what_is_wrong_is_named(admin: TestClient, path: str, body: dict[str, object], param: str) -> None:
    answer = admin.post(f"/v1/{path}", json=body)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param


@pytest.mark.parametrize(
    "query", ["", " \n ", "\u202e\u2066", "w" * 60_000, "\ud7ff\uffff\x00", "🐋" * 9000, "of the"]
)
def test_odd_queries_are_answered(admin: TestClient, query: str) -> None:
    assert admin.post("/v1/search", json={"query": query}).status_code == 200


def test_documents_are_listed_in_pages(admin: TestClient) -> None:
    whole = admin.get("/v1/documents").json()
    pages = [admin.get(f"/v1/documents?limit=2&offset={n}").json()["data"] for n in (0, 2, 4, 6)]
    assert [each for page in pages for each in page] == whole["data"] and whole["total"] == 6
    for wrong in ("x", "1_0", "%201"):
        assert admin.get(f"/v1/documents?limit={wrong}").status_code == 400
    assert admin.get("/v1/documents?offset=-1").status_code == 400


def test_only_admins_change_documents(news_index: Artifact) -> None:
    for roles in ({RANK}, set()):
        other = client(news_index.location, roles)
        assert other.post("/v1/documents", json=WHALE).status_code == 403
        assert other.delete("/v1/documents?url=https://news.example/story/0").status_code == 403
        assert other.post("/v1/search", json={"query": BRIDGE}).json()["data"][0]["title"] == BRIDGE


def test_without_an_index_there_is_nothing_to_search() -> None:
    assert client("", {ADMIN}).post("/v1/search", json={"query": "bridge"}).status_code == 404
