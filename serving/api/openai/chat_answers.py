"""Responses of `POST /v1/chat/completions`, and how they are made of what an answer's events carry."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from headwater.llm.grounding.cite import Citation
from headwater.serving.answers.events import Finished, Source, Spoken, ToolCall, WebReport
from headwater.serving.api.bodies import Usage, event

FinishReason = Literal["stop", "length", "tool_calls"]


class UrlCitation(TypedDict):
    start_index: int
    end_index: int
    title: str
    url: str


class Annotation(TypedDict):
    type: Literal["url_citation"]
    url_citation: UrlCitation


class CitationOut(TypedDict):
    """As `llm.grounding.cite.Citation`."""

    index: int
    title: str
    url: str
    document_id: str
    quote: str
    start: int
    end: int
    marker_start: int
    marker_end: int
    source_start: int
    source_end: int
    quote_start: int


class Span(TypedDict):
    """[start, end) of a text, in code points, and in the units of UTF-16 (JavaScript, Java) and UTF-8."""

    start: int
    end: int
    utf16_start: int
    utf16_end: int
    utf8_start: int
    utf8_end: int


class SourceSpan(TypedDict):
    """[start, end) of a document's text, in code points."""

    start: int
    end: int


class SourceOut(TypedDict):
    """What supports one sentence of an answer: `answer` is its place, and `quote` the words at `source`."""

    index: int
    id: str
    title: str
    url: str
    quote: str
    score: float
    origin: Literal["index", "web"]
    answer: Span
    source: SourceSpan


class UnreadOut(TypedDict):
    """A page of the live web, or (with an empty URL) a search, that could not be used, and why."""

    url: str
    reason: str
    detail: str


class PageOut(TypedDict):
    url: str
    title: str


class RetrievalOut(TypedDict):
    """What was read of the live web for the answer."""

    pages: list[PageOut]
    failures: list[UnreadOut]


class FunctionOut(TypedDict):
    """`arguments` is JSON text."""

    name: str
    arguments: str


class ToolCallOut(TypedDict):
    id: str
    type: Literal["function"]
    function: FunctionOut


class MessageOut(TypedDict):
    role: Literal["assistant"]
    content: str | None
    refusal: None
    annotations: list[Annotation]
    citations: list[CitationOut]
    sources: list[SourceOut]
    tool_calls: NotRequired[list[ToolCallOut]]


class TopLogprob(TypedDict):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class Logprobs(TypedDict):
    content: list[TokenLogprob]
    refusal: None


class Choice(TypedDict):
    index: int
    message: MessageOut
    logprobs: Logprobs | None
    finish_reason: FinishReason
    token_ids: NotRequired[list[int]]


class ChatResponse(TypedDict):
    """A whole answer. Its own `citations` are those of the first choice."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    citations: list[CitationOut]
    retrieval: NotRequired[RetrievalOut]
    system_fingerprint: NotRequired[str]
    """Names the very model that wrote it, also after another one has taken its name."""


class ToolCallDelta(TypedDict):
    index: int
    id: str
    type: Literal["function"]
    function: FunctionOut


class MessageDelta(TypedDict):
    role: NotRequired[Literal["assistant"]]
    content: NotRequired[str]
    tool_calls: NotRequired[list[ToolCallDelta]]
    annotations: NotRequired[list[Annotation]]
    sources: NotRequired[list[SourceOut]]


class ChunkChoice(TypedDict):
    index: int
    delta: MessageDelta
    logprobs: Logprobs | None
    finish_reason: FinishReason | None
    token_ids: NotRequired[list[int]]


class ChatChunk(TypedDict):
    """One event of a streamed answer. The first one has what was read of the live web, the last one of a
    choice its citations and sources, the last one of all the usage, if asked for."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    system_fingerprint: str
    usage: NotRequired[Usage]
    citations: NotRequired[list[CitationOut]]
    retrieval: NotRequired[RetrievalOut]


def citation_fields(citations: Sequence[Citation]) -> list[CitationOut]:
    return [CitationOut(**asdict(citation)) for citation in citations]  # type: ignore[typeddict-item]


def url_citations(citations: Sequence[Citation]) -> list[Annotation]:
    """Citations as OpenAI's annotations; their span is the marker in the text."""
    return [
        {
            "type": "url_citation",
            "url_citation": {
                "start_index": c.marker_start,
                "end_index": c.marker_end,
                "title": c.title,
                "url": c.url,
            },
        }
        for c in citations
    ]


def retrieval_fields(web: WebReport) -> RetrievalOut:
    return {
        "pages": [{"url": url, "title": title} for url, title in web.pages],
        "failures": [
            {"url": each.url, "reason": each.reason, "detail": each.detail} for each in web.failures
        ],
    }


def source_fields(sources: Sequence[Source], text: str) -> list[SourceOut]:
    """`text`: the whole answer."""
    return [
        {
            "index": source.citation.index,
            "id": source.citation.document_id,
            "title": source.citation.title,
            "url": source.citation.url,
            "quote": source.quote,
            "score": source.score,
            "origin": source.origin,
            "answer": span(text, source.citation.start, source.citation.end),
            "source": {"start": source.citation.source_start, "end": source.citation.source_end},
        }
        for source in sources
    ]


def span(text: str, start: int, end: int) -> Span:
    def units(place: int, encoding: str, size: int) -> int:
        return len(text[:place].encode(encoding, "surrogatepass")) // size

    return {
        "start": start,
        "end": end,
        "utf16_start": units(start, "utf-16-le", 2),
        "utf16_end": units(end, "utf-16-le", 2),
        "utf8_start": units(start, "utf-8", 1),
        "utf8_end": units(end, "utf-8", 1),
    }


def logprobs(spoken: Sequence[Spoken]) -> Logprobs:
    """Log-probabilities of an answer's tokens, in OpenAI's format for chats."""
    return {
        "content": [
            {
                "token": token.text,
                "logprob": token.logprob or 0.0,
                "bytes": list(token.data),
                "top_logprobs": [
                    {"token": text, "logprob": logprob, "bytes": list(data)}
                    for text, data, logprob in token.top
                ],
            }
            for token in spoken
        ],
        "refusal": None,
    }


def tool_call(call: ToolCall) -> ToolCallOut:
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }


def choice(text: str, end: Finished, spoken: Sequence[Spoken] | None = None, *, ids: bool = False) -> Choice:
    """One choice of a whole answer; `spoken`: its tokens, if their log-probabilities are asked for."""
    message: MessageOut = {
        "role": "assistant",
        "content": None if end.calls and not text else text,
        "refusal": None,
        "annotations": url_citations(end.citations),
        "citations": citation_fields(end.citations),
        "sources": source_fields(end.sources, text),
    }
    if end.calls:
        message["tool_calls"] = [tool_call(call) for call in end.calls]
    made: Choice = {
        "index": end.choice,
        "message": message,
        "logprobs": None if spoken is None else logprobs(spoken),
        "finish_reason": end.reason,
    }
    if ids:
        made["token_ids"] = end.token_ids
    return made


def completion(
    identifier: str, model: str, choices: list[Choice], used: Usage, web: WebReport | None = None
) -> ChatResponse:
    """The response's body."""
    body: ChatResponse = {
        "id": identifier,
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": choices,
        "usage": used,
        "citations": choices[0]["message"]["citations"] if choices else [],
    }
    if web is not None:
        body["retrieval"] = retrieval_fields(web)
    return body


class Chunks:
    """The chunks of one streamed response, as server-sent events."""

    def __init__(self, identifier: str, model: str, fingerprint: str) -> None:
        self._head: dict[str, Any] = {
            "id": identifier,
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": fingerprint,
        }

    def delta(
        self,
        index: int,
        delta: MessageDelta,
        spoken: Sequence[Spoken] | None = None,
        web: WebReport | None = None,
    ) -> str:
        more = {} if web is None else {"retrieval": retrieval_fields(web)}
        return self._event(choices=[_chunk(index, delta, spoken)], **more)

    def finish(self, end: Finished, text: str, *, ids: bool = False) -> str:
        """The last chunk of a choice, with its citations and sources. `text`: of the whole choice."""
        delta: MessageDelta = {}
        if end.citations:
            delta["annotations"] = url_citations(end.citations)
            delta["sources"] = source_fields(end.sources, text)
        last = _chunk(end.choice, delta)
        last["finish_reason"] = end.reason
        if ids:
            last["token_ids"] = end.token_ids
        return self._event(choices=[last], citations=citation_fields(end.citations))

    def usage(self, used: Usage) -> str:
        return self._event(choices=[], usage=used)

    def _event(self, **fields: Any) -> str:
        return event({**self._head, **fields})


def _chunk(index: int, delta: MessageDelta, spoken: Sequence[Spoken] | None = None) -> ChunkChoice:
    said = None if spoken is None else logprobs(spoken)
    return {"index": index, "delta": delta, "logprobs": said, "finish_reason": None}
