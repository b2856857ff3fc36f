"""Parse the lines of a batch file and build its output records.

The format is that of OpenAI's Batch API (https://platform.openai.com/docs/guides/batch). Input:
`{"custom_id", "method": "POST", "url": "/v1/chat/completions", "body"}`. Output: `{"id", "custom_id",
"response": {"status_code", "request_id", "body"}, "error"}`. Errors also have the line number, because an
invalid line may have no id.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json, to_json

from headwater.serving.api.bodies import parse, usage
from headwater.serving.api.chat_types import ChatRequest
from headwater.serving.api.openai import chat_answers as out
from headwater.serving.batch.lines import LONGEST_LINE
from headwater.serving.errors import ApiError

URL = "/v1/chat/completions"
MODEL = "headwater"
"""Model name in a response if the request has none. The model itself is set on the command line."""
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Request:
    """A valid line."""

    line: int
    custom_id: str
    body: ChatRequest


@dataclass(frozen=True)
class Refusal:
    """A line that cannot be answered. `custom_id` is None if missing or unreadable."""

    line: int
    custom_id: str | None
    error: ApiError
    in_body: bool = False
    """The error is in the request body, and the endpoint would return it, too."""


def read_request(content: bytes, line: int, *, repeated: bool = False) -> Request | Refusal:
    """Parse a line; a Refusal holds the error. `repeated`: an earlier line has the same custom_id."""
    custom_id, in_body = None, False
    try:
        value = _json(content)
        custom_id = _custom_id(value)
        if repeated:
            raise _invalid("duplicate_custom_id", f"An earlier line has the custom_id {custom_id!r}.")
        _check_envelope(value)
        in_body = True
        body = parse(ChatRequest, to_json({"model": MODEL} | value["body"]))
        _check_batch(body)
    except ApiError as error:
        return Refusal(line, custom_id, error, in_body)
    return Request(line, custom_id, body)


def line_id(content: bytes) -> str | None:
    """The custom_id of a line, or None if missing or unreadable."""
    try:
        return _custom_id(_json(content))
    except ApiError:
        return None


def too_long(line: int) -> Refusal:
    message = f"The line is longer than {LONGEST_LINE:,} bytes. It was not read."
    return Refusal(line, None, _invalid("line_too_long", message))


def _json(content: bytes) -> dict[str, Any]:
    try:
        text = content.removeprefix(BYTE_ORDER_MARK).decode()
    except UnicodeDecodeError as error:
        raise _invalid("invalid_encoding", f"The line is not UTF-8 (byte {error.start}).") from error
    try:
        value = from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise _invalid("invalid_json", f"The line is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise _invalid("invalid_json", "The line is not a JSON object.")
    return value


def _custom_id(value: dict[str, Any]) -> str:
    found = value.get("custom_id")
    if not isinstance(found, str) or not found:
        problem = "is missing" if found is None else "is not a non-empty string"
        raise _invalid("invalid_custom_id", f"`custom_id` {problem}.", "custom_id")
    return found


def _check_envelope(value: dict[str, Any]) -> None:
    for name, wanted in (("method", "POST"), ("url", URL)):
        if value.get(name) != wanted:
            found = str(value.get(name))[:100]
            raise _invalid(f"invalid_{name}", f"`{name}` is {found!r}; only {wanted!r} is supported.", name)
    if not isinstance(value.get("body"), dict):
        raise _invalid("invalid_body", "`body` is not an object.", "body")


def _check_batch(body: ChatRequest) -> None:
    """Refuse parameters that only the endpoint supports."""
    for name in ("stream", "retrieval", "tools"):
        if getattr(body, name):
            raise _invalid("unsupported_parameter", f"`{name}` is not supported in a batch.", name)


def _invalid(code: str, message: str, param: str | None = None) -> ApiError:
    return ApiError(400, message, code=code, param=param)


# -- output ------------------------------------------------------------------------------------
def answer_record(
    request: Request, choices: list[out.Choice], prompt_tokens: int, completion_tokens: int
) -> dict[str, Any]:
    """The output record of an answered request."""
    name = _name(request.custom_id)
    body = out.completion(
        f"chatcmpl-{name}",
        request.body.model,
        choices,
        usage(prompt_tokens, completion_tokens),
    )
    return _record(name, request.custom_id, {"status_code": 200, "body": dict(body)}, None)


def error_record(refusal: Refusal) -> dict[str, Any]:
    error = refusal.error
    response = {"status_code": error.status, "body": error.body()} if refusal.in_body else None
    details = {
        "code": error.code,
        "message": error.message,
        "param": error.param,
        "line": refusal.line,
    }
    # Includes the line number: a duplicate must not get the id of the original.
    return _record(
        _name(f"line {refusal.line} {refusal.custom_id or ''}"), refusal.custom_id, response, details
    )


def _record(
    name: str, custom_id: str | None, response: dict[str, Any] | None, error: dict[str, Any] | None
) -> dict[str, Any]:
    if response is not None:
        response = {
            "status_code": response["status_code"],
            "request_id": f"req_{name}",
            "body": response["body"],
        }
    return {"id": f"batch_req_{name}", "custom_id": custom_id, "response": response, "error": error}


def _name(material: str) -> str:
    """A deterministic id, the same after a restart or on another worker."""
    return hashlib.blake2b(material.encode(), digest_size=16).hexdigest()
