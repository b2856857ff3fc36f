"""`POST /v1/responses`: OpenAI's newer API, whole or as a stream of named events."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from headwater.serving.answers.events import Delta, Event, Finished, Spoken, Started, ToolCall
from headwater.serving.api.backend import Backend
from headwater.serving.api.bodies import event, parse, usage
from headwater.serving.api.limits import read_json_body
from headwater.serving.api.openai.chat import job_of
from headwater.serving.api.openai.chat_answers import logprobs, retrieval_fields, source_fields, url_citations
from headwater.serving.api.openai.responses_types import (
    OutputCall,
    OutputMessage,
    OutputText,
    ResponseObject,
    ResponsesRequest,
    ResponseUsage,
    Status,
)
from headwater.serving.api.streaming import EventStream
from headwater.serving.errors import ApiError


async def responses(backend: Backend, request: Request) -> Response:
    started = time.monotonic()
    wanted = parse(ResponsesRequest, await read_json_body(request, backend.config.max_body_bytes))
    model = backend.model(wanted.model)
    asked = wanted.chat()
    events = backend.answer(lambda: job_of(backend, asked), model, started, request.state.key)
    first = await anext(events)
    assert isinstance(first, Started)
    told = _Told(wanted, backend, bool(asked.logprobs))
    if wanted.stream:
        return EventStream(_sse(backend, told, first, events, started))
    async for _ in told.all(first, events):
        pass
    return JSONResponse(told.response)


async def _sse(
    backend: Backend, told: _Told, first: Started, events: AsyncGenerator[Event, None], started: float
) -> AsyncGenerator[str, None]:
    try:
        async for each in told.all(first, events):
            yield event(each, each["type"])
    except ApiError as error:  # the status is already sent
        for failed in told.failed(error):
            yield event(failed, failed["type"])
    finally:
        await events.aclose()
        backend.metrics.seconds.labels("responses").observe(time.monotonic() - started)


class _Told:
    """The response as it grows, and the events that tell of it, in OpenAI's order."""

    def __init__(self, wanted: ResponsesRequest, backend: Backend, with_logprobs: bool) -> None:
        self._backend, self._with_logprobs = backend, with_logprobs
        settings = wanted.settings()
        if settings["temperature"] is None:
            settings["temperature"] = backend.config.temperature
        if settings["top_p"] is None:
            settings["top_p"] = 1.0
        self.response: ResponseObject = {
            "id": f"resp_{uuid.uuid4().hex}",
            "object": "response",
            "created_at": int(time.time()),
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "model": wanted.model,
            "output": [],
            "usage": None,
            **settings,  # type: ignore[typeddict-item]
        }
        self._number = 0
        self._message: OutputMessage | None = None

    async def all(self, first: Started, events: AsyncGenerator[Event, None]) -> AsyncIterator[dict[str, Any]]:
        if first.web is not None:
            self.response["retrieval"] = retrieval_fields(first.web)
        yield self._event("response.created", response=self.response)
        yield self._event("response.in_progress", response=self.response)
        ends = list[Finished]()
        async for each in events:
            if isinstance(each, Delta):
                for told in self._text(each):
                    yield told
            elif isinstance(each, ToolCall):
                for told in self._call(each):
                    yield told
            elif isinstance(each, Finished):
                ends.append(each)
        for end in ends:  # one, told when the request has left its place
            for told in self._end(first, end):
                yield told

    def failed(self, error: ApiError) -> list[dict[str, Any]]:
        self.response["status"] = "failed"
        self.response["error"] = {"code": "server_error", "message": error.message}
        return [self._event("response.failed", response=self.response)]

    def _text(self, delta: Delta) -> list[dict[str, Any]]:
        told = [] if self._message else self._opened()
        part = self._part()
        part["text"] += delta.text
        said = self._logprobs(delta.spoken)
        part["logprobs"] += said
        return [
            *told,
            self._event("response.output_text.delta", **self._place(), delta=delta.text, logprobs=said),
        ]

    def _opened(self) -> list[dict[str, Any]]:
        self._message = {
            "type": "message",
            "id": f"msg_{uuid.uuid4().hex}",
            "status": "in_progress",
            "role": "assistant",
            "content": [],
        }
        self.response["output"].append(self._message)
        added = self._event(
            "response.output_item.added",
            output_index=len(self.response["output"]) - 1,
            item={**self._message, "content": []},
        )
        part: OutputText = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        self._message["content"].append(part)
        return [added, self._event("response.content_part.added", **self._place(), part={**part})]

    def _closed(self, end: Finished) -> list[dict[str, Any]]:
        """The end of the message, with its citations."""
        message = self._message
        if message is None:
            return []
        part = self._part()
        told = []
        for number, cited in enumerate(url_citations(end.citations)):
            annotation = {"type": "url_citation", **cited["url_citation"]}
            part["annotations"].append(annotation)  # type: ignore[arg-type]
            told.append(
                self._event(
                    "response.output_text.annotation.added",
                    **self._place(),
                    annotation_index=number,
                    annotation=annotation,
                )
            )
        message["status"] = _status(end)
        message["sources"] = source_fields(end.sources, part["text"])
        told.append(
            self._event(
                "response.output_text.done", **self._place(), text=part["text"], logprobs=part["logprobs"]
            )
        )
        told.append(self._event("response.content_part.done", **self._place(), part=part))
        index = self._place()["output_index"]
        told.append(self._event("response.output_item.done", output_index=index, item=message))
        return told

    def _call(self, call: ToolCall) -> list[dict[str, Any]]:
        item: OutputCall = {
            "type": "function_call",
            "id": f"fc_{uuid.uuid4().hex}",
            "call_id": call.id,
            "name": call.name,
            "arguments": call.arguments,
            "status": "completed",
        }
        self.response["output"].append(item)
        index = len(self.response["output"]) - 1
        place = {"item_id": item["id"], "output_index": index}
        begun = {**item, "arguments": "", "status": "in_progress"}
        done = "response.function_call_arguments.done"
        return [
            self._event("response.output_item.added", output_index=index, item=begun),
            self._event("response.function_call_arguments.delta", **place, delta=call.arguments),
            self._event(done, **place, name=call.name, arguments=call.arguments),
            self._event("response.output_item.done", output_index=index, item=item),
        ]

    def _end(self, first: Started, end: Finished) -> list[dict[str, Any]]:
        told = [] if self._message or end.calls else self._opened()
        told += self._closed(end)
        used = self._backend.count(self.response["model"], first, [end])
        self.response["usage"] = _usage(used["prompt_tokens"], used["completion_tokens"])
        status = _status(end)
        self.response["status"] = status
        if status == "incomplete":
            self.response["incomplete_details"] = {"reason": "max_output_tokens"}
        return [*told, self._event(f"response.{status}", response=self.response)]

    def _part(self) -> OutputText:
        assert self._message is not None
        return self._message["content"][0]

    def _place(self) -> dict[str, Any]:
        assert self._message is not None
        index = self.response["output"].index(self._message)
        return {"item_id": self._message["id"], "output_index": index, "content_index": 0}

    def _logprobs(self, spoken: tuple[Spoken, ...]) -> list[Any]:
        return list(logprobs(spoken)["content"]) if self._with_logprobs else []

    def _event(self, kind: str, /, **fields: Any) -> dict[str, Any]:
        self._number += 1
        return {"type": kind, "sequence_number": self._number - 1, **fields}


def _status(end: Finished) -> Status:
    return "incomplete" if end.reason == "length" else "completed"


def _usage(prompt_tokens: int, completion_tokens: int) -> ResponseUsage:
    used = usage(prompt_tokens, completion_tokens)
    return {
        "input_tokens": used["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": used["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": used["total_tokens"],
    }
