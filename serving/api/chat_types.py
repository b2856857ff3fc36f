"""The request of `POST /v1/chat/completions`."""

from __future__ import annotations

import json
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from headwater.data_pipeline.crawl.urls import MAX_URL
from headwater.llm.inference.base import Sampling
from headwater.serving.answers.query import standalone
from headwater.serving.api.bodies import (
    MAX_CHOICES,
    MAX_TOP_LOGPROBS,
    Body,
    SamplingBody,
    StreamOptions,
    Text,
)
from headwater.serving.errors import ApiError
from headwater.serving.web.pages import MAX_URLS, without_urls

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class TextPart(Body):
    type: Literal["text"]
    text: Text


class CalledFunction(Body):
    name: Name
    arguments: Text


class AssistantCall(Body):
    """A call that the assistant made earlier in the conversation."""

    id: str = Field(max_length=200)
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(Body):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | list[TextPart] | None = None
    """Null only with `tool_calls`."""
    tool_calls: list[AssistantCall] | None = Field(None, max_length=128)
    """Of the role `assistant`."""
    tool_call_id: str | None = Field(None, max_length=200)
    """Of the role `tool`: the call that it answers."""

    def plain(self) -> dict[str, Any]:
        """The message for the chat template, with OpenAI's newer role `developer` as `system`."""
        parts = self.content if isinstance(self.content, list) else []
        content = self.content if isinstance(self.content, str) else "".join(p.text for p in parts)
        message: dict[str, Any] = {
            "role": "system" if self.role == "developer" else self.role,
            "content": content,
        }
        if self.tool_calls:
            message["tool_calls"] = [call.model_dump() for call in self.tool_calls]
        if self.tool_call_id:
            message["tool_call_id"] = self.tool_call_id
        return message


def question(messages: list[Message]) -> str:
    """The retrieval query: the last user message, complete without the conversation before it."""
    said = (m.plain()["content"] for m in messages if m.role == "user")
    return standalone([without_urls(each) or each for each in said])


class RetrievalOptions(Body):
    """Which passages an answer uses; what is left out is the server's setting."""

    enabled: bool = True
    passages: int | None = Field(None, ge=1, le=20)
    per_document: int | None = Field(None, ge=1, le=20)
    min_relevance: float | None = Field(None, ge=0, le=1, allow_inf_nan=False)
    web: bool | None = None
    """Read pages of the live web: those that the question names, else those that a search finds for it."""
    urls: list[Annotated[str, Field(min_length=1, max_length=MAX_URL)]] = Field([], max_length=MAX_URLS)
    """Pages of the live web to read."""


class Function(Body):
    name: Name
    description: Text | None = None
    parameters: dict[str, Any] | None = None
    """JSON Schema of the arguments; without it, none."""
    strict: bool | None = None


class Tool(Body):
    type: Literal["function"]
    function: Function


class FunctionName(Body):
    name: Name


class NamedTool(Body):
    type: Literal["function"]
    function: FunctionName


class JsonSchema(Body):
    name: Name
    schema_: dict[str, Any] = Field({}, alias="schema")
    description: Text | None = None
    strict: bool | None = None


class TextFormat(Body):
    type: Literal["text"]


class ObjectFormat(Body):
    type: Literal["json_object"]


class SchemaFormat(Body):
    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat = Annotated[TextFormat | ObjectFormat | SchemaFormat, Field(discriminator="type")]


class ChatRequest(SamplingBody):
    """The body of `POST /v1/chat/completions`."""

    example: ClassVar[dict[str, Any]] = {
        "model": "headwater",
        "messages": [{"role": "user", "content": "What is the news?"}],
    }

    model: str
    messages: list[Message] = Field(min_length=1, max_length=1000)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    response_format: ResponseFormat | None = None
    tools: list[Tool] | None = Field(None, max_length=128)
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    retrieval: bool | RetrievalOptions | None = None
    """Extension to the OpenAI API: false answers without sources."""
    return_token_ids: bool | None = None
    """Extension, as vLLM has it: a choice also has the ids that the model sampled, `token_ids`."""

    def check_supported(self) -> None:
        super().check_supported()
        for place, message in enumerate(self.messages):
            self._check_message(message, f"messages.{place}")
        if self.messages[-1].role == "assistant":
            raise _wrong("The last message must not be the assistant's.", "messages")
        if self.top_logprobs and not self.logprobs:
            raise _wrong("`top_logprobs` needs `logprobs`.", "top_logprobs")
        names = [tool.function.name for tool in self.tools or []]
        if len(set(names)) < len(names):
            raise _wrong("Two tools have the same name.", "tools")
        for place, tool in enumerate(self.tools or []):
            if (tool.function.parameters or {}).get("type", "object") != "object":
                param = f"tools.{place}.function.parameters"
                raise _wrong("The parameters of a function are an object.", param)
        if self.tool_choice in ("auto", "required") or isinstance(self.tool_choice, NamedTool):
            if not names:
                raise _wrong("`tool_choice` needs `tools`.", "tool_choice")
            if isinstance(self.tool_choice, NamedTool) and self.tool_choice.function.name not in names:
                raise _wrong(f"There is no tool `{self.tool_choice.function.name}`.", "tool_choice")
        if self.tools_asked() and self.schema_text():
            raise _wrong("`response_format` and `tools` cannot both act.", "response_format")

    @staticmethod
    def _check_message(message: Message, place: str) -> None:
        if message.content is None and not message.tool_calls:
            raise ApiError(
                400,
                f"`{place}.content` is missing.",
                code="missing_required_parameter",
                param=f"{place}.content",
            )
        if message.tool_calls and message.role != "assistant":
            raise _wrong("Only the assistant calls tools.", f"{place}.tool_calls")
        if message.role == "tool" and not message.tool_call_id:
            raise ApiError(
                400,
                f"`{place}.tool_call_id` is missing.",
                code="missing_required_parameter",
                param=f"{place}.tool_call_id",
            )

    def tools_asked(self) -> bool:
        return bool(self.tools) and self.tool_choice != "none"

    def schema_text(self) -> str | None:
        """The JSON Schema that the whole answer must follow."""
        if isinstance(self.response_format, ObjectFormat):
            return json.dumps({"type": "object"})
        if isinstance(self.response_format, SchemaFormat):
            return json.dumps(self.response_format.json_schema.schema_)
        return None

    def chat_sampling(self, max_tokens: int, temperature: float) -> Sampling:
        """`max_tokens` and `temperature`: where the request sets none."""
        return self.sampling(
            self.max_completion_tokens or self.max_tokens or max_tokens,
            temperature,
            top_logprobs=self.top_logprobs or 0,
            schema=self.schema_text(),
        )

    def needs_writing(self) -> str | None:
        """The first parameter that a quotation cannot follow; None where there is none."""
        if self.schema_text():
            return "response_format"
        if self.tools_asked():
            return "tools"
        if any(m.role == "tool" or m.tool_calls for m in self.messages):
            return "messages"
        neutral = Sampling()
        mine = self.chat_sampling(self.min_tokens or 1, 0.0)
        quoted = ("max_tokens", "temperature", "top_p", "seed", "stop_ids", "schema")
        names = [name for name in vars(mine) if name not in quoted]
        changed = (name for name in names if getattr(mine, name) != getattr(neutral, name))
        return "logprobs" if self.logprobs else next(changed, None)


def _wrong(message: str, param: str) -> ApiError:
    return ApiError(400, message, code="invalid_value", param=param)
