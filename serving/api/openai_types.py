"""Requests and responses of the OpenAI chat completions API.

An unsupported parameter that would change the answer is refused by name. Unknown parameters (metadata,
user, …) are ignored, as OpenAI's server does.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from headwater.llm.examples.rankings import MAX_ANSWERS, MAX_CHARACTERS, MAX_REASON, MAX_TOKENS, TokenId
from headwater.llm.grounding.cite import Citation
from headwater.serving.errors import ApiError

MAX_CHOICES = 8
Text = Annotated[str, Field(max_length=1_000_000)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)


class TextPart(_Request):
    type: Literal["text"]
    text: Text


class Message(_Request):
    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[TextPart]

    def plain(self) -> dict[str, str]:
        """The message for the chat template, with OpenAI's newer role `developer` as `system`."""
        content = self.content if isinstance(self.content, str) else "".join(p.text for p in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": content}


def question(messages: list[Message]) -> str:
    """The retrieval query: the last user message."""
    return next((m.plain()["content"] for m in reversed(messages) if m.role == "user"), "")


class StreamOptions(_Request):
    include_usage: bool = False


class ChatRequest(_Request):
    """The body of `POST /v1/chat/completions`."""

    model: str
    messages: list[Message] = Field(min_length=1, max_length=1000)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(None, gt=0, le=1, allow_inf_nan=False)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Annotated[str, Field(min_length=1, max_length=1000)] | list[str] | None = None
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    retrieval: bool | None = None
    """Extension to the OpenAI API: false answers without sources."""
    return_token_ids: bool | None = None
    """Extension, as vLLM has it: a choice also has the ids that the model sampled, `token_ids`."""
    # Parameters of the OpenAI API that are refused, unless empty, false or zero.
    tools: list[Any] | None = None
    functions: list[Any] | None = None
    logprobs: bool | None = None
    logit_bias: dict[str, Any] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    response_format: dict[str, Any] | None = None

    @field_validator("stop", mode="after")
    @classmethod
    def _stops(cls, value: str | list[str] | None) -> str | list[str] | None:
        if isinstance(value, list) and (len(value) > 4 or not all(0 < len(s) <= 1000 for s in value)):
            raise ValueError("at most 4 stop strings of 1 to 1,000 characters each")
        return value

    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def check_supported(self) -> None:
        if self.messages[-1].role == "assistant":
            raise ApiError(
                400, "The last message must not be the assistant's.", code="invalid_value", param="messages"
            )
        if self.response_format and self.response_format.get("type") != "text":
            raise _unsupported("response_format")
        for name in ("tools", "functions", "logprobs", "logit_bias", "presence_penalty", "frequency_penalty"):
            if getattr(self, name):
                raise _unsupported(name)


class AnswerShown(_Request):
    """One answer of a ranking."""

    text: Annotated[str, Field(min_length=1, max_length=MAX_CHARACTERS)]
    token_ids: list[TokenId] = Field([], max_length=MAX_TOKENS)
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)


class RankingRequest(_Request):
    """The body of `POST /v1/rankings`: two to four answers to a prompt, in the order shown, and their ranks.

    `chosen` and `rejected` instead of `answers` and `ranks` are two answers whose order is not known.
    """

    messages: list[Message] = Field(min_length=1, max_length=1000)
    answers: list[AnswerShown] = Field(min_length=2, max_length=MAX_ANSWERS)
    ranks: list[Annotated[int, Field(ge=1, le=MAX_ANSWERS)]] = Field(min_length=2, max_length=MAX_ANSWERS)
    """1 is the best; equal ranks are a tie."""
    reason: str = Field("", max_length=MAX_REASON)
    retrieval: bool | None = None
    """As in the request for the answers: false if they were made without sources."""
    blind: bool = False
    """The answers were sampled alike and shown at random places."""

    @model_validator(mode="before")
    @classmethod
    def _pair(cls, body: Any) -> Any:
        if not isinstance(body, dict) or "answers" in body or not {"chosen", "rejected"} & body.keys():
            return body
        answers = [{"text": body.get(name)} for name in ("chosen", "rejected")]
        return body | {"answers": answers, "ranks": [1, 2], "blind": False}


def _unsupported(name: str) -> ApiError:
    return ApiError(400, f"`{name}` is not supported.", code="unsupported_parameter", param=name)


R = TypeVar("R", bound=_Request)


def parse(kind: type[R], body: bytes) -> R:
    """Parse a request body. Raises ApiError 400 naming the first invalid value."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        # Pydantic adds the type names of union branches to the path; show only the field's path.
        place = [str(part) for part in first["loc"] if not str(part).startswith(("constrained", "list["))]
        param = ".".join(place) or None
        if first["type"] == "json_invalid":
            message, code = f"The body is not valid JSON: {first['msg']}", "invalid_json"
        elif first["type"] == "missing":
            message, code = f"`{param}` is missing.", "missing_required_parameter"
        else:
            message, code = f"`{param}`: {first['msg']}" if param else first["msg"], "invalid_value"
        raise ApiError(400, message, code=code, param=param) from error


def citation_fields(citations: list[Citation]) -> list[dict[str, Any]]:
    """Citations as the extension `citations`, with all fields."""
    return [asdict(citation) for citation in citations]


def url_citations(citations: list[Citation]) -> list[dict[str, Any]]:
    """Citations as OpenAI `url_citation` annotations; their span is the marker in the text."""
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


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def completion(
    identifier: str,
    model: str,
    choices: Sequence[tuple[str, str, list[Citation], Mapping[str, Any]]],
    used: dict[str, int],
) -> dict[str, Any]:
    """The response body; `choices` are (text, finish reason, citations, further fields)."""
    return {
        "id": identifier,
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [
            {
                "index": index,
                "message": {
                    "role": "assistant",
                    "content": text,
                    "refusal": None,
                    "annotations": url_citations(cited),
                    "citations": citation_fields(cited),
                },
                "logprobs": None,
                "finish_reason": reason,
                **more,
            }
            for index, (text, reason, cited, more) in enumerate(choices)
        ],
        "usage": used,
        "citations": citation_fields(choices[0][2]),  # of the first choice
    }


class Chunks:
    """The chunks of one streamed response, as server-sent events."""

    def __init__(self, identifier: str, model: str) -> None:
        self._head = {
            "id": identifier,
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": model,
        }

    def delta(self, index: int, delta: dict[str, Any]) -> str:
        return self._event(choices=[_choice(index, delta)])

    def finish(self, index: int, reason: str, citations: list[Citation], more: dict[str, Any]) -> str:
        """The last chunk of a choice, with its citations and further fields."""
        delta = {"annotations": url_citations(citations)} if citations else {}
        choice = _choice(index, delta, reason) | more
        return self._event(choices=[choice], citations=citation_fields(citations))

    def usage(self, used: dict[str, int]) -> str:
        return self._event(choices=[], usage=used)

    def _event(self, **fields: Any) -> str:
        return event({**self._head, **fields})


def _choice(index: int, delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}


def event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


DONE = "data: [DONE]\n\n"
