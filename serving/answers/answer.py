"""Answer a question from its passages, as a stream of events.

Three modes: `quote` (sentences of the sources, selected by the model's probabilities), `write` (free text
over numbered sources, checked against them), `plain` (no sources).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

from headwater.cluster.errors import HeadwaterError
from headwater.llm.examples.chat import encode_prompt, stop_ids
from headwater.llm.grounding.cite import (
    Candidate,
    CitedText,
    candidates,
    choose,
    cited_source,
    quote_scores,
)
from headwater.llm.grounding.passages import Passage
from headwater.llm.grounding.prompt import NOTHING_FOUND, with_sources
from headwater.llm.grounding.sentences import sentence_spans
from headwater.llm.inference.base import Engine, Sampling, Token, Tokens
from headwater.llm.rows.permutation import derived_seed
from headwater.serving import traces
from headwater.serving.answers import tool_calls
from headwater.serving.answers.decisions import Decisions
from headwater.serving.answers.events import (
    AnswerJob,
    CompletionJob,
    Delta,
    Event,
    Finished,
    Message,
    Started,
    ToolCall,
    Tools,
    sources_of,
)
from headwater.serving.answers.text_stream import TextStream
from headwater.serving.answers.token_text import spoken
from headwater.serving.errors import ApiError

MIN_ANSWER = 16
"""Minimum tokens of the context reserved for the answer."""


def answer(
    engine: Engine,
    job: AnswerJob,
    stop: threading.Event | None = None,
    decisions: Decisions | None = None,
) -> Iterator[Event]:
    """Yield one Started, then for each choice its Deltas and one Finished. Ends early if `stop` is set.

    The events follow from the job and the decisions, whether these are new or another replica's. Raises
    ApiError 400 if the question alone exceeds the model's context.
    """
    cancelled, decisions = stop or threading.Event(), decisions or Decisions()
    job = _with_tools(engine, job)
    if job.passages is None:
        prompt = checked_prompt(engine, job.messages, 1)
        yield from _write(engine, prompt, job, [], cancelled, decisions)
    elif not job.passages:
        yield from _nothing_found(engine, job)
    elif job.mode == "quote":
        yield from _quote(engine, job, job.passages, cancelled, decisions)
    else:
        prompt, fitting = write_prompt(engine, job.messages, job.passages, job.sampling.max_tokens)
        yield from _write(engine, prompt, job, fitting, cancelled, decisions)


def _with_tools(engine: Engine, job: AnswerJob) -> AnswerJob:
    """The job with tools and calls as the text of plain messages, and with the schema of a forced call."""
    tools = job.tools
    if tools is None and not any(m["role"] == "tool" or m.get("tool_calls") for m in job.messages):
        return job
    functions, choice = (tools.functions, tools.choice) if tools else ((), "none")
    try:
        messages = tool_calls.with_tools(engine.tokenizer, job.messages, functions, choice)
        schema = tool_calls.forced_schema(functions, choice) or job.sampling.schema
    except HeadwaterError as error:
        raise ApiError(400, str(error), code="invalid_value", param="tools") from error
    return replace(job, messages=messages, sampling=replace(job.sampling, schema=schema))


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
        yield Finished(choice, "stop", _count(engine, NOTHING_FOUND))


def _count(engine: Engine, text: str) -> int:
    return len(_ids(engine, text))


def _ids(engine: Engine, text: str) -> list[int]:
    encoded: Any = engine.tokenizer(text, add_special_tokens=False, split_special_tokens=True)
    return list(encoded["input_ids"])


# -- quote -----------------------------------------------------------------------------------
def _quote(
    engine: Engine,
    job: AnswerJob,
    passages: list[Passage],
    cancelled: threading.Event,
    decisions: Decisions,
) -> Iterator[Event]:
    """Quote the best-scored sentences. The scoring prompt has the system messages and the question, but
    neither sources nor earlier answers: every sentence of these would score high as a copy of the prompt."""
    if not (found := candidates(passages)):
        yield from _nothing_found(engine, job)
        return
    prompt = checked_prompt(engine, _scoring_messages(job), MIN_ANSWER)
    yield Started(len(prompt))
    scores = decisions.scores(lambda: _score(engine, prompt, found))
    for choice in range(job.choices):
        if cancelled.is_set():
            return
        with traces.spanned("citation"):
            chosen = choose(
                found,
                scores,
                job.quoted_sentences,
                temperature=job.sampling.temperature,
                top_p=job.sampling.top_p,
                seed=choice_seed(job.sampling.seed, choice),
            )
        yield from _say(engine, job, choice, chosen)


def _scoring_messages(job: AnswerJob) -> list[Message]:
    last = next((m for m in reversed(job.messages) if m["role"] == "user"), job.messages[-1])
    system = [message for message in job.messages if message["role"] == "system"]
    return [*system, {**last, "content": job.question or last["content"]}]


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
        room = job.sampling.max_tokens - used
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
    used = min(used, job.sampling.max_tokens)
    sources = sources_of(text.citations, job.passages or [])
    yield Finished(choice, reason, used, text.citations, sources=sources)


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


def _write(
    engine: Engine,
    prompt: list[int],
    job: AnswerJob,
    passages: list[Passage],
    cancelled: threading.Event,
    decisions: Decisions,
) -> Iterator[Event]:
    """Generate all choices together, and yield one after the other."""
    told = functools.partial(_told, engine, job, passages, cancelled)
    yield from generate(engine, [prompt], job, told, decisions)


def generate(
    engine: Engine,
    prompts: Sequence[list[int]],
    job: AnswerJob | CompletionJob,
    tell: Callable[[int, TextStream, Iterator[Token]], Iterator[Event]],
    decisions: Decisions,
) -> Iterator[Event]:
    """Started, and what `tell` makes of every choice's tokens. They are generated together."""
    _check_ids(engine, job.sampling)
    ends = () if job.sampling.ignore_eos else stop_ids(engine.tokenizer)
    with contextlib.ExitStack() as streams:
        opened: list[Tokens] = []
        for prompt in prompts:
            room = min(job.sampling.max_tokens, engine.context - len(prompt))
            for _ in range(job.choices):
                choice = len(opened)
                seed = choice_seed(job.sampling.seed, choice)
                sampling = replace(job.sampling, max_tokens=room, seed=seed)
                tokens = engine.stream(prompt, sampling, decisions.ids(choice))
                opened.append(streams.enter_context(contextlib.closing(tokens)))
        read = [decisions.tokens(choice, tokens) for choice, tokens in enumerate(opened)]
        # Taken before the answer starts: it raises what the engine refuses.
        first = _first(read[0]) if job.sampling.schema else []
        yield Started(sum(len(prompt) for prompt in prompts))
        for choice, tokens in enumerate(opened):
            stream = TextStream(engine.tokenizer, ends, job.stops)
            yield from tell(choice, stream, itertools.chain(first if choice == 0 else (), read[choice]))
            tokens.close()  # it may have ended at a stop string


def _first(tokens: Iterator[Token]) -> list[Token]:
    """The first token. Raises ApiError 400 for a schema that cannot be followed."""
    try:
        return list(itertools.islice(tokens, 1))
    except HeadwaterError as error:
        raise ApiError(400, str(error), code="invalid_value", param="response_format") from error


def _check_ids(engine: Engine, sampling: Sampling) -> None:
    for number, _ in sampling.logit_bias:
        if number >= len(engine.tokenizer):
            message = f"There is no token {number}."
            raise ApiError(400, message, code="invalid_value", param="logit_bias")


def choice_seed(seed: int | None, choice: int) -> int | None:
    """The seed of one choice of a request. No two choices, of one seed or of two, share it."""
    return None if seed is None else derived_seed(seed, choice)


def _told(
    engine: Engine,
    job: AnswerJob,
    passages: list[Passage],
    cancelled: threading.Event,
    choice: int,
    stream: TextStream,
    tokens: Iterator[Token],
) -> Iterator[Event]:
    """Generated text as it comes, and calls of tools; with passages sentence by sentence, each with its
    citation."""
    text, waiting, calls = CitedText(), "", list[ToolCall]()
    if job.sampling.schema:
        passages = []  # a marker would not follow the schema

    def delta(said: str) -> Delta:
        return Delta(choice, said, spoken(engine.tokenizer, stream.said()) if job.logprobs else ())

    for part in _parts(stream.read(tokens), job.tools):
        if cancelled.is_set():
            return
        if not isinstance(part, str):
            number = _call_id(job, choice, len(calls))
            calls.append(ToolCall(choice, len(calls), number, part.name, part.arguments))
            yield calls[-1]
            if job.tools and not job.tools.parallel:
                break
        elif not passages:
            yield delta(text.add(part, None))
        else:
            waiting += part
            while len(spans := sentence_spans(waiting)) > 1:
                end = spans[0][1]
                yield delta(_cited(text, waiting[:end], passages))
                waiting = waiting[end:]
    if waiting.strip():
        yield delta(_cited(text, waiting.rstrip(), passages))
    yield Finished(
        choice,
        "tool_calls" if calls else stream.finish_reason,
        stream.tokens,
        text.citations,
        stream.ids,
        sources_of(text.citations, passages),
        calls,
    )


def _call_id(job: AnswerJob, choice: int, index: int) -> str:
    own = hashlib.blake2b(f"{job.nonce}/{choice}/{index}".encode(), digest_size=12)
    return f"call_{own.hexdigest()}"


def _parts(pieces: Iterator[str], tools: Tools | None) -> Iterator[str | tool_calls.ToolCall]:
    """Pieces of text, and the calls of tools among them."""
    if tools is None:
        yield from pieces
        return
    stream = tool_calls.ToolCallStream(tools.functions)
    for piece in pieces:
        yield from stream.add(piece)
    yield from stream.end()


@traces.spanned("citation")
def _cited(text: CitedText, sentence: str, passages: list[Passage]) -> str:
    return text.add(*cited_source(sentence, passages))
