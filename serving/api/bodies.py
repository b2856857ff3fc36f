"""Bodies of requests and responses: what all routes have in common.

A parameter that would change the answer, or is not known, is refused by name: the answer would not be what
was asked for. Those of `WITHOUT_EFFECT` are accepted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from typing_extensions import TypedDict

from headwater.llm.inference.base import Sampling
from headwater.serving.errors import ApiError

MAX_CHOICES = 8
MAX_TOP_LOGPROBS = 20
WITHOUT_EFFECT = {
    *("user", "metadata", "store", "service_tier", "safety_identifier"),
    *("prompt_cache_key", "prompt_cache_retention"),
}
"""Parameters of the OpenAI API that say who asks, or how the provider keeps and bills a request."""
NEUTRAL = {"best_of": 1, "truncation": "disabled", "modalities": ["text"], "verbosity": "medium"}
"""Values that change nothing, besides null, false, zero and empty ones."""
Text = Annotated[str, Field(max_length=1_000_000)]
TokenIds = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(max_length=1_000_000)]


class Body(BaseModel):
    """A part of a request's body; what it does not know is ignored."""

    model_config = ConfigDict(extra="ignore", strict=True)


def _closed(schema: dict[str, Any]) -> None:
    """Say in the JSON Schema which parameters a whole request takes."""
    schema["additionalProperties"] = False
    without = {name: {"description": "Without effect."} for name in sorted(WITHOUT_EFFECT)}
    schema["properties"] = without | schema["properties"]


class RequestBody(Body):
    """A whole request's body, whose unknown parameters are refused by name."""

    model_config = ConfigDict(extra="allow", json_schema_extra=_closed)
    example: ClassVar[dict[str, Any]] = {}
    """Of the OpenAPI document."""

    def check_supported(self) -> None:
        """Raises ApiError 400 for a parameter that is not known or cannot act."""
        for name, value in (self.model_extra or {}).items():
            if value and value != NEUTRAL.get(name) and name not in WITHOUT_EFFECT:
                raise unsupported(name)


class SamplingBody(RequestBody):
    """How tokens are chosen, by the names of OpenAI's API and vLLM's."""

    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(None, gt=0, le=1, allow_inf_nan=False)
    top_k: int | None = Field(None, ge=-1, le=1_000_000)
    """0 and -1: all tokens."""
    min_p: float | None = Field(None, ge=0, le=1, allow_inf_nan=False)
    presence_penalty: float | None = Field(None, ge=-2, le=2, allow_inf_nan=False)
    frequency_penalty: float | None = Field(None, ge=-2, le=2, allow_inf_nan=False)
    repetition_penalty: float | None = Field(None, gt=0, le=10, allow_inf_nan=False)
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = Field(None, max_length=1024)
    """Token id, as a string → what is added to its logit."""
    min_tokens: int | None = Field(None, ge=0, le=1_000_000)
    ignore_eos: bool | None = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Annotated[str, Field(min_length=1, max_length=1000)] | list[str] | None = None
    """At most four."""

    @field_validator("stop", mode="after")
    @classmethod
    def _stops(cls, value: str | list[str] | None) -> str | list[str] | None:
        if isinstance(value, list) and (len(value) > 4 or not all(0 < len(s) <= 1000 for s in value)):
            raise ValueError("at most 4 stop strings of 1 to 1,000 characters each")
        return value

    @field_validator("logit_bias", mode="after")
    @classmethod
    def _ids(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        if value and not all(name.isascii() and name.isdigit() and len(name) < 10 for name in value):
            raise ValueError("the names are token ids")
        return value

    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def sampling(
        self, max_tokens: int, temperature: float, *, top_logprobs: int = 0, schema: str | None = None
    ) -> Sampling:
        """`temperature`: where the request sets none. The ids that end a turn are the engine's own.

        Raises ApiError 400 if the fewest tokens are more than `max_tokens`.
        """
        if (self.min_tokens or 0) > max(1, max_tokens):
            message = f"`min_tokens` is more than the {max_tokens} tokens that the answer may have."
            raise ApiError(400, message, code="invalid_value", param="min_tokens")
        return Sampling(
            max_tokens=max_tokens,
            temperature=temperature if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=self.seed,
            top_k=max(0, self.top_k or 0),
            min_p=self.min_p or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            repetition_penalty=1.0 if self.repetition_penalty is None else self.repetition_penalty,
            logit_bias=tuple((int(name), float(bias)) for name, bias in (self.logit_bias or {}).items()),
            top_logprobs=top_logprobs,
            min_tokens=self.min_tokens or 0,
            ignore_eos=bool(self.ignore_eos),
            schema=schema,
        )


class StreamOptions(Body):
    include_usage: bool = False


class ErrorBody(TypedDict):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(TypedDict):
    """Every error, of every route."""

    error: ErrorBody


class Usage(TypedDict):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


B = TypeVar("B", bound=Body)


def parse(kind: type[B], body: bytes) -> B:
    """Parse a request body. Raises ApiError 400 naming the first invalid value."""
    try:
        parsed = kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        param = _place(kind, first["loc"]) or None
        if first["type"] == "json_invalid":
            message, code = f"The body is not valid JSON: {first['msg']}", "invalid_json"
        elif first["type"] == "missing":
            message, code = f"`{param}` is missing.", "missing_required_parameter"
        else:
            message, code = f"`{param}`: {first['msg']}" if param else first["msg"], "invalid_value"
        raise ApiError(400, message, code=code, param=param) from error
    if isinstance(parsed, RequestBody):
        parsed.check_supported()
    return parsed


def _place(kind: type[Body], loc: tuple[int | str, ...]) -> str:
    """The path of a field. Pydantic adds the names of types in a union; these are no part of the body."""
    kinds = ("constrained", "list[", "function-", "tagged-", "dict[", "model-", "union")
    parts = [str(part) for part in loc]
    return ".".join(
        part for part in parts if not part.startswith(kinds) and part not in _TYPES and not part[:1].isupper()
    )


_TYPES = frozenset({"str", "int", "float", "bool", "none"})


def unsupported(name: str) -> ApiError:
    return ApiError(400, f"`{name[:100]}` is not supported.", code="unsupported_parameter", param=name[:100])


def usage(prompt_tokens: int, completion_tokens: int) -> Usage:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def event(value: Mapping[str, Any], name: str = "") -> str:
    """A server-sent event."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(value, ensure_ascii=False)}\n\n"


DONE = "data: [DONE]\n\n"
