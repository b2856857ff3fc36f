"""Requests that are wrong, too large, too many or not allowed: each gets its status and OpenAI's error."""

from __future__ import annotations

import asyncio
import hmac
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

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.store import Store
from headwater.llm.examples import rankings
from headwater.serving.api.auth import Key, check_key, read_keys
from headwater.serving.api.limits import PerMinute
from headwater.serving.errors import ApiError
from tests.serving.conftest import Endpoint

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
def test_body_that_is_no_request_gets_400(endpoint: Endpoint, body: bytes) -> None:
    response = post(endpoint, body)
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
        ({"logprobs": True}, "logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
    ],
)
def test_wrong_value_is_named(endpoint: Endpoint, change: dict[str, Any], param: str) -> None:
    response = post(endpoint, {**GOOD, **change})
    assert response.status_code == 400
    assert str(error(response)["param"]).startswith(param)


def test_parameters_that_do_not_change_the_answer_are_accepted(endpoint: Endpoint) -> None:
    harmless = {
        "user": "u1",
        "metadata": {"a": "b"},
        "presence_penalty": 0,
        "response_format": {"type": "text"},
    }
    assert post(endpoint, {**GOOD, **harmless}).status_code == 200


def test_unknown_model_gets_404(endpoint: Endpoint) -> None:
    response = post(endpoint, {**GOOD, "model": "gpt-9"})
    assert response.status_code == 404 and error(response)["code"] == "model_not_found"


def test_unknown_path_and_method_keep_the_error_shape(endpoint: Endpoint) -> None:
    for method, path, status in [
        ("GET", "/v2/x", 404),
        ("GET", CHAT, 405),
        ("GET", "/console/../app.py", 404),
        ("GET", "/console/%2e%2e%2fapp.py", 404),
        ("GET", "/console/style.css%00", 404),
        ("GET", "/docs", 404),
    ]:
        response = httpx.request(method, f"{endpoint.url}{path}")
        assert response.status_code == status and error(response)["message"]


def test_body_over_the_limit_gets_413_with_and_without_a_declared_length(endpoint: Endpoint) -> None:
    huge = json.dumps({**GOOD, "user": "x" * 100_000}).encode()
    assert error(post(endpoint, huge))["code"] == "request_too_large"

    def chunks() -> Any:
        yield from (huge[i : i + 4096] for i in range(0, len(huge), 4096))

    headers = {"content-type": "application/json"}
    response = httpx.post(f"{endpoint.url}{CHAT}", content=chunks(), headers=headers)
    assert response.status_code == 413


def test_prompt_longer_than_the_context_gets_400_streaming_or_not(endpoint: Endpoint) -> None:
    long = {**GOOD, "messages": [{"role": "user", "content": "bridge " * 5000}]}
    for body in (long, {**long, "stream": True}, {**long, "retrieval": False}):
        response = post(endpoint, body)
        assert response.status_code == 400 and error(response)["code"] == "context_length_exceeded"


def test_other_content_types_are_refused_so_that_web_pages_cannot_post(endpoint: Endpoint) -> None:
    response = post(endpoint, GOOD, headers={"content-type": "text/plain"})
    assert response.status_code == 415
    preflight = httpx.options(
        f"{endpoint.url}{CHAT}",
        headers={"origin": "https://evil.example", "access-control-request-method": "POST"},
    )
    assert "access-control-allow-origin" not in preflight.headers


def test_every_response_carries_the_security_headers(endpoint: Endpoint) -> None:
    for path in ("/", "/healthz", "/v1/models", "/nothing"):
        headers = httpx.get(f"{endpoint.url}{path}").headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


def test_overload_returns_503_with_retry_after(endpoint: Endpoint) -> None:
    body = {**GOOD, "retrieval": False, "temperature": 2, "max_tokens": 400}
    with ThreadPoolExecutor(16) as pool:
        responses = list(pool.map(lambda seed: post(endpoint, {**body, "seed": seed}), range(16)))
    turned_away = [r for r in responses if r.status_code == 503]
    assert {r.status_code for r in responses} == {200, 503}
    for response in turned_away:
        assert error(response)["code"] == "overloaded" and int(response.headers["retry-after"]) > 0
    assert post(endpoint, GOOD).status_code == 200


def test_client_that_disconnects_frees_its_slot(endpoint: Endpoint) -> None:
    body = {**GOOD, "retrieval": False, "temperature": 2, "max_tokens": 480, "stream": True, "n": 8}
    with httpx.stream("POST", f"{endpoint.url}{CHAT}", json=body, timeout=60) as response:
        next(response.iter_lines())
    left = time.monotonic()
    while "headwater_requests_in_progress 0.0" not in httpx.get(f"{endpoint.url}/metrics").text:
        assert time.monotonic() - left < 10
        time.sleep(0.1)


def test_rankings_need_two_different_answers(endpoint: Endpoint) -> None:
    for change in ({"chosen": ""}, {"chosen": "same [1]"}, {"rejected": None}):
        body = {"messages": GOOD["messages"], "chosen": "other", "rejected": "same", **change}
        response = httpx.post(f"{endpoint.url}/v1/rankings", json=body)
        assert response.status_code == 400 and error(response)["message"]


def test_keys_are_compared_whole(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# mine\nsk-one\n\n sk-two anna rank\n")
    keys = read_keys(str(file))
    assert keys == (Key(b"sk-one"), Key(b"sk-two", "anna", frozenset({"rank"})))
    assert "sk-" not in repr(keys)
    assert check_key("Bearer sk-two", keys).name == "anna"
    assert check_key(None, ()).name == "local"
    for header in (
        None,
        "",
        "Bearer",
        "Bearer sk-on",
        "Bearer sk-onee",
        "Basic sk-one",
        "Bearer \udcff",
        "sk-one",
    ):
        with pytest.raises(ApiError) as caught:
            check_key(header, keys)
        assert caught.value.status == 401
    file.write_text("# none\n")
    with pytest.raises(HeadwaterError, match="no key"):
        read_keys(str(file))


def test_every_key_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """`==` ends at the first byte that differs: its time tells how much of a key was guessed."""
    compared, compare = [], hmac.compare_digest

    def watched(one: bytes, other: bytes) -> bool:
        compared.append({one, other})
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", watched)
    keys = tuple(map(Key, (b"sk-one", b"sk-two", b"sk-three")))
    check_key("Bearer sk-one", keys)
    assert compared == [{b"sk-one", key.secret} for key in keys]


@pytest.mark.parametrize(
    ("line", "fault"), [("sk-one a/b", "the name is not of letters"), ("sk-one anna admin", "no role admin")]
)
def test_a_line_that_is_no_key_is_named_by_its_number_alone(tmp_path: Path, line: str, fault: str) -> None:
    file = tmp_path / "keys"
    file.write_text(f"sk-two\n{line}\n")
    with pytest.raises(HeadwaterError, match=f"keys, line 2: .*{fault}") as caught:
        read_keys(str(file))
    assert "sk-one" not in str(caught.value)


@asynccontextmanager
async def in_process(endpoint: Endpoint, **changes: Any) -> AsyncIterator[httpx.AsyncClient]:
    """The HTTP part with other settings, in this process, before the running model and search."""
    from ray import serve

    from headwater.serving.api.ingress import Ingress

    engine, retrieval = (serve.get_deployment_handle(name, "headwater") for name in ("Engine", "Retrieval"))
    config = endpoint.config.model_copy(update=changes)
    built = Ingress(config, engine, retrieval).__serve_build_asgi_app__()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(built), base_url="http://test") as client:
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
                base_url="http://test/v1", api_key="wrong", http_client=client, max_retries=0
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
    "answers": [{"text": "a", "token_ids": [1, 2]}, {"text": "b [1]"}, {"text": "c"}],
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
    assert kept.ranking.passages[0]["document_id"] and kept.ranking.model_key == endpoint.config.model
    assert [(better, worse) for _, better, worse in kept.ranking.pairs()] == [("b", "a"), ("b", "c")]


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
def test_a_ranking_of_the_wrong_size_is_refused(endpoint: Endpoint, change: dict[str, Any]) -> None:
    before = len(rankings.read(endpoint.store))
    response = httpx.post(f"{endpoint.url}/v1/rankings", json=RANKING | change)
    assert response.status_code == 400 and error(response)["message"]
    assert len(rankings.read(endpoint.store)) == before


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
