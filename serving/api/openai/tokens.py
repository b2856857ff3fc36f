"""`POST /tokenize` and `POST /detokenize`, in the shape of vLLM's."""

from __future__ import annotations

from typing import Any, ClassVar, NotRequired

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field
from typing_extensions import TypedDict

from headwater.serving.answers.events import Spoken
from headwater.serving.api.backend import Backend
from headwater.serving.api.bodies import RequestBody, Text, TokenIds, parse
from headwater.serving.api.chat_types import Message
from headwater.serving.api.limits import read_json_body
from headwater.serving.errors import ApiError


class TokenizeRequest(RequestBody):
    """The body of `POST /tokenize`: a text, or a conversation, whose prompt is tokenized."""

    example: ClassVar[dict[str, Any]] = {"prompt": "The old bridge"}

    model: str | None = None
    prompt: Text | None = None
    messages: list[Message] | None = Field(None, min_length=1, max_length=1000)
    add_special_tokens: bool = True
    """To a text. The chat template writes those of a conversation."""
    return_token_strs: bool | None = None

    def check_supported(self) -> None:
        super().check_supported()
        if (self.prompt is None) == (self.messages is None):
            message = "Send either `prompt` or `messages`."
            raise ApiError(400, message, code="missing_required_parameter", param="prompt")


class TokenizeResponse(TypedDict):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: NotRequired[list[str] | None]


class DetokenizeRequest(RequestBody):
    """The body of `POST /detokenize`."""

    example: ClassVar[dict[str, Any]] = {"tokens": [1, 2]}

    model: str | None = None
    tokens: TokenIds


class DetokenizeResponse(TypedDict):
    prompt: str


async def tokenize(backend: Backend, request: Request) -> Response:
    wanted = parse(TokenizeRequest, await read_json_body(request, backend.config.max_body_bytes))
    model = backend.model(wanted.model)
    conversation = [message.plain() for message in wanted.messages or []]
    text = conversation if wanted.prompt is None else wanted.prompt
    context, tokens = await backend.call("tokenize", model, text, wanted.add_special_tokens)
    spoken: list[Spoken] = tokens
    body: TokenizeResponse = {
        "count": len(spoken),
        "max_model_len": context,
        "tokens": [token.id for token in spoken],
        "token_strs": [token.text for token in spoken] if wanted.return_token_strs else None,
    }
    return JSONResponse(body)


async def detokenize(backend: Backend, request: Request) -> Response:
    wanted = parse(DetokenizeRequest, await read_json_body(request, backend.config.max_body_bytes))
    model = backend.model(wanted.model)
    body: DetokenizeResponse = {"prompt": await backend.call("detokenize", model, wanted.tokens)}
    return JSONResponse(body)
