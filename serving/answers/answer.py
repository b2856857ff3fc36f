"""Answer a question from its passages, as a stream of events.

Three modes: `quote` (sentences of the sources, selected by the model's probabilities), `write` (free text
over numbered sources, checked against them), `plain` (no sources).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from headwater.cluster.errors import HeadwaterError
from headwater.llm.examples.chat import encode_prompt, stop_ids
from headwater.llm.grounding.cite import (
    Candidate,
    Citation,
    CitedText,
    candidates,
    choose,
    cited_source,
    quote_scores,
)
from headwater.llm.grounding.passages import Passage
from headwater.llm.grounding.prompt import NOTHING_FOUND, with_sources
from headwater.llm.grounding.sentences import sentence_spans
from headwater.llm.inference.base import Engine, Sampling
from headwater.serving.answers.text_stream import TextStream
from headwater.serving.errors import ApiError

Message = dict[str, str]
MIN_ANSWER = 16
"""Minimum tokens of the context reserved for the answer."""


@dataclass(frozen=True)
class AnswerJob:
    """A validated request, with the passages found for it (None: retrieval is off)."""

    messages: list[Message]
    passages: list[Passage] | None
    mode: Literal["quote", "write"]
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stops: tuple[str, ...] = ()
    choices: int = 1
    quoted_sentences: int = 3


@dataclass(frozen=True)
class Started:
    prompt_tokens: int


@dataclass(frozen=True)
class Delta:
    choice: int
    text: str


@dataclass(frozen=True)
class Finished:
    choice: int
    reason: Literal["stop", "length"]
    completion_tokens: int
    citations: list[Citation]
    token_ids: list[int] = field(default_factory=list)
    """As the model sampled them, with those behind a stop string; none for quotations."""


Event = Started | Delta | Finished


def answer(engine: Engine, job: AnswerJob, stop: threading.Event | None = None) -> Iterator[Event]:
    """Yield one Started, then for each choice its Deltas and one Finished. Ends early if `stop` is set.

    Raises ApiError 400 if the question alone exceeds the model's context.
    """
    cancelled = stop or threading.Event()
    if job.passages is None:
        prompt = checked_prompt(engine, job.messages, 1)
        yield Started(len(prompt))
        for choice in range(job.choices):
            yield from _generate(engine, prompt, job, choice, [], cancelled)
    elif not job.passages:
        yield from _nothing_found(engine, job)
    elif job.mode == "quote":
        yield from _quote(engine, job, job.passages, cancelled)
    else:
        prompt, fitting = write_prompt(engine, job.messages, job.passages, job.max_tokens)
        yield Started(len(prompt))
        for choice in range(job.choices):
            yield from _generate(engine, prompt, job, choice, fitting, cancelled)


def checked_prompt(engine: Engine, messages: Sequence[Message], room: int) -> list[int]:
    """Ids of the prompt. Raises ApiError 400 unless the model's chat template takes these messages and they
    leave `room` tokens of the context free."""
    try:
        ids = encode_prompt(engine.tokenizer, messages)
    except HeadwaterError as error:
        raise ApiError(400, str(error), code="invalid_value", param="messages") from error
    if len(ids) + room > engine.context:
        raise ApiError(
            400,
            f"This model's context is {engine.context} tokens. The messages have {len(ids)}, "
            f"and an answer needs at least {room}.",
            code="context_length_exceeded",
            param="messages",
        )
    return ids


def _nothing_found(engine: Engine, job: AnswerJob) -> Iterator[Event]:
    yield Started(len(checked_prompt(engine, job.messages[-1:], 1)))
    for choice in range(job.choices):
        yield Delta(choice, NOTHING_FOUND)
        yield Finished(choice, "stop", _count(engine, NOTHING_FOUND), [])


def _count(engine: Engine, text: str) -> int:
    return len(_ids(engine, text))


def _ids(engine: Engine, text: str) -> list[int]:
    encoded: Any = engine.tokenizer(text, add_special_tokens=False, split_special_tokens=True)
    return list(encoded["input_ids"])


# -- quote -----------------------------------------------------------------------------------
def _quote(
    engine: Engine, job: AnswerJob, passages: list[Passage], cancelled: threading.Event
) -> Iterator[Event]:
    """Quote the best-scored sentences. The scoring prompt has the question but no sources: with them, every
    sentence would score high for being a copy of the prompt."""
    prompt = checked_prompt(engine, _last_question(job.messages), MIN_ANSWER)
    yield Started(len(prompt))
    found = candidates(passages)
    scores = _score(engine, prompt, found)
    for choice in range(job.choices):
        if cancelled.is_set():
            return
        chosen = choose(
            found,
            scores,
            job.quoted_sentences,
            temperature=job.temperature,
            top_p=job.top_p,
            seed=None if job.seed is None else abs(job.seed) + choice,
        )
        yield from _say(engine, job, choice, chosen)


def _last_question(messages: Sequence[Message]) -> list[Message]:
    return [next((m for m in reversed(messages) if m["role"] == "user"), messages[-1])]


def _score(engine: Engine, prompt: list[int], found: Sequence[Candidate]) -> Any:
    no_question = encode_prompt(engine.tokenizer, [])
    sentences = [_ids(engine, c.text)[: engine.context - len(prompt)] for c in found]
    both = engine.score([prompt] * len(found) + [no_question] * len(found), sentences * 2)
    means = [sum(logprobs) / len(logprobs) for logprobs in both]
    return quote_scores(means[: len(found)], means[len(found) :], [c.rank for c in found])


def _say(engine: Engine, job: AnswerJob, choice: int, chosen: list[Candidate]) -> Iterator[Event]:
    """Yield whole sentences while they fit into `max_tokens`; only the first is truncated."""
    text, used = CitedText(), 0
    reason: Literal["stop", "length"] = "stop"
    for candidate in chosen:
        sentence, stopped = _before_stop(candidate.text, job.stops)
        room = job.max_tokens - used
        ids = _ids(engine, sentence)
        if len(ids) > room:
            reason = "length"
            if text.text:
                break
            sentence = str(engine.tokenizer.decode(ids[:room])).rstrip("\ufffd").rstrip()
            candidate = replace(candidate, end=candidate.start + len(sentence))
        if sentence:
            delta = text.add(f" {sentence}" if text.text else sentence, candidate)
            used += _count(engine, delta)
            yield Delta(choice, delta)
        if stopped or reason == "length":
            break
    yield Finished(choice, reason, min(used, job.max_tokens), text.citations)


def _before_stop(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    places = [place for s in stops if (place := text.find(s)) >= 0]
    return (text[: min(places)].rstrip(), True) if places else (text, False)


# -- write and plain ---------------------------------------------------------------------------
def write_prompt(
    engine: Engine, messages: Sequence[Message], passages: Sequence[Passage], max_tokens: int
) -> tuple[list[int], list[Passage]]:
    """The prompt with numbered passages before the last question, and the passages in it.

    Drops passages, worst first, until `max_tokens` (at most half of the context) are left for the answer.
    The last passage is shortened sentence by sentence before it is dropped.
    """
    room = max(MIN_ANSWER, min(max_tokens, engine.context // 2))
    bare = checked_prompt(engine, messages, MIN_ANSWER)
    fitting = list(passages)
    while fitting:
        ids = encode_prompt(engine.tokenizer, with_sources(messages, fitting))
        if len(ids) + room <= engine.context:
            return ids, fitting
        spans = sentence_spans(fitting[0].text)
        if len(fitting) > 1 or len(spans) < 2:
            fitting.pop()
        else:
            end = spans[-2][1]
            first = fitting[0]
            fitting = [replace(first, text=first.text[:end], end=first.start + end)]
    return bare, []


def _generate(
    engine: Engine,
    prompt: list[int],
    job: AnswerJob,
    choice: int,
    passages: list[Passage],
    cancelled: threading.Event,
) -> Iterator[Event]:
    """Stream generated text; with passages, sentence by sentence, each with its citation."""
    sampling = Sampling(
        max_tokens=min(job.max_tokens, engine.context - len(prompt)),
        temperature=job.temperature,
        top_p=job.top_p,
        seed=None if job.seed is None else abs(job.seed) + choice,
        stop_ids=stop_ids(engine.tokenizer),
    )
    stream = TextStream(engine.tokenizer, sampling.stop_ids, job.stops)
    text, waiting = CitedText(), ""
    for piece in stream.read(engine.stream(prompt, sampling)):
        if cancelled.is_set():
            return
        if not passages:
            yield Delta(choice, text.add(piece, None))
            continue
        waiting += piece
        while len(spans := sentence_spans(waiting)) > 1:
            end = spans[0][1]
            yield Delta(choice, _cited(text, waiting[:end], passages))
            waiting = waiting[end:]
    if waiting.strip():
        yield Delta(choice, _cited(text, waiting.rstrip(), passages))
    yield Finished(choice, stream.finish_reason, stream.tokens, text.citations, stream.ids)


def _cited(text: CitedText, sentence: str, passages: list[Passage]) -> str:
    return text.add(*cited_source(sentence, passages))
