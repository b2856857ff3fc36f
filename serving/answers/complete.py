"""Go on with a text, without a chat template: `/v1/completions`, as evaluation harnesses ask it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

from headwater.data_pipeline.tokens.tokenizer import document_end_id
from headwater.llm.inference.base import Engine, Token
from headwater.serving.answers.answer import generate
from headwater.serving.answers.decisions import Decisions
from headwater.serving.answers.events import CompletionJob, Delta, Event, Finished, Spoken
from headwater.serving.answers.text_stream import TextStream
from headwater.serving.answers.token_text import spoken, texts_of
from headwater.serving.errors import ApiError


def complete(
    engine: Engine,
    job: CompletionJob,
    stop: threading.Event | None = None,
    decisions: Decisions | None = None,
) -> Iterator[Event]:
    """As `answer.answer`, for each prompt in turn.

    Raises ApiError 400 for an id that is no token, and for a prompt that fills the model's context.
    """
    cancelled = stop or threading.Event()
    prompts = [prompt_ids(engine, prompt) for prompt in job.prompts]
    for ids in prompts:
        _check_room(engine, ids, job.sampling.max_tokens)

    def tell(number: int, stream: TextStream, tokens: Iterator[Token]) -> Iterator[Event]:
        if job.echo:
            yield _echoed(engine, job, number, prompts[number // job.choices])
        for piece in stream.read(tokens):
            if cancelled.is_set():
                return
            yield Delta(number, piece, spoken(engine.tokenizer, stream.said()) if job.logprobs else ())
        yield Finished(number, stream.finish_reason, stream.tokens, token_ids=stream.ids)

    yield from generate(engine, prompts, job, tell, decisions or Decisions())


def prompt_ids(engine: Engine, prompt: str | Sequence[int]) -> list[int]:
    """Ids of a prompt, of one token at least. Text that spells a special token is text; the tokens with which
    the tokenizer begins every text are added. Raises ApiError 400 for an id that is no token."""
    if isinstance(prompt, str):
        ids = list(engine.tokenizer(prompt, split_special_tokens=True)["input_ids"])
    else:
        ids = list(prompt)
        check_tokens(engine, ids, "prompt")
    return ids or [document_end_id(engine.tokenizer)]


def check_tokens(engine: Engine, ids: Sequence[int], param: str) -> None:
    """Raises ApiError 400, naming `param`, for an id that is no token."""
    if unknown := [each for each in ids if not 0 <= each < len(engine.tokenizer)]:
        raise ApiError(400, f"There is no token {unknown[0]}.", code="invalid_value", param=param)


def _check_room(engine: Engine, ids: Sequence[int], max_tokens: int) -> None:
    if len(ids) + min(1, max_tokens) > engine.context:
        message = f"This model's context is {engine.context} tokens, and the prompt has {len(ids)}."
        raise ApiError(400, message, code="context_length_exceeded", param="prompt")


def _echoed(engine: Engine, job: CompletionJob, number: int, ids: list[int]) -> Delta:
    text = str(engine.tokenizer.decode(ids))
    if not job.logprobs:
        return Delta(number, text)
    texts = texts_of(engine.tokenizer)
    first: Spoken = texts.spoken(Token(ids[0], 0.0), first=True)
    read = engine.read(ids, job.sampling.top_logprobs)
    return Delta(number, text, (first, *map(texts.spoken, read)))
