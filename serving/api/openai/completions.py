"""`POST /v1/completions`: the model goes on with a text; there is no chat template and no retrieval."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from typing import Annotated, Any, ClassVar, Literal, NotRequired

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field
from typing_extensions import TypedDict

from headwater.serving.answers.events import CompletionJob, Delta, Event, Finished, Spoken, Started
from headwater.serving.api.backend import Backend
from headwater.serving.api.bodies import (
    DONE,
    MAX_CHOICES,
    MAX_TOP_LOGPROBS,
    SamplingBody,
    StreamOptions,
    Text,
    TokenIds,
    Usage,
    event,
    parse,
    unsupported,
    usage,
)
from headwater.serving.api.limits import read_json_body
from headwater.serving.api.openai.chat import whole
from headwater.serving.api.streaming import EventStream
from headwater.serving.errors import ApiError

MAX_COMPLETIONS = 128
"""Prompts times `n` of one request."""
DEFAULT_TOKENS = 16
"""OpenAI's."""


class CompletionRequest(SamplingBody):
    """The body of `POST /v1/completions`."""

    example: ClassVar[dict[str, Any]] = {"model": "headwater", "prompt": "The old bridge", "max_tokens": 16}

    model: str
    prompt: (
        Text
        | Annotated[list[Text], Field(min_length=1, max_length=MAX_COMPLETIONS)]
        | TokenIds
        | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_COMPLETIONS)]
    )
    max_tokens: int | None = Field(None, ge=0)
    """0 only with `echo`."""
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    """How many of the likeliest tokens each place shows, besides the chosen one."""
    best_of: int | None = None
    """1 alone."""
    suffix: str | None = None
    """None alone."""
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    def check_supported(self) -> None:
        super().check_supported()
        if self.suffix:
            raise unsupported("suffix")
        if self.best_of not in (None, 1):
            raise unsupported("best_of")
        if self.max_tokens == 0 and not self.echo:
            raise ApiError(400, "`max_tokens` 0 needs `echo`.", code="invalid_value", param="max_tokens")
        if len(self.prompts()) * (self.n or 1) > MAX_COMPLETIONS:
            message = f"At most {MAX_COMPLETIONS} completions in a request (prompts × `n`)."
            raise ApiError(400, message, code="invalid_value", param="prompt")

    def prompts(self) -> Sequence[str | Sequence[int]]:
        given: Any = self.prompt
        one = isinstance(given, str) or not given or isinstance(given[0], int)
        return [given] if one else list(given)

    def job(self, temperature: float) -> CompletionJob:
        """`temperature`: where the request sets none."""
        tokens = DEFAULT_TOKENS if self.max_tokens is None else self.max_tokens
        return CompletionJob(
            self.prompts(),
            self.sampling(tokens, temperature, top_logprobs=self.logprobs or 0),
            self.stops(),
            self.n or 1,
            bool(self.echo),
            self.logprobs is not None,
        )


class OldLogprobs(TypedDict):
    """Of one choice. The first token of an echoed prompt has no log-probability."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(TypedDict):
    index: int
    text: str
    logprobs: OldLogprobs | None
    finish_reason: Literal["stop", "length"] | None


class CompletionResponse(TypedDict):
    """A whole response, or one event of a streamed one."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    system_fingerprint: str
    usage: NotRequired[Usage]


async def completions(backend: Backend, request: Request) -> Response:
    started = time.monotonic()
    wanted = parse(CompletionRequest, await read_json_body(request, backend.config.max_body_bytes))
    model = backend.model(wanted.model)
    job = wanted.job(backend.config.temperature)

    async def make() -> CompletionJob:
        return job

    events = backend.answer(make, model, started, request.state.key)
    first = await anext(events)
    assert isinstance(first, Started)
    head: CompletionResponse = {
        "id": f"cmpl-{uuid.uuid4().hex}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": wanted.model,
        "choices": [],
        "system_fingerprint": backend.models.fingerprint(model),
    }
    if wanted.stream:
        return EventStream(_sse(backend, wanted, first, events, head, started))
    async with contextlib.aclosing(events):
        said = await whole(events, len(job.prompts) * job.choices)
    head["choices"] = [
        {
            "index": end.choice,
            "text": said.texts[end.choice],
            "logprobs": old_logprobs(said.spoken[end.choice]) if job.logprobs else None,
            "finish_reason": _reason(end),
        }
        for end in said.ends
    ]
    head["usage"] = backend.count(wanted.model, first, said.ends)
    return JSONResponse(head)


def old_logprobs(spoken: Sequence[Spoken], offset: int = 0) -> OldLogprobs:
    """Log-probabilities in the shape of the older API. `offset`: characters before the first token.

    A token that is a part of a character is shown as `bytes:\\xNN…`, as OpenAI does.
    """
    made: OldLogprobs = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for token in spoken:
        made["tokens"].append(_shown(token.text, token.data))
        made["token_logprobs"].append(token.logprob)
        top = {_shown(text, data): logprob for text, data, logprob in reversed(token.top)}
        if token.logprob is not None:
            top.setdefault(made["tokens"][-1], token.logprob)
        made["top_logprobs"].append(None if token.logprob is None else top)
        made["text_offset"].append(offset)
        offset += len(token.text)
    return made


def _shown(text: str, data: bytes) -> str:
    return text if text.encode() == data else "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def _reason(end: Finished) -> Literal["stop", "length"]:
    return "length" if end.reason == "length" else "stop"


async def _sse(
    backend: Backend,
    wanted: CompletionRequest,
    first: Started,
    events: AsyncGenerator[Event, None],
    head: CompletionResponse,
    started: float,
) -> AsyncGenerator[str, None]:
    ends: list[Finished] = []
    offsets: dict[int, int] = {}

    def chunk(index: int, text: str, spoken: Sequence[Spoken] = (), end: Finished | None = None) -> str:
        said = old_logprobs(spoken, offsets.get(index, 0)) if wanted.logprobs is not None and spoken else None
        offsets[index] = offsets.get(index, 0) + len(text)
        choice: CompletionChoice = {
            "index": index,
            "text": text,
            "logprobs": said,
            "finish_reason": _reason(end) if end else None,
        }
        return event({**head, "choices": [choice]})

    try:
        async for each in events:
            if isinstance(each, Delta):
                yield chunk(each.choice, each.text, each.spoken)
            elif isinstance(each, Finished):
                ends.append(each)
                yield chunk(each.choice, "", end=each)
        if wanted.stream_options and wanted.stream_options.include_usage:
            completed = sum(end.completion_tokens for end in ends)
            yield event({**head, "usage": usage(first.prompt_tokens, completed)})
        yield DONE
    except ApiError as error:
        yield event(error.body())
    finally:
        await events.aclose()
        backend.count(wanted.model, first, ends)
        backend.metrics.seconds.labels("completions").observe(time.monotonic() - started)
