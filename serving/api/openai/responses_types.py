"""The request of `POST /v1/responses` and the objects of its response.

A request is turned into one for `/v1/chat/completions`: both are answered alike.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from headwater.serving.api.bodies import MAX_TOP_LOGPROBS, Body, RequestBody, Text, unsupported
from headwater.serving.api.chat_types import (
    AssistantCall,
    CalledFunction,
    ChatRequest,
    Function,
    JsonSchema,
    Message,
    Name,
    NamedTool,
    ObjectFormat,
    ResponseFormat,
    RetrievalOptions,
    SchemaFormat,
    Tool,
)
from headwater.serving.api.openai.chat_answers import RetrievalOut, SourceOut

NOT_KEPT = {"previous_response_id", "conversation"}
"""They name what an earlier request has left on the server; this one keeps nothing. Send the items."""


class ContentPart(Body):
    type: Literal["input_text", "output_text"]
    text: Text


class MessageItem(Body):
    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[ContentPart]

    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(p.text for p in self.content)


class CallItem(Body):
    """A function call of an earlier response."""

    type: Literal["function_call"]
    call_id: str = Field(max_length=200)
    name: Name
    arguments: Text


class CallOutputItem(Body):
    """What the function gave."""

    type: Literal["function_call_output"]
    call_id: str = Field(max_length=200)
    output: Text | list[ContentPart]

    def text(self) -> str:
        return self.output if isinstance(self.output, str) else "".join(p.text for p in self.output)


class FunctionTool(Body):
    type: Literal["function"]
    name: Name
    description: Text | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class NamedFunction(Body):
    type: Literal["function"]
    name: Name


class PlainText(Body):
    type: Literal["text"]


class JsonObject(Body):
    type: Literal["json_object"]


class JsonSchemaText(JsonSchema):
    type: Literal["json_schema"]


class TextSettings(Body):
    format: Annotated[PlainText | JsonObject | JsonSchemaText, Field(discriminator="type")] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None
    """`medium` alone."""


class ResponsesRequest(RequestBody):
    """The body of `POST /v1/responses`. Nothing is kept: `previous_response_id` is refused."""

    example: ClassVar[dict[str, Any]] = {"model": "headwater", "input": "What is the news?"}

    model: str
    input: (
        Text | Annotated[list[MessageItem | CallItem | CallOutputItem], Field(min_length=1, max_length=1000)]
    )
    instructions: Text | None = None
    max_output_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(None, gt=0, le=1, allow_inf_nan=False)
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    include: list[Literal["message.output_text.logprobs"]] | None = None
    tools: list[FunctionTool] | None = Field(None, max_length=128)
    tool_choice: Literal["none", "auto", "required"] | NamedFunction | None = None
    parallel_tool_calls: bool | None = None
    text: TextSettings | None = None
    stream: bool | None = None
    metadata: dict[str, Annotated[str, Field(max_length=512)]] | None = Field(None, max_length=16)
    """Repeated in the response, and nothing else."""
    retrieval: bool | RetrievalOptions | None = None
    """Extension, as in `/v1/chat/completions`."""

    def check_supported(self) -> None:
        super().check_supported()
        if self.text and self.text.verbosity not in (None, "medium"):
            raise unsupported("text.verbosity")

    def chat(self) -> ChatRequest:
        """The same request to `/v1/chat/completions`."""
        choice = self.tool_choice
        named = {"type": "function", "function": {"name": getattr(choice, "name", "")}}
        request = ChatRequest(
            model=self.model,
            messages=self._messages(),
            max_tokens=self.max_output_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            logprobs=bool(self.include) or bool(self.top_logprobs),
            top_logprobs=self.top_logprobs,
            tools=[
                Tool(type="function", function=Function(**tool.model_dump(exclude={"type"})))
                for tool in self.tools
            ]
            if self.tools
            else None,
            tool_choice=NamedTool.model_validate(named) if isinstance(choice, NamedFunction) else choice,
            parallel_tool_calls=self.parallel_tool_calls,
            response_format=self._format(),
            retrieval=self.retrieval,
        )
        request.check_supported()
        return request

    def _messages(self) -> list[Message]:
        made = [Message(role="system", content=self.instructions)] if self.instructions else []
        if isinstance(self.input, str):
            return [*made, Message(role="user", content=self.input)]
        for item in self.input:
            if isinstance(item, MessageItem):
                made.append(Message(role=item.role, content=item.text()))
            elif isinstance(item, CallOutputItem):
                made.append(Message(role="tool", content=item.text(), tool_call_id=item.call_id))
            else:
                function = CalledFunction(name=item.name, arguments=item.arguments)
                call = AssistantCall(id=item.call_id, function=function)
                if made and made[-1].tool_calls:  # calls of one turn are one message
                    made[-1].tool_calls.append(call)
                else:
                    made.append(Message(role="assistant", tool_calls=[call]))
        return made

    def _format(self) -> ResponseFormat | None:
        wanted = self.text.format if self.text else None
        if isinstance(wanted, JsonObject):
            return ObjectFormat(type="json_object")
        if isinstance(wanted, JsonSchemaText):
            return SchemaFormat(type="json_schema", json_schema=wanted)
        return None

    def settings(self) -> dict[str, Any]:
        """What the response repeats of the request."""
        chosen = self.tool_choice or "auto"
        wanted = self.text.format if self.text else None
        return {
            "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens,
            "metadata": self.metadata or {},
            "parallel_tool_calls": self.parallel_tool_calls is not False,
            "previous_response_id": None,
            "store": False,
            "temperature": self.temperature,
            "text": {"format": wanted.model_dump(by_alias=True) if wanted else {"type": "text"}},
            "tool_choice": chosen if isinstance(chosen, str) else chosen.model_dump(),
            "tools": [{"strict": None, "parameters": None, **tool.model_dump()} for tool in self.tools or []],
            "top_logprobs": self.top_logprobs or 0,
            "top_p": self.top_p,
            "truncation": "disabled",
        }


class TextAnnotation(TypedDict):
    type: Literal["url_citation"]
    start_index: int
    end_index: int
    title: str
    url: str


class TextLogprob(TypedDict):
    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: NotRequired[list[Any]]


class OutputText(TypedDict):
    type: Literal["output_text"]
    text: str
    annotations: list[TextAnnotation]
    logprobs: list[TextLogprob]


Status = Literal["in_progress", "completed", "incomplete"]


class OutputMessage(TypedDict):
    """`sources` is an extension, as in `/v1/chat/completions`."""

    type: Literal["message"]
    id: str
    status: Status
    role: Literal["assistant"]
    content: list[OutputText]
    sources: NotRequired[list[SourceOut]]


class OutputCall(TypedDict):
    type: Literal["function_call"]
    id: str
    call_id: str
    name: str
    arguments: str
    status: Status


class InputDetails(TypedDict):
    cached_tokens: int
    cache_write_tokens: int


class OutputDetails(TypedDict):
    reasoning_tokens: int


class ResponseUsage(TypedDict):
    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class Incomplete(TypedDict):
    reason: Literal["max_output_tokens"]


class ResponseError(TypedDict):
    code: str
    message: str


class ResponseObject(TypedDict):
    """A response. Its settings are those of the request."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    error: ResponseError | None
    incomplete_details: Incomplete | None
    model: str
    output: list[OutputMessage | OutputCall]
    usage: ResponseUsage | None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, Any]
    parallel_tool_calls: bool
    previous_response_id: None
    store: bool
    temperature: float | None
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float | None
    truncation: Literal["disabled"]
    retrieval: NotRequired[RetrievalOut]
