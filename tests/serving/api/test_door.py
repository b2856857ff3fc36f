"""The door in front of the endpoint: what it refuses, and that nobody holds a place by being slow."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from headwater.serving.api import door, limits
from headwater.serving.api.backend import Backend
from headwater.serving.api.door import LIMITS, Door, environment, middlewares
from headwater.serving.api.limits import cors
from headwater.serving.config import AppConfig
from headwater.serving.replicas import EngineReplica
from tests.serving.in_process import Handle, MortalHandle, ingress_of, served

CHAT = "/v1/chat/completions"
BODY = json.dumps({"model": "tiny", "messages": []}).encode()


class Slow:
    """An application that answers when it is let, and says how many requests it has."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.release = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        message = await receive()
        self.bodies.append(message.get("body", b""))
        if scope["path"] == CHAT:
            left, told = asyncio.create_task(receive()), asyncio.create_task(self.release.wait())
            await asyncio.wait([left, told], return_when=asyncio.FIRST_COMPLETED)
            left.cancel()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"answered"})


@pytest.fixture
def slow() -> Slow:
    return Slow()


@pytest.fixture
def url(slow: Slow) -> Iterator[str]:
    with served(Door(slow, most=2, max_body_bytes=1000)) as url:
        yield url


def dribbling(url: str) -> socket.socket:
    """A connection that announces a body and sends its first byte alone."""
    host, port = url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=10)
    head = f"POST {CHAT} HTTP/1.1\r\nhost: {host}\r\ncontent-length: 100\r\n\r\n{{"
    connection.sendall(head.encode())
    return connection


async def _fill(client: httpx.AsyncClient, slow: Slow, count: int) -> list[asyncio.Task[httpx.Response]]:
    """So many requests inside."""
    tasks = [asyncio.create_task(client.post(CHAT, content=BODY)) for _ in range(count)]
    async with asyncio.timeout(20):
        while len(slow.bodies) < count:
            await asyncio.sleep(0.005)
    return tasks


def test_one_request_too_many_is_refused_and_those_inside_are_answered(slow: Slow, url: str) -> None:
    async def talk() -> None:
        async with httpx.AsyncClient(base_url=url, timeout=20) as client:
            inside = await _fill(client, slow, 2)
            refused = await client.post(CHAT, content=BODY)
            assert refused.status_code == 429 and int(refused.headers["retry-after"]) > 0
            assert refused.json()["error"]["code"] == "overloaded"
            assert refused.json()["error"]["type"] == "rate_limit_error"
            assert refused.headers["x-content-type-options"] == "nosniff"
            for other in (client.get("/healthz"), client.post("/v1/search", content=BODY)):
                assert (await other).status_code == 200
            slow.release.set()
            assert [(await each).text for each in inside] == ["answered"] * 2
            assert (await client.post(CHAT, content=BODY)).status_code == 200
            assert slow.bodies.count(BODY) == 4

    asyncio.run(talk())


def test_who_is_refused_waits_neither_for_those_let_in_nor_for_a_body() -> None:
    told: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        told.append("in")

    async def body() -> Any:
        return {"type": "http.request", "body": BODY}

    async def none() -> Any:
        return await asyncio.Event().wait()

    async def send(message: Any) -> None:
        told.append(message.get("status", "sent"))

    async def talk() -> None:
        front = Door(app, most=3, max_body_bytes=1000)
        scope = {"type": "http", "method": "POST", "path": CHAT, "headers": []}
        async with asyncio.timeout(20):
            await asyncio.gather(*(front(scope, body, send) for _ in range(3)), front(scope, none, send))

    asyncio.run(talk())
    assert told == [429, "sent", "in", "in", "in"]


@pytest.mark.parametrize("endless", [False, True])
def test_whoever_is_let_in_lets_a_burst_be_refused_first_but_does_not_wait_for_ever(
    monkeypatch: pytest.MonkeyPatch, endless: bool
) -> None:
    """Newcomers come one a turn of the event loop, as uvloop accepts them."""
    monkeypatch.setattr(door, "PATIENCE_SECONDS", 0.01 if endless else 20)
    told = list[Any]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        told.append("in")

    async def receive() -> Any:
        return {"type": "http.request", "body": BODY}

    async def send(message: Any) -> None:
        if "status" in message:
            told.append(message["status"])

    async def talk() -> None:
        front = Door(app, most=1, max_body_bytes=1000)
        scope = {"type": "http", "method": "POST", "path": CHAT, "headers": []}
        async with asyncio.timeout(20):
            first = asyncio.create_task(front(scope, receive, send))
            while len(told) < 50 or (endless and "in" not in told):
                await asyncio.sleep(0)
                await front(scope, receive, send)
            await first

    asyncio.run(talk())
    assert endless or told == [429] * 50 + ["in"]


def test_a_full_server_without_a_door_refuses_by_path_and_key_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The body, which is no JSON, is not looked at, and the request does not count for its key."""
    (tmp_path / "keys").write_text("secret anna requests_per_minute=1\n")
    config = AppConfig(model=str(tmp_path), api_keys=str(tmp_path / "keys"))
    app = ingress_of(config, Handle(None))

    async def talk() -> None:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            for path in door.ANSWERED:
                monkeypatch.setattr(Backend, "full", True)
                assert (await client.post(path, content=b"{")).status_code == 401
                for _ in range(2):
                    told = await client.post(path, content=b"{", headers={"authorization": "Bearer secret"})
                    assert (told.status_code, told.json()["error"]["code"]) == (429, "overloaded")
                    assert told.headers["x-content-type-options"] == "nosniff"
                    assert told.headers["x-ratelimit-remaining-requests"] == "1"
                assert (await client.get("/version")).status_code == 200
            counted = [line for line in (await client.get("/metrics")).text.splitlines() if "429" in line]
            assert 'headwater_requests_total{route="chat",status="429"} 2.0' in counted
            monkeypatch.setattr(Backend, "full", False)
            told = await client.post(CHAT, content=b"{", headers={"authorization": "Bearer secret"})
            assert told.status_code == 415

    asyncio.run(talk())


class Lingering(MortalHandle):
    """Its streams end a moment after their last event."""

    async def _mortal(self, answered: Any, life: int | None) -> AsyncIterator[list[Any]]:
        async for each in super()._mortal(answered, life):
            yield each
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize(
    ("path", "asked", "last"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}, b"data: [DONE]"),
        ("/v1/completions", {"prompt": "Hello", "max_tokens": 4}, b"data: [DONE]"),
        ("/v1/responses", {"input": "Hello", "max_output_tokens": 16}, b'"response.'),
    ],
)
def test_whoever_has_read_an_answer_to_its_end_may_ask_again_at_once(
    news_config: AppConfig,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    asked: dict[str, Any],
    last: bytes,
    streamed: bool,
) -> None:
    """At its last event, with the door and the ingress still at work on it."""
    monkeypatch.setattr(AppConfig, "max_requests", 1)
    engine = Lingering([EngineReplica(news_config)], [None])
    app = Door(ingress_of(news_config, engine), most=1, max_body_bytes=10_000)
    body = json.dumps({"model": "tiny", "stream": streamed, "retrieval": False, **asked}).encode()
    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "query_string": b""}
    told = list[tuple[int, bytes]]()

    async def talk(again: bool) -> None:
        requests = [{"type": "http.request", "body": body}]
        statuses = list[int]()

        async def receive() -> Any:
            return requests.pop() if requests else await asyncio.Event().wait()

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])
            elif not message.get("more_body", False):
                told.append((statuses[0], message["body"]))
                if again:
                    await talk(again=False)

        await app(scope, receive, send)

    asyncio.run(talk(again=True))
    assert [status for status, _ in told] == [200, 200]
    assert not streamed or all(last in body for _, body in told)


def test_metrics_say_how_many_requests_the_door_has_refused(slow: Slow, url: str) -> None:
    slow.release.set()
    assert httpx.get(f"{url}/metrics").text.splitlines()[0].startswith("answered# HELP headwater_refused")
    for _ in range(3):
        assert httpx.post(f"{url}/v1/search", content=b"x" * 2000).status_code == 413
    shown = httpx.get(f"{url}/metrics").text.splitlines()
    assert shown[-1] == 'headwater_refused_total{status="413"} 3'


def test_a_client_that_leaves_frees_its_place(slow: Slow, url: str) -> None:
    async def talk() -> None:
        async with asyncio.timeout(20), httpx.AsyncClient(base_url=url, timeout=20) as client:
            gone, stays = await _fill(client, slow, 2)
            gone.cancel()
            while (status := (await client.post("/v1/search", content=BODY)).status_code) == 200:
                third = asyncio.create_task(client.post(CHAT, content=BODY))
                await asyncio.wait([third], timeout=0.1)
                if not third.done():  # it is inside
                    break
            slow.release.set()
            assert (await stays).status_code == (await third).status_code == status == 200

    asyncio.run(talk())


def test_connections_that_dribble_hold_no_place(slow: Slow, url: str) -> None:
    held = [dribbling(url) for _ in range(20)]
    slow.release.set()
    assert httpx.post(f"{url}{CHAT}", content=BODY).status_code == 200
    assert slow.bodies == [BODY]
    for connection in held:
        connection.close()


def test_a_body_that_does_not_arrive_is_given_up(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BODY_SECONDS", 0.05)
    with dribbling(url) as connection:
        told = b"".join(iter(lambda: connection.recv(4096), b""))
    assert told.startswith(b"HTTP/1.1 408 ") and b'"request_timeout"' in told


@pytest.mark.parametrize("declared", [True, False])
def test_a_large_body_is_refused_before_it_is_taken_in(slow: Slow, url: str, declared: bool) -> None:
    content: Any = b"x" * 5000 if declared else (b"x" * 100 for _ in range(50))
    assert httpx.post(f"{url}{CHAT}", content=content).status_code == 413
    assert slow.bodies == []


def test_a_proxy_reads_its_limits_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMITS, environment(48, 1000)[LIMITS])
    (made,) = middlewares()
    assert made.kwargs == {"most": 48, "max_body_bytes": 1000}


def test_pages_that_may_call_may_read_refusals(slow: Slow, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.serve._private.http_util import _apply_middlewares

    monkeypatch.setenv(LIMITS, environment(1, 1000, ["https://app.example"])[LIMITS])
    own = cors(["https://app.example"])[0]  # the ingress has it, too
    app = _apply_middlewares(own.cls(slow, **own.kwargs), middlewares())  # as Serve's proxy does

    async def talk(url: str) -> None:
        async with httpx.AsyncClient(base_url=url, timeout=20) as client:
            inside = await _fill(client, slow, 1)
            for origin, told in (
                ("https://app.example", ["https://app.example"]),
                ("https://evil.example", []),
            ):
                of = {"origin": origin}
                full = await client.post(CHAT, content=BODY, headers=of)
                large = await client.post("/v1/search", content=b"x" * 5000, headers=of)
                other = await client.post("/v1/search", content=BODY, headers=of)
                assert [each.status_code for each in (full, large, other)] == [429, 413, 200]
                for each in (full, large, other):
                    assert each.headers.get_list("access-control-allow-origin") == told
            asked = {"origin": "https://app.example", "access-control-request-method": "POST"}
            assert (await client.options(CHAT, headers=asked)).status_code == 200
            slow.release.set()
            await inside[0]

    with served(app) as url:
        asyncio.run(talk(url))


class Well:
    """An application whose health takes as long as it is told to, and says how often it was asked."""

    def __init__(self) -> None:
        self.asked, self.hangs, self.status = 0, False, 200

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked += 1
        status = self.status
        if self.hangs:
            await asyncio.sleep(0.5)
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": dict(scope["headers"])[b"host"]})


def _health(door: Door, host: str) -> Any:
    client = httpx.AsyncClient(transport=httpx.ASGITransport(door), base_url=f"http://{host}")
    return client.get("/healthz")


def test_health_that_takes_long_is_the_last_one_while_that_is_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    async def talk() -> None:
        app = Well()
        front = Door(app, most=1, max_body_bytes=1000)
        assert (await _health(front, "one")).status_code == 200
        app.hangs, app.status = True, 503
        monkeypatch.setattr(door, "HEALTH_SECONDS", 0.01)
        told = [await _health(front, "one") for _ in range(3)]
        assert [each.status_code for each in told] == [200] * 3 and app.asked == 2
        assert (await _health(front, "two")).text == "two"  # never what was told to another name
        monkeypatch.setattr(door, "FRESH_SECONDS", 0.0)
        assert (await _health(front, "two")).status_code == 503

    asyncio.run(talk())
