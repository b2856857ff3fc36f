"""`POST /v1/chat/completions`: answers, streamed or whole."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from headwater.serving import traces
from headwater.serving.answers.events import (
    AnswerJob,
    Delta,
    Event,
    Finished,
    Spoken,
    Started,
    ToolCall,
    Tools,
)
from headwater.serving.api.backend import Backend
from headwater.serving.api.bodies import DONE, event, parse, usage
from headwater.serving.api.chat_types import ChatRequest, NamedTool, RetrievalOptions, question
from headwater.serving.api.limits import read_json_body
from headwater.serving.api.openai import chat_answers as out
from headwater.serving.api.retrieve import Retrieved, retrieve
from headwater.serving.api.streaming import EventStream
from headwater.serving.errors import ApiError


async def chat(backend: Backend, request: Request) -> Response:
    started = time.monotonic()
    wanted = parse(ChatRequest, await read_json_body(request, backend.config.max_body_bytes))
    model = backend.model(wanted.model)
    events = backend.answer(lambda: job_of(backend, wanted), model, started, request.state.key)
    first = await anext(events)  # raises errors before the response starts
    assert isinstance(first, Started)
    identifier = f"chatcmpl-{uuid.uuid4().hex}"
    fingerprint = backend.models.fingerprint(model)
    if wanted.stream:
        chunks = out.Chunks(identifier, wanted.model, fingerprint)
        return EventStream(_sse(backend, wanted, first, events, chunks, started))
    async with contextlib.aclosing(events):
        said = await whole(events, wanted.n or 1)
    choices = [
        out.choice(
            said.texts[end.choice],
            end,
            said.spoken[end.choice] if wanted.logprobs else None,
            ids=bool(wanted.return_token_ids),
        )
        for end in said.ends
    ]
    used = backend.count(wanted.model, first, said.ends)
    body = out.completion(identifier, wanted.model, choices, used, first.web)
    return JSONResponse({**body, "system_fingerprint": fingerprint})


async def job_of(backend: Backend, wanted: ChatRequest) -> AnswerJob:
    """The job of a request, with the passages found for it.

    What a quotation cannot follow is answered by the model itself, without sources. Raises ApiError 400,
    naming the parameter, where sources are asked for as well.
    """
    config = backend.config
    found = Retrieved(question(wanted.messages), None)
    needs = wanted.needs_writing() if config.answer == "quote" else None
    if needs is None:
        with traces.spanned("retrieval"):
            found = await retrieve(backend, wanted.messages, wanted.retrieval)
        if wanted.tools_asked() or wanted.schema_text():
            # "I found nothing" is neither a call nor JSON
            found = replace(found, passages=found.passages or None)
    elif _asks_for_sources(wanted.retrieval):
        raise ApiError(
            400,
            f"This server answers from sources with quotations, where `{needs}` cannot act. "
            "Send `retrieval: false`, or leave it out, for an answer of the model itself.",
            code="unsupported_parameter",
            param=needs,
        )
    return AnswerJob(
        messages=[message.plain() for message in wanted.messages],
        passages=found.passages,
        mode=config.answer,
        sampling=wanted.chat_sampling(config.max_tokens, config.temperature),
        stops=wanted.stops(),
        choices=wanted.n or 1,
        quoted_sentences=config.quoted_sentences,
        question=found.question,
        logprobs=bool(wanted.logprobs),
        tools=_tools(wanted) if wanted.tools_asked() else None,
        web=found.report,
    )


def _asks_for_sources(retrieval: bool | RetrievalOptions | None) -> bool:
    return retrieval.enabled if isinstance(retrieval, RetrievalOptions) else bool(retrieval)


def _tools(wanted: ChatRequest) -> Tools:
    choice = wanted.tool_choice or "auto"
    return Tools(
        tuple(tool.model_dump(exclude_none=True) for tool in wanted.tools or []),
        choice.model_dump() if isinstance(choice, NamedTool) else choice,
        wanted.parallel_tool_calls is not False,
    )


class Said:
    """What the events of an answer say, by choice."""

    def __init__(self, choices: int) -> None:
        self.texts = [""] * choices
        self.spoken: list[list[Spoken]] = [[] for _ in range(choices)]
        self.ends: list[Finished] = []

    def add(self, each: Event) -> None:
        if isinstance(each, Delta):
            self.texts[each.choice] += each.text
            self.spoken[each.choice] += each.spoken
        elif isinstance(each, Finished):
            self.ends.append(each)


async def whole(events: AsyncIterator[Event], choices: int) -> Said:
    said = Said(choices)
    async for each in events:
        said.add(each)
    return said


async def _sse(
    backend: Backend,
    wanted: ChatRequest,
    first: Started,
    events: AsyncGenerator[Event, None],
    chunks: out.Chunks,
    started: float,
) -> AsyncGenerator[str, None]:
    said = Said(wanted.n or 1)
    try:
        for choice in range(wanted.n or 1):
            yield chunks.delta(choice, {"role": "assistant", "content": ""}, web=first.web)
        async for each in events:
            said.add(each)
            if isinstance(each, Delta):
                delta: out.MessageDelta = {"content": each.text}
                yield chunks.delta(each.choice, delta, each.spoken if wanted.logprobs else None)
            elif isinstance(each, ToolCall):
                call: out.ToolCallDelta = {"index": each.index, **out.tool_call(each)}
                yield chunks.delta(each.choice, {"tool_calls": [call]})
            elif isinstance(each, Finished):
                text = said.texts[each.choice]
                yield chunks.finish(each, text, ids=bool(wanted.return_token_ids))
        if wanted.stream_options and wanted.stream_options.include_usage:
            completed = sum(end.completion_tokens for end in said.ends)
            yield chunks.usage(usage(first.prompt_tokens, completed))
        yield DONE
    except ApiError as error:  # the status is already sent, so the error is sent as an event
        yield event(error.body())
    finally:
        await events.aclose()
        backend.count(wanted.model, first, said.ends)
        backend.metrics.seconds.labels("chat").observe(time.monotonic() - started)
