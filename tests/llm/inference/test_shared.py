"""One engine for many threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from headwater.cluster.errors import HeadwaterError
from headwater.llm.inference.base import Batch, Event, Limits, Sampling
from headwater.llm.inference.next_token.guided import Guides
from headwater.llm.inference.shared import SharedEngine
from headwater.llm.inference.torch_engine import TorchEngine
from tests.llm.chat_tokenizer import chat_tokenizer
from tests.llm.models import small_model

PROMPTS = [[5, 6, 7], [9, 8, 7, 6, 5, 4], [11], [5, 6, 7, 12]]


@pytest.fixture(scope="module")
def engine() -> TorchEngine:
    return TorchEngine(small_model(), chat_tokenizer())


def waits_for(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_streams_of_many_threads_are_as_if_each_were_alone(engine: TorchEngine) -> None:
    shared = SharedEngine(engine)
    asked = [
        (prompt, Sampling(12, temperature, seed=seed))
        for prompt in PROMPTS
        for temperature, seed in ((0.0, None), (1.0, 3), (1.0, 4))
    ]
    with ThreadPoolExecutor(len(asked)) as pool:
        together = list(pool.map(lambda one: [token.id for token in shared.stream(*one)], asked))
    assert together == [[token.id for token in engine.stream(*one)] for one in asked]
    assert len({tuple(ids) for ids in together}) > len(PROMPTS)


class Counted(TorchEngine):
    """Counts the sequences of each step, and fails at steps that a test names."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.sizes: list[int] = []
        self.fails = 0

    def batch(self, limits: Limits | None = None) -> Batch:
        made: Any = super().batch(limits)
        step = made.step

        def counted() -> list[Event]:
            if self.fails:
                self.fails -= 1
                raise RuntimeError("out of memory")
            events: list[Event] = step()
            self.sizes.append(len(events))
            return events

        made.step = counted
        return made  # type: ignore[no-any-return]


def test_streams_run_together_and_before_their_tokens_are_taken() -> None:
    engine = Counted(small_model(), chat_tokenizer())
    shared = SharedEngine(engine)
    streams = [shared.stream(prompt, Sampling(30, 1.0, seed=1)) for prompt in PROMPTS]
    assert waits_for(lambda: max(engine.sizes, default=0) == len(PROMPTS))
    assert all(list(stream) for stream in streams)


def test_a_closed_stream_leaves_the_batch_and_others_go_on() -> None:
    engine = Counted(small_model(), chat_tokenizer())
    long = next(s for n in range(50) if len(list(engine.stream([5], s := Sampling(250, 1.0, seed=n)))) == 250)
    engine.sizes.clear()
    shared = SharedEngine(engine)
    endless, other = shared.stream([5], long), shared.stream([6, 7], Sampling(20, 1.0, seed=2))
    next(endless)
    endless.close()
    assert list(endless) == [] and list(other)
    assert waits_for(lambda: shared._batch.idle)
    assert len(engine.sizes) < 200


def test_a_prompt_that_cannot_run_says_so_where_it_is_read(engine: TorchEngine) -> None:
    shared = SharedEngine(engine)
    fine = shared.stream([5], Sampling(3))
    with pytest.raises(HeadwaterError, match="exceed the context"):
        next(shared.stream([5] * engine.context, Sampling(3)))
    assert len(list(fine)) == 3
    assert list(shared.stream([5], Sampling(0))) == []


def test_a_failing_model_ends_the_streams_that_ran_and_serves_the_next() -> None:
    engine = Counted(small_model(), chat_tokenizer())
    engine.fails = 1
    shared = SharedEngine(engine)
    with pytest.raises(RuntimeError, match="out of memory"):
        list(shared.stream([5], Sampling(3)))
    assert len(list(shared.stream([5], Sampling(3)))) == 3


def test_a_schema_is_compiled_in_its_own_callers_thread(
    engine: TorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some schemas take seconds to compile: in the batch's thread, all other texts stood still."""
    threads: list[str] = []
    compile_ = Guides._compile

    def watched(self: Guides, schema: str) -> Any:
        threads.append(threading.current_thread().name)
        return compile_(self, schema)

    monkeypatch.setattr(Guides, "_compile", watched)
    shared = SharedEngine(engine)
    assert list(shared.stream([5], Sampling(8, schema='{"enum": [true, 7]}')))
    with pytest.raises(HeadwaterError, match="Invalid type"):
        next(shared.stream([5], Sampling(8, schema='{"type": "bogus"}')))
    assert threads == [threading.current_thread().name] * 2
