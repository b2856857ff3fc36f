"""Requests that are wrong, too large, too many or not allowed: each gets its status and OpenAI's error."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from headwater.cluster.storage.store import Store
from headwater.llm.examples import rankings
from headwater.serving.api.ingress import ROUTES
from headwater.serving.api.limits import PerMinute
from headwater.serving.config import AppConfig
from headwater.serving.errors import ApiError
from tests.serving.conftest import Endpoint
from tests.serving.in_process import ingress_of, served

GOOD: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "What about the bridge?"}]}
CHAT = "/v1/chat/completions"
HALF_A_PAIR = rb'{"model": "tiny", "messages": [{"role": "user", "content": "\ud800"}]}'


def post(endpoint: Endpoint, body: bytes | dict[str, Any], **options: Any) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"content-type": "application/json", **options.pop("headers", {})}
    return httpx.post(f"{endpoint.url}{CHAT}", content=content, headers=headers, timeout=60)


def error(response: httpx.Response) -> dict[str, Any]:
    body = response.json()
    assert set(body) == {"error"} and set(body["error"]) == {"message", "type", "param", "code"}
    return dict(body["error"])


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe{}", b'{"model": "tiny"}', b"[" * 20_000, HALF_A_PAIR],
)
def test_body_that_is_no_request_gets_400(local: Endpoint, body: bytes) -> None:
    response = post(local, body)
    assert response.status_code == 400
    assert error(response)["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "messages.0"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": 1e308}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 9}, "n"),
        ({"n": True}, "n"),
        ({"seed": 2**70}, "seed"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": ""}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"top_k": -2}, "top_k"),
        ({"min_p": 2}, "min_p"),
        ({"guided_json": {"type": "object"}}, "guided_json"),
        ({"best_of": 3}, "best_of"),
        ({"temprature": 0.5}, "temprature"),
    ],
)
def test_wrong_value_is_named(local: Endpoint, change: dict[str, Any], param: str) -> None:
    response = post(local, {**GOOD, **change})
    assert response.status_code == 400
    assert str(error(response)["param"]).startswith(param)


def test_parameters_that_do_not_change_the_answer_are_accepted(local: Endpoint) -> None:
    harmless = {
        "user": "u1",
        "metadata": {"a": "b"},
        "presence_penalty": 0,
        "response_format": {"type": "text"},
        "top_k": -1,
        "repetition_penalty": 1.0,
        "ignore_eos": False,
    }
    assert post(local, {**GOOD, **harmless}).status_code == 200


def test_unknown_model_gets_404(local: Endpoint) -> None:
    response = post(local, {**GOOD, "model": "gpt-9"})
    assert response.status_code == 404 and error(response)["code"] == "model_not_found"


def test_unknown_path_and_method_keep_the_error_shape(local: Endpoint) -> None:
    for method, path, status in [
        ("GET", "/v2/x", 404),
        ("GET", CHAT, 405),
        ("GET", "/console/../app.py", 404),
        ("GET", "/console/%2e%2e%2fapp.py", 404),
        ("GET", "/console/style.css%00", 404),
        ("GET", "/docs", 404),
    ]:
        response = httpx.request(method, f"{local.url}{path}")
        assert response.status_code == status and error(response)["message"]


@pytest.mark.parametrize("path", ["~nobody-has-this-name/m", "~\u0099\u0117k", "a" * 2000, "s3://", "sft/x"])
def test_a_model_whose_place_cannot_be_is_refused(local: Endpoint, path: str) -> None:
    response = httpx.post(f"{local.url}/v1/models", json={"id": "x", "path": path}, timeout=60)
    assert (response.status_code, error(response)["param"]) == (400, "path"), response.text


def test_another_method_is_refused_with_those_of_the_path(local: Endpoint) -> None:
    for path in {route.path for route in ROUTES if "{" not in route.path}:
        told = httpx.request("TRACE", f"{local.url}{path}")
        methods = {route.method for route in ROUTES if route.path == path}
        assert told.status_code == 405 and methods <= set(told.headers["allow"].split(", ")), path
    assert httpx.put(f"{local.url}/v1/documents").headers["allow"] == "DELETE, GET, POST"


def test_body_over_the_limit_gets_413_with_and_without_a_declared_length(local: Endpoint) -> None:
    huge = json.dumps({**GOOD, "user": "x" * 100_000}).encode()
    assert error(post(local, huge))["code"] == "request_too_large"

    def chunks() -> Any:
        yield from (huge[i : i + 4096] for i in range(0, len(huge), 4096))

    headers = {"content-type": "application/json"}
    response = httpx.post(f"{local.url}{CHAT}", content=chunks(), headers=headers)
    assert response.status_code == 413


def test_prompt_longer_than_the_context_gets_400_streaming_or_not(local: Endpoint) -> None:
    long = {**GOOD, "messages": [{"role": "user", "content": "bridge " * 5000}]}
    for body in (long, {**long, "stream": True}, {**long, "retrieval": False}):
        response = post(local, body)
        assert response.status_code == 400 and error(response)["code"] == "context_length_exceeded"


def test_other_content_types_are_refused_so_that_web_pages_cannot_post(local: Endpoint) -> None:
    response = post(local, GOOD, headers={"content-type": "text/plain"})
    assert response.status_code == 415
    preflight = httpx.options(
        f"{local.url}{CHAT}",
        headers={"origin": "https://evil.example", "access-control-request-method": "POST"},
    )
    assert "access-control-allow-origin" not in preflight.headers


def test_every_response_carries_the_security_headers(local: Endpoint) -> None:
    for path in ("/", "/version", "/v1/models", "/nothing"):
        headers = httpx.get(f"{local.url}{path}").headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


def test_a_request_too_many_is_refused_at_once_and_told_when_to_come_back(endpoint: Endpoint) -> None:
    body = {**GOOD, "retrieval": False, "temperature": 2, "max_tokens": 400}
    many = 3 * endpoint.config.max_requests
    with ThreadPoolExecutor(many) as pool:
        responses = list(pool.map(lambda seed: post(endpoint, {**body, "seed": seed}), range(many)))
    assert {r.status_code for r in responses} == {200, 429}
    for response in (r for r in responses if r.status_code == 429):
        assert error(response)["code"] == "overloaded" and int(response.headers["retry-after"]) > 0
    assert post(endpoint, GOOD).status_code == 200


def test_serves_proxy_has_the_door(endpoint: Endpoint) -> None:
    """The ingress would look at the type of the content first."""
    huge = b"x" * (endpoint.config.max_body_bytes + 1)
    response = httpx.post(f"{endpoint.url}{CHAT}", content=huge, headers={"content-type": "text/plain"})
    assert response.status_code == 413 and error(response)["code"] == "request_too_large"


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "192.168.1.5", "", "[::1", "127.0.0.1.evil.example"]
)
def test_without_keys_only_names_of_this_machine_are_answered(local: Endpoint, host: str) -> None:
    for path in ("/", "/v1/models", "/console/main.js"):
        response = httpx.get(f"{local.url}{path}", headers={"host": host})
        assert response.status_code in (400, 421), path
        assert response.status_code == 400 or response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "[::1]:8000"])
def test_this_machines_own_names_are_answered(local: Endpoint, host: str) -> None:
    assert httpx.get(f"{local.url}/v1/models", headers={"host": host}).status_code == 200


def test_client_that_disconnects_frees_its_slot(endpoint: Endpoint) -> None:
    body = {**GOOD, "retrieval": False, "temperature": 2, "max_tokens": 480, "stream": True, "n": 8}
    with httpx.stream("POST", f"{endpoint.url}{CHAT}", json=body, timeout=60) as response:
        next(response.iter_lines())
    left = time.monotonic()
    while "headwater_requests_in_progress 0.0" not in httpx.get(f"{endpoint.url}/metrics").text:
        assert time.monotonic() - left < 10
        time.sleep(0.1)


def test_rankings_need_two_different_answers(local: Endpoint) -> None:
    for change in ({"chosen": ""}, {"chosen": "same [1]"}, {"rejected": None}):
        body = {"messages": GOOD["messages"], "chosen": "other", "rejected": "same", **change}
        response = httpx.post(f"{local.url}/v1/rankings", json=body)
        assert response.status_code == 400 and error(response)["message"]


def test_a_keys_requests_are_limited_apart_from_other_keys(news_config: AppConfig, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("sk-one\nsk-two\n")
    limited = news_config.model_copy(update={"api_keys": str(file), "requests_per_minute": 2})
    with served(ingress_of(limited)) as url:

        def ask(key: str) -> httpx.Response:
            return httpx.get(f"{url}/v1/models", headers={"authorization": f"Bearer {key}"})

        assert [ask("sk-one").status_code for _ in range(3)] == [200, 200, 429]
        assert 1 <= int(ask("sk-one").headers["retry-after"]) <= 60
        assert ask("sk-two").status_code == 200
        assert ask("sk-three").status_code == 401
        assert httpx.get(f"{url}/version").status_code == 200


@asynccontextmanager
async def in_process(endpoint: Endpoint, **changes: Any) -> AsyncIterator[httpx.AsyncClient]:
    """The HTTP part with other settings, in this process, before the running model and search."""
    from ray import serve

    from headwater.serving.api.ingress import Ingress

    engine, retrieval = (serve.get_deployment_handle(name, "headwater") for name in ("Engine", "Retrieval"))
    config = endpoint.config.model_copy(update=changes)
    built = Ingress(config, engine, retrieval).__serve_build_asgi_app__()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(built), base_url="http://localhost") as client:
        yield client


def test_key_is_asked_for_where_keys_are_set_and_the_page_stays_open(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    file = tmp_path / "keys"
    file.write_text("sk-one\n")

    async def talk() -> None:
        async with in_process(endpoint, api_keys=str(file)) as client:
            refused = await client.post(CHAT, json=GOOD)
            assert refused.status_code == 401 and error(refused)["code"] == "invalid_api_key"
            assert (await client.post("/v1/rankings", json={})).status_code == 401
            assert (await client.get("/")).status_code == 200
            allowed = await client.post(CHAT, json=GOOD, headers={"authorization": "Bearer sk-one"})
            assert allowed.status_code == 200
            official = openai.AsyncOpenAI(
                base_url="http://localhost/v1", api_key="wrong", http_client=client, max_retries=0
            )
            with pytest.raises(openai.AuthenticationError):
                await official.chat.completions.create(**GOOD)

    asyncio.run(talk())


def test_written_answers_reach_the_client_too(endpoint: Endpoint) -> None:
    async def talk() -> None:
        async with in_process(endpoint, answer="write", max_tokens=20) as client:
            response = await client.post(CHAT, json=GOOD)
            assert response.status_code == 200
            assert response.json()["usage"]["prompt_tokens"] > 100  # the passages are in the prompt

    asyncio.run(talk())


RANKING = {
    "messages": GOOD["messages"],
    "answers": [
        {"text": "a", "token_ids": [1, 2]},
        {"text": "b [1]"},
        {"text": "c", "finish_reason": "length"},
    ],
    "ranks": [2, 1, 2],
    "reason": "short",
    "blind": True,
}


def test_a_key_with_its_role_is_asked_for_and_names_the_rater(endpoint: Endpoint, tmp_path: Path) -> None:
    """Whoever could chat could also rank, and nothing said who had."""
    file, store = tmp_path / "keys", Store(str(tmp_path / "store"))
    file.write_text("sk-chat\nsk-rank anna rank\n")

    async def talk() -> None:
        async with in_process(endpoint, api_keys=str(file), store=store.location) as client:
            for key, allowed in (("sk-chat", False), ("sk-rank", True)):
                headers = {"authorization": f"Bearer {key}"}
                told = (await client.get("/v1/models", headers=headers)).json()["data"][0]["rankings"]
                response = await client.post("/v1/rankings", json=RANKING, headers=headers)
                assert (told, response.status_code) == (allowed, 201 if allowed else 403)

    asyncio.run(talk())
    (kept,) = rankings.read(store)
    assert (kept.ranking.rater, kept.ranking.ranks, kept.ranking.blind) == ("anna", [2, 1, 2], True)
    assert [answer.text for answer in kept.ranking.answers] == ["a", "b", "c"]
    assert kept.ranking.answers[0].token_ids == [1, 2]
    assert [answer.finish_reason for answer in kept.ranking.answers] == [None, None, "length"]
    assert kept.ranking.passages[0]["document_id"] and kept.ranking.model_key == endpoint.config.model
    assert [(better.text, worse.text) for _, better, worse in kept.ranking.pairs()] == [
        ("b", "a"),
        ("b", "c"),
    ]


def test_a_rater_who_floods_is_slowed_down_and_others_are_not(endpoint: Endpoint, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("sk-a anna rank\nsk-b ben rank\n")

    async def talk() -> None:
        settings = {"api_keys": str(file), "store": str(tmp_path / "s"), "rankings_per_minute": 3}
        async with in_process(endpoint, **settings) as client:
            for key, expected in (("sk-a", [201, 201, 201, 429]), ("sk-b", [201])):
                headers = {"authorization": f"Bearer {key}"}
                sent = [await client.post("/v1/rankings", json=RANKING, headers=headers) for _ in expected]
                assert [response.status_code for response in sent] == expected
                if 429 in expected:
                    assert 0 < int(sent[-1].headers["retry-after"]) <= 60

    asyncio.run(talk())


@pytest.mark.parametrize(
    "change",
    [
        {"answers": [{"text": "a"}]},
        {"answers": [{"text": str(n)} for n in range(5)], "ranks": [1] * 5},
        {"ranks": [1, 2]},
        {"ranks": [1, 2, 9]},
        {"ranks": [1, 2, "3"]},
        {"reason": "x" * 2001},
        {"answers": [{"text": "a", "token_ids": [-1]}, {"text": "b"}, {"text": "c"}]},
        {"answers": [{"text": "a"}, {"text": "a"}, {"text": "c"}]},
    ],
)
def test_a_ranking_of_the_wrong_size_is_refused(local: Endpoint, change: dict[str, Any]) -> None:
    before = len(rankings.read(local.store))
    response = httpx.post(f"{local.url}/v1/rankings", json=RANKING | change)
    assert response.status_code == 400 and error(response)["message"]
    assert len(rankings.read(local.store)) == before


def test_calls_are_counted_over_a_sliding_minute() -> None:
    limit = PerMinute(2)
    for now in (0.0, 30.0):
        limit.check("anna", now)
    with pytest.raises(ApiError) as caught:
        limit.check("anna", 50.5)
    assert (caught.value.status, caught.value.retry_after) == (429, 10)
    limit.check("anna", 60.0)
    limit.check("ben", 60.0)


def test_rankings_are_refused_where_there_is_no_store(endpoint: Endpoint) -> None:
    async def talk() -> None:
        async with in_process(endpoint, store="") as client:
            body = {"messages": GOOD["messages"], "chosen": "a", "rejected": "b"}
            response = await client.post("/v1/rankings", json=body)
            assert response.status_code == 404 and error(response)["code"] == "rankings_disabled"

    asyncio.run(talk())
