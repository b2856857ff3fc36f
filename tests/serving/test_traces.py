"""Traces of requests, as an OpenTelemetry collector gets them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace import TracerProvider
from pydantic import ValidationError

from headwater.cluster.errors import HeadwaterError
from headwater.serving import traces
from headwater.serving.api.door import Door
from headwater.serving.config import AppConfig
from tests.serving.collector import Collector, SpanSeen, collecting
from tests.serving.conftest import ARTICLES
from tests.serving.in_process import ingress_of, served

CLIENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
HEADERS = {"traceparent": f"00-{CLIENT[0]}-{CLIENT[1]}-01"}
QUESTION = "Who will rebuild the old stone bridge over the Avon?"
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": QUESTION}], "retrieval": True}
OURS = {"request", "door", "chat", "answer", "retrieval", "search", "queue", "prefill", "decode", "citation"}


def connected(spans: Sequence[SpanSeen]) -> bool:
    """Whether each span is below another of them, and one below the client's."""
    ids = {span.id for span in spans}
    outside = [span for span in spans if span.parent not in ids]
    return len(outside) == 1 and outside[0].parent == CLIENT[1]


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as made:
        yield made


@pytest.fixture(scope="module")
def url(news_config: AppConfig) -> Iterator[str]:
    with served(Door(ingress_of(news_config), most=4, max_body_bytes=10_000)) as url:
        yield url


@pytest.fixture
def provider(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> Iterator[TracerProvider]:
    """As Serve sets one up in each process."""
    for name, value in traces.environment(collector.url).items():
        monkeypatch.setenv(name, value)
    made = TracerProvider()
    for processor in traces.processors():
        made.add_span_processor(processor)
    monkeypatch.setattr(traces, "tracer", lambda: made.get_tracer("headwater"))
    collector.bodies.clear()
    yield made
    made.shutdown()


@pytest.mark.parametrize("stream", [False, True])
def test_a_chat_with_retrieval_is_one_connected_trace_of_the_client_without_its_words(
    url: str, provider: TracerProvider, collector: Collector, stream: bool
) -> None:
    answer = httpx.post(f"{url}/v1/chat/completions", json=CHAT | {"stream": stream}, headers=HEADERS)
    assert answer.status_code == 200
    provider.force_flush()
    spans = collector.spans(CLIENT[0])
    assert spans == collector.spans() and connected(spans)
    found = {span.name: span for span in spans}
    assert set(found) == OURS
    assert found["request"].attributes["http.response.status_code"] == 200
    assert found["chat"].attributes["http.route"] == "/v1/chat/completions"
    told = found["answer"].attributes
    assert told["gen_ai.request.model"] == "tiny"
    assert told["gen_ai.usage.input_tokens"] > 0 and told["gen_ai.usage.output_tokens"] > 0
    if not stream:
        used = answer.json()["usage"]
        assert told["gen_ai.usage.output_tokens"] == used["completion_tokens"]
        assert told["gen_ai.usage.input_tokens"] == used["prompt_tokens"]
    assert not any(span.error for span in spans)
    by_id = {span.id: span.name for span in spans}
    assert by_id[found["search"].parent] == "retrieval" and by_id[found["retrieval"].parent] == "answer"
    words = [*re.findall(r"\w{5,}", QUESTION), *re.findall(r"\w{6,}", " ".join(ARTICLES.values()))]
    assert not [word for word in words if any(word.encode() in body for body in collector.bodies)]


def test_serve_takes_a_request_for_a_child_of_the_doors_span_and_makes_none_of_a_probe(
    provider: TracerProvider, collector: Collector
) -> None:
    given: list[bytes] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            given.extend(value for name, value in scope["headers"] if name == traces.PARENT)
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

    with served(Door(inner, most=1, max_body_bytes=100)) as url:
        httpx.post(f"{url}/v1/chat/completions", content=b"{}", headers=HEADERS)
        httpx.post(f"{url}/v1/chat/completions", content=b"{}")
        httpx.get(f"{url}/healthz", headers=HEADERS)
    provider.force_flush()
    requests = [span for span in collector.spans() if span.name == "request"]
    parents = [value.decode().split("-") for value in given]
    assert [parent[1:3] for parent in parents[:2]] == [[span.trace, span.id] for span in requests]
    assert [int(parent[3], 16) & 1 for parent in parents] == [1, 1, 0], "recorded, recorded, not recorded"
    assert requests[0].trace == CLIENT[0] and not requests[1].parent


def test_errors_are_recorded_without_what_they_quote(
    url: str, provider: TracerProvider, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = CHAT | {"model": "classified"}
    assert httpx.post(f"{url}/v1/chat/completions", json=wrong, headers=HEADERS).status_code == 404
    large = CHAT | {"user": "x" * 20_000}
    assert httpx.post(f"{url}/v1/chat/completions", json=large, headers=HEADERS).status_code == 413

    def broken(*given: Any) -> Any:
        raise ValueError("classified")

    monkeypatch.setattr("headwater.serving.replicas.answer", broken)
    assert httpx.post(f"{url}/v1/chat/completions", json=CHAT, headers=HEADERS).status_code == 500
    provider.force_flush()
    spans = collector.spans(CLIENT[0])
    statuses = [span.attributes.get("http.response.status_code") for span in spans if span.name == "request"]
    assert statuses == [404, 413, 500]
    assert "request_too_large" in [span.attributes.get("error.type") for span in spans if span.name == "door"]
    assert {span.name for span in spans if span.error} >= {"answer", "prefill", "request"}
    assert not any(b"classified" in body for body in collector.bodies)


def test_messages_of_exceptions_that_others_record_are_dropped(
    provider: TracerProvider, collector: Collector
) -> None:
    with pytest.raises(ValueError), traces.tracer().start_as_current_span("theirs"):
        raise ValueError("classified")
    provider.force_flush()
    (span,) = collector.spans()
    assert span.error and span.events == ["exception"]
    assert b"ValueError" in collector.bodies[0] and b"classified" not in collector.bodies[0]


def test_without_a_collector_there_are_no_spans_and_no_settings(url: str, collector: Collector) -> None:
    collector.bodies.clear()
    assert httpx.post(f"{url}/v1/chat/completions", json=CHAT, headers=HEADERS).status_code == 200
    assert not traces.start("request").is_recording() and not collector.bodies
    assert traces.environment("") == {} and traces.tracing_config("") is None


def test_a_collector_is_a_url_and_needs_its_extra(
    news_config: AppConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValidationError, match="traces"):
        AppConfig.model_validate({**news_config.model_dump(), "traces": "localhost:4318"})
    monkeypatch.setattr(traces, "SENDER", "opentelemetry.exporter.nowhere")
    with pytest.raises(HeadwaterError, match="not installed") as refused:
        traces.check("http://127.0.0.1:4318")
    assert "headwater[serve,traces]" in str(refused.value.fix)
    traces.check("")


@pytest.mark.soak
def test_a_trace_goes_through_all_processes_of_the_endpoint(
    news_config: AppConfig, tmp_path: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector.bodies.clear()
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")
    monkeypatch.setenv("OTEL_EXPERIMENTAL_RESOURCE_DETECTORS", "process")
    command = ["serve", "--model", news_config.model, "--index", news_config.index, "--name", "tiny"]
    options = ["--store", news_config.store, "--port", "0", "--set", f"serve.traces={collector.url}"]
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(
            [sys.executable, "-m", "headwater", *command, *options],
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=Path(__file__).resolve().parents[2],
        ) as process,
    ):
        try:
            url = _address(tmp_path / "log", process)
            headers = HEADERS | {"x-request-id": "asked-once"}
            answer = httpx.post(f"{url}/v1/chat/completions", json=CHAT, headers=headers, timeout=120)
            assert answer.status_code == 200 and answer.json()["choices"][0]["message"]["sources"]
            assert httpx.get(f"{url}/healthz", timeout=60).status_code == 200
            until = time.monotonic() + 60
            while (
                not ({span.name for span in collector.spans(CLIENT[0])} > OURS) and time.monotonic() < until
            ):
                time.sleep(0.2)
            spans = collector.spans(CLIENT[0])
        finally:
            process.terminate()
            process.wait(60)
    (tmp_path / "spans.json").write_text(json.dumps([vars(span) for span in spans], indent=1))
    assert {span.name for span in spans} > OURS, [span.name for span in spans]
    assert connected(spans)
    assert [span for span in spans if span.attributes.get("request_id") == "asked-once"]
    assert len({span.process for span in spans}) >= 4, "proxy, ingress, search and model"
    assert not [span for span in collector.spans() if span.attributes.get("request_route_path") == "/healthz"]


def _address(log: Path, process: subprocess.Popen[Any]) -> str:
    until = time.monotonic() + 500
    while time.monotonic() < until and process.poll() is None:
        if found := re.search(r"http://127\.0\.0\.1:\d+", log.read_text()):
            return found.group()
        time.sleep(0.5)
    raise AssertionError(log.read_text())
