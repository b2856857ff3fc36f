"""The endpoint through the official client, and the project's own."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest
import ray

from headwater.cluster.errors import HeadwaterError
from headwater.llm.examples.conversations import question_about
from headwater.llm.examples.preferences import read_rankings
from headwater.llm.grounding.prompt import NOTHING_FOUND
from headwater.serving import app
from headwater.serving.api.client import ask
from headwater.serving.config import AppConfig
from headwater.serving.errors import ApiError
from headwater.serving.replicas import EngineReplica, RetrievalReplica
from tests.serving.conftest import ARTICLES, BRIDGE, Endpoint
from tests.serving.in_process import ingress_of, served

QUESTION = [{"role": "user", "content": question_about(BRIDGE)}]


@pytest.fixture
def client(local: Endpoint) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{local.url}/v1", api_key="none", max_retries=0)


def test_answer_quotes_the_article_and_cites_it(client: openai.OpenAI) -> None:
    response = client.chat.completions.create(model="tiny", messages=QUESTION)
    message = response.choices[0].message
    assert "[1]" in message.content
    first = response.citations[0]
    assert (first["index"], first["title"], first["url"]) == (1, BRIDGE, "https://news.example/story/0")
    assert first["quote"] in ARTICLES[BRIDGE]
    for cited in response.citations:
        text = ARTICLES[cited["title"]]
        said = message.content[cited["start"] : cited["end"]]
        assert said == text[cited["source_start"] : cited["source_end"]]
    annotation = message.annotations[0].url_citation
    assert message.content[annotation.start_index : annotation.end_index] == "[1]"
    assert annotation.url == first["url"]
    assert response.choices[0].finish_reason == "stop"
    assert response.usage.total_tokens == response.usage.prompt_tokens + response.usage.completion_tokens


def test_stream_says_the_same_and_its_last_chunk_carries_the_citations(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="tiny", messages=QUESTION)
    chunks = list(
        client.chat.completions.create(
            model="tiny", messages=QUESTION, stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage and chunks[-1].choices == []
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-2].citations == whole.citations


def test_without_retrieval_the_model_writes_and_cites_nothing(client: openai.OpenAI) -> None:
    response = client.chat.completions.create(
        model="tiny", messages=QUESTION, max_tokens=12, seed=3, extra_body={"retrieval": False}
    )
    assert response.citations == []
    assert response.usage.completion_tokens <= 12
    assert response.choices[0].finish_reason in ("stop", "length")


def test_sampling_repeats_with_its_seed_and_gives_n_choices(client: openai.OpenAI) -> None:
    def texts(seed: int) -> list[str]:
        response = client.chat.completions.create(
            model="tiny",
            messages=QUESTION,
            temperature=1.5,
            seed=seed,
            n=3,
            max_tokens=20,
            extra_body={"retrieval": False},
        )
        return [choice.message.content for choice in response.choices]

    first = texts(7)
    assert len(set(first)) == 3
    assert texts(7) == first
    assert texts(8) != first


def test_stop_string_ends_the_answer_before_it(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="tiny", messages=QUESTION).choices[0].message.content
    word = whole.split()[3]
    cut = client.chat.completions.create(model="tiny", messages=QUESTION, stop=word).choices[0]
    assert word not in cut.message.content and cut.finish_reason == "stop"


def test_max_tokens_cuts_a_quotation_and_says_so(client: openai.OpenAI) -> None:
    response = client.chat.completions.create(model="tiny", messages=QUESTION, max_tokens=5)
    assert response.choices[0].finish_reason == "length"
    assert response.usage.completion_tokens <= 5
    cited = response.citations[0]
    assert response.choices[0].message.content[: cited["end"]] in ARTICLES[BRIDGE]


def test_question_about_nothing_in_the_corpus_gets_no_invented_answer(client: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": "zxqv wvut?"}]
    response = client.chat.completions.create(model="tiny", messages=messages)
    assert response.citations == []
    assert "found nothing" in response.choices[0].message.content


def test_models_lists_the_one_model(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "headwater"


def test_own_client_streams_and_returns_numbered_sources(local: Endpoint) -> None:
    pieces: list[str] = []
    answer = ask(local.url, question_about(BRIDGE), on_text=pieces.append)
    assert "".join(pieces) == answer.text == ask(local.url, question_about(BRIDGE)).text
    assert answer.sources()[0]["index"] == 1
    assert answer.model == "tiny"


@pytest.mark.parametrize("question", ["How do I bake sourdough bread?", "What is 2+2?"])
def test_question_that_only_shares_a_word_with_the_corpus_gets_no_cited_answer(
    client: openai.OpenAI, question: str
) -> None:
    messages = [{"role": "user", "content": question}]
    response = client.chat.completions.create(model="tiny", messages=messages)
    assert response.choices[0].message.content == NOTHING_FOUND and response.citations == []


def test_own_client_says_where_nothing_answers() -> None:
    with pytest.raises(HeadwaterError, match="headwater serve"):
        ask("http://127.0.0.1:9", "Anybody there?", timeout=5)


def test_ranking_is_kept_as_preference_data(local: Endpoint) -> None:
    body = {"messages": QUESTION, "chosen": "The council voted.", "rejected": "It rained."}
    response = httpx.post(f"{local.url}/v1/rankings", json=body)
    assert response.status_code == 201
    kept = read_rankings(local.store)[-1]
    assert (kept.prompt, kept.chosen, kept.rejected) == (QUESTION, "The council voted.", "It rained.")


def test_sampled_ids_come_with_the_answer_where_they_are_asked_for(local: Endpoint) -> None:
    body = {
        "model": "tiny",
        "messages": QUESTION,
        "retrieval": False,
        "max_tokens": 5,
        "n": 2,
        "temperature": 1,
    }
    url = f"{local.url}/v1/chat/completions"
    plain = httpx.post(url, json=body | {"seed": 3}).json()
    assert "token_ids" not in plain["choices"][0]
    whole = httpx.post(url, json=body | {"seed": 3, "return_token_ids": True}).json()
    ids = [choice["token_ids"] for choice in whole["choices"]]
    assert sum(map(len, ids)) == whole["usage"]["completion_tokens"] and ids[0] != ids[1]
    assert [choice["message"] for choice in whole["choices"]] == [c["message"] for c in plain["choices"]]
    streamed = httpx.post(url, json=body | {"seed": 3, "return_token_ids": True, "stream": True}).text
    chunks = [json.loads(line[6:]) for line in streamed.splitlines() if line.startswith("data: {")]
    ends = [choice for chunk in chunks for choice in chunk["choices"] if choice["finish_reason"]]
    assert [end["token_ids"] for end in ends] == ids


def test_health_and_metrics_report_state_and_requests(endpoint: Endpoint) -> None:
    ask(endpoint.url, question_about(BRIDGE))
    health = httpx.get(f"{endpoint.url}/healthz")
    assert health.status_code == 200 and health.json()["status"] == "ok"
    assert set(health.json()["parts"]) == {"Ingress", "Engine", "Retrieval", "Web"}
    metrics = httpx.get(f"{endpoint.url}/metrics").text
    assert 'headwater_requests_total{route="chat",status="200"}' in metrics
    assert 'headwater_tokens_total{kind="completion",model="tiny"}' in metrics
    assert "headwater_requests_in_progress 0.0" in metrics


def test_taken_port_is_named(endpoint: Endpoint) -> None:
    port = int(endpoint.url.rsplit(":", 1)[1])
    with pytest.raises(HeadwaterError, match=f"127.0.0.1:{port}"):
        app.start(endpoint.config.model_copy(update={"port": port}))


def test_a_second_endpoint_on_the_cluster_is_refused_and_the_first_goes_on(endpoint: Endpoint) -> None:
    """Serve would replace the first, and ignore the second's address."""
    with pytest.raises(HeadwaterError, match=r"Serve runs on this cluster already, with .* headwater"):
        app.start(endpoint.config)
    assert httpx.get(f"{endpoint.url}/healthz").status_code == 200


def test_missing_model_folder_is_named_before_anything_starts(endpoint: Endpoint) -> None:
    with pytest.raises(HeadwaterError, match="nowhere"):
        app.start(endpoint.config.model_copy(update={"model": "/nowhere"}))


def test_stream_is_made_of_server_sent_events(endpoint: Endpoint) -> None:
    body = {"model": "tiny", "messages": QUESTION, "stream": True}
    response = httpx.post(f"{endpoint.url}/v1/chat/completions", json=body)
    assert response.headers["content-type"].startswith("text/event-stream")
    events = response.text.strip().split("\n\n")
    assert events[-1] == "data: [DONE]"
    assert json.loads(events[0].removeprefix("data: "))["object"] == "chat.completion.chunk"


def test_health_without_ray_starts_none(local: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """`serve.status` starts a Ray where none runs."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda *args, **kwargs: pytest.fail("Ray was started"))
    response = httpx.get(f"{local.url}/healthz")
    assert response.status_code == 200 and response.json()["parts"] == {}


def test_search_and_model_are_used_once_before_the_endpoint_is_ready(
    news_config: AppConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[str] = []
    search, answer = RetrievalReplica.search, EngineReplica.answer

    def searched(self: RetrievalReplica, *args: Any) -> Any:
        used.append("search")
        return search(self, *args)

    def answered(self: EngineReplica, job: Any, past: Any) -> Any:
        used.append("answer")
        return answer(self, job, past)

    monkeypatch.setattr(RetrievalReplica, "search", searched)
    monkeypatch.setattr(EngineReplica, "answer", answered)
    with served(ingress_of(news_config)) as url:
        assert used == ["search", "answer"]
        assert "headwater_first_token_seconds_count 0.0" in httpx.get(f"{url}/metrics").text


def test_an_endpoint_whose_search_fails_serves_all_the_same(
    news_config: AppConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*args: Any) -> Any:
        raise ApiError(503, "not available", code="unavailable")

    monkeypatch.setattr(RetrievalReplica, "search", fails)
    with served(ingress_of(news_config)) as url:
        assert httpx.get(f"{url}/v1/models").status_code == 200
