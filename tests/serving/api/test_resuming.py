"""Answers that go on where a replica died: two real engines, of which one breaks off after any item."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter
from ray.exceptions import ActorDiedError
from ray.serve.exceptions import BackPressureError

from headwater.llm.inference.base import Sampling
from headwater.serving.answers.events import AnswerJob, CompletionJob, Delta, Event, Finished, Job, Tools
from headwater.serving.api import resuming, streaming
from headwater.serving.api.resuming import Attempts, again, resumed, seeded
from headwater.serving.config import AppConfig
from headwater.serving.replicas import EngineReplica
from tests.serving.answers.test_answer import ASK, PASSAGES
from tests.serving.answers.test_tool_calls import CLOCK
from tests.serving.in_process import MortalHandle, ingress_of, served

PERSON = json.dumps(
    {
        "type": "object",
        "properties": {"sex": {"enum": ["f", "m"]}, "age": {"type": "integer"}},
        "required": ["sex", "age"],
        "additionalProperties": False,
    }
)
WARM = Sampling(7, 1.0, seed=5, top_p=0.95)
PENALTIES = replace(WARM, presence_penalty=0.5, frequency_penalty=0.5, repetition_penalty=1.2, min_tokens=5)
JOBS: dict[str, Job] = {
    "two choices, log-probabilities": AnswerJob(
        ASK, None, "write", replace(PENALTIES, top_logprobs=2), choices=2, logprobs=True
    ),
    "no seed, stop strings": AnswerJob(
        ASK, None, "write", Sampling(12, 1.0), stops=("e", "the city council")
    ),
    "JSON Schema": AnswerJob(ASK, None, "write", Sampling(24, 1.0, seed=2, schema=PERSON)),
    "a forced call": AnswerJob(
        ASK, None, "write", replace(WARM, max_tokens=40), tools=Tools((CLOCK,), "required")
    ),
    "quotations": AnswerJob(ASK, PASSAGES, "quote", Sampling(200, 1.0), choices=2),
    "written with sources": AnswerJob(ASK, PASSAGES[:1], "write", replace(WARM, max_tokens=16)),
    "completions with echo": CompletionJob(
        ["The old", "bridge"], replace(WARM, top_logprobs=1), echo=True, logprobs=True
    ),
}


@pytest.fixture(scope="module")
def replicas(news_config: AppConfig) -> list[EngineReplica]:
    return [EngineReplica(news_config) for _ in range(2)]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resuming, "FIRST_PAUSE", 0.0)
    monkeypatch.setattr(resuming, "LONGEST_PAUSE", 0.0)


def attempts(seconds: float = 60.0) -> Attempts:
    return Attempts(seconds, Counter("resumed", "", registry=CollectorRegistry()))


def events_of(handle: MortalHandle, job: Job) -> list[Event]:
    async def collect() -> list[Event]:
        return [event async for several in resumed(handle, job, attempts()) for event in several]  # type: ignore[arg-type,misc]

    return asyncio.run(collect())


def facts(events: Sequence[Event]) -> list[Any]:
    """All of the events but log-probabilities, which are equal up to rounding."""
    return [
        (each.choice, each.text, [token.data for token in each.spoken]) if isinstance(each, Delta) else each
        for each in events
    ]


def logprobs(events: Sequence[Event]) -> list[float]:
    tokens = [token for each in events if isinstance(each, Delta) for token in each.spoken]
    return [value for t in tokens for value in (t.logprob or 0.0, *(rival[2] for rival in t.top))]


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_wherever_a_replica_dies_the_answer_is_the_undisturbed_one(
    replicas: list[EngineReplica], job: Job
) -> None:
    job = seeded(job)
    undisturbed = MortalHandle(replicas, [None])
    wanted = events_of(undisturbed, job)
    assert (
        sum(isinstance(each, Finished) for each in wanted)
        == max(1, len(getattr(job, "prompts", ""))) * job.choices
    )
    for life in range(len(undisturbed.items)):
        handle = MortalHandle(replicas, [life, 1, None])
        found = events_of(handle, job)
        assert facts(found) == facts(wanted)
        assert logprobs(found) == pytest.approx(logprobs(wanted), abs=2e-4)
        assert handle.calls == 3, "two replicas died on the way"


def test_a_request_that_ends_every_replica_is_given_to_some_only(replicas: list[EngineReplica]) -> None:
    handle = MortalHandle(replicas, [1])
    with pytest.raises(ActorDiedError):
        events_of(handle, JOBS["JSON Schema"])
    assert handle.calls == resuming.MOST_REPLICAS


def test_no_other_replica_is_asked_without_time_for_it_or_where_the_replicas_own_code_failed(
    replicas: list[EngineReplica],
) -> None:
    handle = MortalHandle(replicas, [1])

    async def impatient() -> None:
        async for _ in resumed(handle, JOBS["JSON Schema"], attempts(0)):  # type: ignore[arg-type]
            pass

    with pytest.raises(ActorDiedError):
        asyncio.run(impatient())
    assert handle.calls == 1
    broken = MortalHandle(replicas, [1, None], RuntimeError)
    with pytest.raises(RuntimeError):
        events_of(broken, JOBS["JSON Schema"])
    assert broken.calls == 1


def test_an_answer_that_ends_in_its_middle_without_an_error_is_no_whole_one(
    replicas: list[EngineReplica],
) -> None:
    wanted = events_of(MortalHandle(replicas, [None]), JOBS["written with sources"])
    handle = MortalHandle(replicas, [3, 4, None], None)
    assert events_of(handle, JOBS["written with sources"]) == wanted
    assert handle.calls == 3


def test_where_no_replica_comes_the_wait_ends() -> None:
    calls = []

    async def lost_then_silent() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise ActorDiedError
        await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        asyncio.run(again(lost_then_silent, attempts(0.01)))
    assert len(calls) == 2


def test_a_full_queue_refuses_new_requests_but_not_those_that_were_in_before() -> None:
    def asked(outcomes: list[Any]) -> Any:
        async def call() -> Any:
            if isinstance(outcome := outcomes.pop(0), Exception):
                raise outcome
            return outcome

        return asyncio.run(again(call, attempts()))

    with pytest.raises(BackPressureError):
        asked([BackPressureError(9, 9), "found"])
    queued = [BackPressureError(9, 9) for _ in range(3 * resuming.MOST_REPLICAS)]
    assert asked([ActorDiedError(), *queued, "found"]) == "found"


CHAT = {"model": "tiny", "messages": ASK, "seed": 3, "temperature": 1, "max_tokens": 12, "retrieval": False}


def sent(url: str, path: str, body: dict[str, Any]) -> list[Any]:
    """What a stream says, but for the ids and times of the response itself."""
    lines = httpx.post(f"{url}{path}", json={**body, "stream": True}, timeout=60).text.split("\n")
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    return [{name: each[name] for name in ("choices", "delta", "error") if name in each} for each in events]


@pytest.fixture(scope="module")
def mortal(news_config: AppConfig, replicas: list[EngineReplica]) -> Iterator[tuple[str, MortalHandle]]:
    """An endpoint whose replicas' lives a test sets."""
    handle = MortalHandle(replicas, [None])
    with served(ingress_of(news_config, handle)) as url:
        yield url, handle


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", CHAT),
        ("/v1/chat/completions", {**CHAT, "retrieval": True, "max_tokens": 200}),
        ("/v1/completions", {"model": "tiny", "prompt": "The", "seed": 3, "temperature": 1}),
        ("/v1/responses", {"model": "tiny", "input": "The bridge?", "retrieval": False, "temperature": 0}),
    ],
    ids=["chat", "quotations", "completions", "responses"],
)
def test_every_route_streams_the_same_bytes_and_says_no_word_of_the_loss(
    mortal: tuple[str, MortalHandle], path: str, body: dict[str, Any]
) -> None:
    url, handle = mortal
    handle.calls, handle.lives = 0, [None]
    wanted = sent(url, path, body)
    handle.calls, handle.lives = 0, [2, 1, None]
    assert sent(url, path, body) == wanted and handle.calls == 3


def test_a_whole_answer_does_not_fail_with_its_replica_and_the_loss_is_counted(
    mortal: tuple[str, MortalHandle],
) -> None:
    url, handle = mortal
    handle.calls, handle.lives = 0, [None]
    wanted = httpx.post(f"{url}/v1/chat/completions", json=CHAT).json()["choices"]
    handle.calls, handle.lives = 0, [5, None]
    assert httpx.post(f"{url}/v1/chat/completions", json=CHAT).json()["choices"] == wanted
    assert handle.calls == 2
    counted = httpx.get(f"{url}/metrics").text.split("\nheadwater_resumed_total ")[1]
    assert float(counted.split()[0]) >= 1


def test_an_answer_that_no_replica_ends_has_an_error_event_after_what_was_sent(
    mortal: tuple[str, MortalHandle],
) -> None:
    url, handle = mortal
    handle.calls, handle.lives = 0, [None]
    wanted = sent(url, "/v1/chat/completions", CHAT)
    handle.calls, handle.lives = 0, [6, 0]
    *said, error = sent(url, "/v1/chat/completions", CHAT)
    assert 1 < len(said) < len(wanted) and said == wanted[: len(said)]
    assert error["error"]["code"] == "unavailable"


def test_a_stream_that_waits_sends_comments_which_clients_skip(
    mortal: tuple[str, MortalHandle], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, handle = mortal
    handle.calls, handle.lives = 0, [None]
    wanted = sent(url, "/v1/chat/completions", CHAT)
    monkeypatch.setattr(streaming, "QUIET_SECONDS", 0.001)
    text = httpx.post(f"{url}/v1/chat/completions", json={**CHAT, "stream": True}).text
    assert streaming.COMMENT in text
    assert text.replace(streaming.COMMENT, "").count("data: ") == len(wanted) + 1
    assert sent(url, "/v1/chat/completions", CHAT) == wanted


def test_a_client_that_leaves_ends_the_stream_behind_its_comments() -> None:
    closed = []

    async def endless() -> Any:
        try:
            yield "data: 1\n\n"
            await asyncio.Event().wait()
        finally:
            closed.append(True)

    async def leave() -> None:
        events = streaming.never_quiet(endless())
        assert await anext(events) == ("data: 1\n\n", True)
        waiting = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])

    asyncio.run(leave())
    assert closed


def test_events_that_come_together_are_one_message_and_an_error_comes_behind_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streaming, "MOST_JOINED", 3)

    async def events() -> Any:
        for number in range(4):
            yield f"data: {number}\n\n"
        await asyncio.sleep(0.001)
        yield "data: late\n\n"
        raise RuntimeError("the model failed")

    async def read() -> None:
        seen = []
        with pytest.raises(RuntimeError, match="the model failed"):
            async for message in streaming.never_quiet(events()):
                seen.append(message)
        assert seen == [
            ("data: 0\n\ndata: 1\n\ndata: 2\n\n", True),
            ("data: 3\n\n", True),
            ("data: late\n\n", True),
        ]

    asyncio.run(read())
