"""OpenAI's tools: how they enter a prompt, the JSON that a forced call follows, and calls in a model's text.

Tools enter as the text of a system message, so nothing in them can spell a control token: in the words of the
chat template if it has a place for them there, else in ours. A call is written as Hermes and Qwen write it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json

from headwater.cluster.errors import HeadwaterError
from headwater.llm.examples.template import pieces, render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Choice = str | Mapping[str, Any]
"""`none`, `auto`, `required`, or `{"type": "function", "function": {"name": …}}`."""
Tool = Mapping[str, Any]
"""`{"type": "function", "function": {"name", "description", "parameters": a JSON Schema}}`."""

OPEN, CLOSE = "<tool_call>", "</tool_call>"
BARE = re.compile(r'\s*\[?\s*\{\s*"name"\s*:\s*"')
"""How a call without tags begins."""
LONGEST_BARE = 64
"""Characters after which a text that could still begin so is taken as text."""
EXPLAINED = """# Tools

These functions can be called. <tools></tools> has one JSON object for each:
<tools>
{tools}
</tools>

To call one, write its name and its arguments as JSON within <tool_call></tool_call>:
<tool_call>
{{"name": "NAME", "arguments": {{"ARGUMENT": "VALUE"}}}}
</tool_call>"""


@dataclass(frozen=True)
class ToolCall:
    """A call that a model asks for."""

    name: str
    arguments: str
    """A JSON object, as text."""


# -- into the prompt -----------------------------------------------------------------------------
def with_tools(
    tokenizer: PreTrainedTokenizerFast,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Tool] = (),
    choice: Choice = "auto",
) -> list[dict[str, str]]:
    """Messages of OpenAI's API as plain ones (`role`, `content`), with the tools unless `choice` is `none`.

    A message may have `tool_calls`, a null `content`, or the role `tool`. What the chat template refuses, a
    tool's message or a system message, becomes a user's. Raises HeadwaterError for arguments of a call that
    are no JSON object.
    """
    plain = [{"role": message["role"], "content": _content(tokenizer, message)} for message in messages]
    if tools and choice != "none":
        plain = _explained(tokenizer, plain, tools)
    return plain if _takes(tokenizer, plain) else _without_refused(tokenizer, plain)


def _content(tokenizer: PreTrainedTokenizerFast, message: Mapping[str, Any]) -> str:
    content = str(message.get("content") or "")
    calls = [_function(call) for call in message.get("tool_calls") or ()]
    if not calls:
        return content
    own = _between(
        tokenizer,
        {"role": "assistant"},
        {"content": content, "tool_calls": [{"type": "function", "function": call} for call in calls]},
    )
    if own and all(str(call["name"]) in own for call in calls):
        return own
    texts = [f"{OPEN}\n{json.dumps(call, ensure_ascii=False)}\n{CLOSE}" for call in calls]
    return "\n".join([content, *texts] if content else texts)


def _function(call: Mapping[str, Any]) -> dict[str, Any]:
    """Name and arguments; templates take these as an object, the API as its text."""
    function = call["function"]
    arguments = _value(function.get("arguments") or "{}")
    if not isinstance(arguments, dict):
        raise HeadwaterError(
            f"the arguments of the call of {function['name']!r} are not a JSON object",
            fix="give them back as they came",
        )
    return {"name": function["name"], "arguments": arguments}


def _value(text: str) -> Any:
    """A value from its JSON; None for what is no JSON, and for what `json.loads` takes and its users do not:
    hundreds of brackets within each other, and half of a surrogate pair."""
    try:
        return from_json(text)
    except ValueError:
        return None


def _explained(
    tokenizer: PreTrainedTokenizerFast, messages: list[dict[str, str]], tools: Sequence[Tool]
) -> list[dict[str, str]]:
    has_system = bool(messages) and messages[0]["role"] == "system"
    system = messages[0]["content"] if has_system else None
    told = _between(tokenizer, {"role": "system"}, None if system is None else {"content": system}, tools)
    if told is None or any(tool["function"]["name"] not in told for tool in tools):
        lines = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
        told = "\n\n".join([*([system] if system else []), EXPLAINED.format(tools=lines)])
    return [{"role": "system", "content": told}, *(messages[1:] if has_system else messages)]


def _between(
    tokenizer: PreTrainedTokenizerFast,
    message: dict[str, Any],
    more: dict[str, Any] | None,
    tools: Sequence[Tool] = (),
) -> str | None:
    """What the template writes where a message's content is, if `more` is added to it (None: if it is left
    out) and with `tools`. None: it writes something else or elsewhere, or refuses it."""
    marker, asked = "⟦content⟧", [{"role": "user", "content": "⟦question⟧"}]
    first = asked if message["role"] == "assistant" else []
    try:
        known = render(tokenizer, [*first, message | {"content": marker}, *asked], prompt=False)
        given = [] if more is None else [message | more]
        found = render(tokenizer, [*first, *given, *asked], prompt=False, tools=tools)
    except HeadwaterError:
        return None
    before, _, after = known.partition(marker)
    if not found.startswith(before) or not found.endswith(after):
        return None
    text = found[len(before) : len(found) - len(after)]
    return None if any(token in text for token in tokenizer.all_special_tokens) else text


def _takes(tokenizer: PreTrainedTokenizerFast, messages: Sequence[Mapping[str, str]]) -> bool:
    try:
        pieces(tokenizer, [message["role"] for message in messages], prompt=True)
    except HeadwaterError:
        return False
    return True


def _without_refused(
    tokenizer: PreTrainedTokenizerFast, messages: Sequence[Mapping[str, str]]
) -> list[dict[str, str]]:
    """With messages of tools as one of the user; if that is refused, too, with the system's before it."""
    found: list[dict[str, str]] = []
    for message in messages:
        role, content = message["role"], message["content"]
        if role == "tool":
            role, content = "user", f"<tool_response>\n{content}\n</tool_response>"
            if found and found[-1]["content"].endswith("</tool_response>"):
                found[-1]["content"] += f"\n{content}"
                continue
        found.append({"role": role, "content": content})
    if not _takes(tokenizer, found) and len(found) > 1 and found[0]["role"] == "system":
        joined = f"{found[0]['content']}\n\n{found[1]['content']}"
        return [{"role": found[1]["role"], "content": joined}, *found[2:]]
    return found


# -- a forced call -------------------------------------------------------------------------------
def forced_schema(tools: Sequence[Tool], choice: Choice) -> str | None:
    """JSON Schema, as text, of the one call that `choice` forces; None: it forces none.

    Raises HeadwaterError if it names a function that is not among the tools.
    """
    if isinstance(choice, str):
        if choice != "required":
            return None
        chosen = [tool["function"] for tool in tools]
    else:
        name = choice["function"]["name"]
        chosen = [tool["function"] for tool in tools if tool["function"]["name"] == name]
        if not chosen:
            raise HeadwaterError(f"`tool_choice` names {name!r}, which is not among `tools`")
    return json.dumps({"anyOf": [_call_schema(each, f"/anyOf/{n}") for n, each in enumerate(chosen)]})


def _call_schema(function: Mapping[str, Any], place: str) -> dict[str, Any]:
    parameters = _moved(function.get("parameters") or {}, f"{place}/properties/arguments")
    return {
        "type": "object",
        "properties": {"name": {"const": function["name"]}, "arguments": {"type": "object", **parameters}},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _moved(schema: Any, place: str) -> Any:
    """A schema whose references to itself point to its new place in another."""
    if isinstance(schema, list):
        return [_moved(each, place) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {}
    for key, value in schema.items():
        if key == "$ref" and isinstance(value, str) and value.startswith("#"):
            found[key] = f"#{place}{value[1:]}"
        else:
            found[key] = value if key in ("const", "enum", "default", "examples") else _moved(value, place)
    return found


# -- out of the text -----------------------------------------------------------------------------
class ToolCallStream:
    """Takes a model's text piece by piece and tells what to show and what it calls.

    Text that may begin a call is held back until that is decided. Only a known function with an object of
    arguments is a call; everything else stays text.
    """

    def __init__(self, tools: Sequence[Tool]) -> None:
        self._names = frozenset(str(tool["function"]["name"]) for tool in tools)
        self._held, self._shown = "", False

    def add(self, piece: str) -> Iterator[str | ToolCall]:
        """Yield the text to show and the calls that are now certain."""
        if not self._names:
            yield from self._text(piece)
            return
        self._held += piece
        while True:
            before, tag, rest = self._held.partition(OPEN)
            if tag and not (self._bare() and before.strip()):
                inside, closed, after = rest.partition(CLOSE)
                if not closed:
                    return
                yield from self._text(before)
                yield from self._calls(inside, f"{OPEN}{inside}{CLOSE}")
                self._held = after.lstrip("\n")
            elif self._bare():
                return
            else:
                safe = len(self._held) - _begun(self._held)
                text, self._held = self._held[:safe], self._held[safe:]
                yield from self._text(text)
                return

    def end(self) -> Iterator[str | ToolCall]:
        """Yield what was held back, at the end of the text."""
        bare, held, self._held = self._bare(), self._held, ""
        before, tag, inside = held.partition(OPEN)
        if bare:
            yield from self._calls(held, held)
        elif tag:  # without its end: the tokens were used up
            yield from self._text(before)
            yield from self._calls(inside, tag + inside)
        else:
            yield from self._text(held)

    def _bare(self) -> bool:
        """Whether what is held may be a call without tags: only at the beginning of the text."""
        if self._shown:
            return False
        held = self._held.lstrip()
        return bool(BARE.match(held)) or (len(held) < LONGEST_BARE and _may_begin_bare(held))

    def _text(self, text: str) -> Iterator[str]:
        if text and (self._shown or text.strip()):
            self._shown = True
            yield text

    def _calls(self, text: str, whole: str) -> Iterator[str | ToolCall]:
        """The calls that a JSON text holds; if it holds something else, the whole as text."""
        given = _value(text)
        calls = [self._call(each) for each in (given if isinstance(given, list) else [given])]
        if calls and all(calls):
            yield from (call for call in calls if call)
        else:
            yield from self._text(whole)

    def _call(self, given: object) -> ToolCall | None:
        if not (isinstance(given, dict) and isinstance(given.get("name"), str)):
            return None
        if given.get("name") not in self._names:
            return None
        arguments = given.get("arguments", given.get("parameters", {}))
        if isinstance(arguments, str):  # as the API has them
            arguments = _value(arguments)
        if not isinstance(arguments, dict):
            return None
        return ToolCall(given["name"], json.dumps(arguments, ensure_ascii=False))


def parse_tool_calls(text: str, tools: Sequence[Tool]) -> tuple[str, list[ToolCall]]:
    """The text around the calls, stripped if there are any, and the calls."""
    stream = ToolCallStream(tools)
    found = [*stream.add(text), *stream.end()]
    calls = [each for each in found if isinstance(each, ToolCall)]
    shown = "".join(each for each in found if isinstance(each, str))
    return (shown.strip() if calls else shown), calls


def _begun(text: str) -> int:
    """Characters at the end that may begin a tag."""
    return next((n for n in range(len(OPEN) - 1, 0, -1) if text.endswith(OPEN[:n])), 0)


def _may_begin_bare(text: str) -> bool:
    packed = re.sub(r"\s", "", text)
    return any(start.startswith(packed) for start in ('{"name":"', '[{"name":"'))
