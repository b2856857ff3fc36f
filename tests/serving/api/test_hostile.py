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
from headwater.serving.api.auth import check_key, read_keys
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
    file.write_text("# mine\nsk-one\n\n sk-two \n")
    keys = read_keys(str(file))
    assert keys == (b"sk-one", b"sk-two")
    check_key("Bearer sk-two", keys)
    check_key(None, ())
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
    keys = (b"sk-one", b"sk-two", b"sk-three")
    check_key("Bearer sk-one", keys)
    assert compared == [{b"sk-one", key} for key in keys]


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


def test_rankings_are_refused_where_there_is_no_store(endpoint: Endpoint) -> None:
    async def talk() -> None:
        async with in_process(endpoint, store="") as client:
            body = {"messages": GOOD["messages"], "chosen": "a", "rejected": "b"}
            response = await client.post("/v1/rankings", json=body)
            assert response.status_code == 404 and error(response)["code"] == "rankings_disabled"

    asyncio.run(talk())
