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
    return [EngineReplica(*news_config.engine_arguments) for _ in range(2)]


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
