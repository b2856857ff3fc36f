"""What is asked of the model, and the events of its answer."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from headwater.llm.grounding.cite import Citation
from headwater.llm.grounding.passages import Passage
from headwater.llm.inference.base import Sampling
from headwater.serving.models import Served
from headwater.serving.retrieval.passages import WebPassage
from headwater.serving.web.pages import Unread

Message = dict[str, Any]


@dataclass(frozen=True)
class WebReport:
    """What was read of the live web for a request."""

    pages: tuple[tuple[str, str], ...]
    """URL and title."""
    failures: tuple[Unread, ...]


@dataclass(frozen=True)
class Tools:
    """Functions that the model may call, and which it must, both in OpenAI's format."""

    functions: tuple[dict[str, Any], ...]
    choice: str | dict[str, Any] = "auto"
    parallel: bool = True
    """False: only the first call counts."""


@dataclass(frozen=True)
class AnswerJob:
    """A validated request, with the passages found for it (None: retrieval is off)."""

    messages: list[Message]
    passages: list[Passage] | None
    mode: Literal["quote", "write"]
    sampling: Sampling
    stops: tuple[str, ...] = ()
    choices: int = 1
    quoted_sentences: int = 3
    question: str = ""
    """The last question, complete without the conversation; empty: as it was asked."""
    logprobs: bool = False
    """Whether deltas carry their tokens."""
    tools: Tools | None = None
    web: WebReport | None = None
    """What was read of the live web for it."""
    nonce: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Its own; the ids of calls are made of it."""
    model: Served | None = None
    """None: the endpoint's first."""


@dataclass(frozen=True)
class CompletionJob:
    """Texts or ids that the model goes on with, without a chat template."""

    prompts: Sequence[str | Sequence[int]]
    sampling: Sampling
    stops: tuple[str, ...] = ()
    choices: int = 1
    """Of each prompt. Choice c of prompt p has the number p × choices + c."""
    echo: bool = False
    logprobs: bool = False
    model: Served | None = None
    """None: the endpoint's first."""


@dataclass(frozen=True)
class Spoken:
    """A token with its text."""

    id: int
    text: str
    data: bytes
    """Its UTF-8; a part of a character where `text` shows U+FFFD."""
    logprob: float | None
    """None for the first token of a prompt."""
    top: tuple[tuple[str, bytes, float], ...] = ()
    """(text, UTF-8, log-probability) of the likeliest tokens there."""


@dataclass(frozen=True)
class Started:
    prompt_tokens: int
    web: WebReport | None = None


@dataclass(frozen=True)
class Delta:
    choice: int
    text: str
    spoken: tuple[Spoken, ...] = ()
    """The tokens that made it, if asked for."""


@dataclass(frozen=True)
class ToolCall:
    """A call of a function; `arguments` is JSON text."""

    choice: int
    index: int
    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Source:
    """What supports a sentence of an answer."""

    citation: Citation
    quote: str
    """The words of the document at the citation's place in the source."""
    score: float
    """Of the passage, from the search."""
    origin: Literal["index", "web"] = "index"


@dataclass(frozen=True)
class Finished:
    choice: int
    reason: Literal["stop", "length", "tool_calls"]
    completion_tokens: int
    citations: list[Citation] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    """As the model sampled them, with those behind a stop string; none for quotations."""
    sources: list[Source] = field(default_factory=list)
    """One for each citation."""
    calls: list[ToolCall] = field(default_factory=list)


Event = Started | Delta | ToolCall | Finished
Job = AnswerJob | CompletionJob


def sources_of(citations: Sequence[Citation], passages: Sequence[Passage]) -> list[Source]:
    """The source of each citation."""
    known = {(p.document_id, p.start, p.text): p for p in passages}
    found = [(c, known.get((c.document_id, c.quote_start, c.quote))) for c in citations]
    return [
        Source(
            c,
            c.quote[c.source_start - c.quote_start : c.source_end - c.quote_start],
            passage.score if passage else 0.0,
            "web" if isinstance(passage, WebPassage) else "index",
        )
        for c, passage in found
    ]
