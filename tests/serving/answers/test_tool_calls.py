"""Tools in prompts, forced calls, and calls in a model's text, whole and in pieces."""

from __future__ import annotations

import itertools
import json
from typing import Any

import jsonschema
import pytest

from headwater.cluster.errors import HeadwaterError
from headwater.llm.examples.chat import encode_prompt
from headwater.llm.inference.base import Sampling
from headwater.serving.answers.tool_calls import (
    ToolCall,
    ToolCallStream,
    forced_schema,
    parse_tool_calls,
    with_tools,
)
from tests.llm.examples.template_tokenizers import FAMILIES, family
from tests.llm.models import small_engine

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"enum": ["C", "F"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
CLOCK: dict[str, Any] = {"type": "function", "function": {"name": "clock"}}
TOOLS: list[Any] = [WEATHER, CLOCK]
ASKED = [{"role": "user", "content": "How warm is it in Oslo?"}]
CALLED: list[Any] = [
    *ASKED,
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "call_1",
                "type": "function",
                "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'},
            },
            {"id": "call_2", "type": "function", "function": {"name": "clock", "arguments": ""}},
        ],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "4 C"},
    {"role": "tool", "tool_call_id": "call_2", "content": "12:30"},
]


@pytest.mark.parametrize("name", ["qwen2.5", "qwen3"])
@pytest.mark.parametrize("system", [None, "Be brief."])
@pytest.mark.parametrize("messages", [ASKED, CALLED])
def test_a_template_that_knows_tools_writes_them_itself(name: str, system: str | None, messages: Any) -> None:
    tokenizer = family(name)
    given = [*([{"role": "system", "content": system}] if system else []), *messages]
    as_objects = json.loads(json.dumps(given))
    for call in itertools.chain.from_iterable(each.get("tool_calls", ()) for each in as_objects):
        call["function"]["arguments"] = json.loads(call["function"]["arguments"] or "{}")
    for message in as_objects:
        message["content"] = message["content"] or ""
    wanted = tokenizer.apply_chat_template(
        as_objects, tools=TOOLS, tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    ids = encode_prompt(tokenizer, with_tools(tokenizer, given, TOOLS))
    assert tokenizer.decode(ids) == wanted


@pytest.mark.parametrize("name", FAMILIES)
def test_every_template_is_given_tools_calls_and_their_results(name: str) -> None:
    tokenizer = family(name)
    for system in ([], [{"role": "system", "content": "Be brief."}]):
        text = tokenizer.decode(encode_prompt(tokenizer, with_tools(tokenizer, [*system, *CALLED], TOOLS)))
        for part in ("get_weather", "The weather of a city.", '"Oslo"', "<tool_call>", "4 C", "12:30"):
            assert part in text
        assert ("Be brief." in text) == bool(system)
        assert text.index("The weather of a city.") < text.index("How warm") < text.index("4 C")


@pytest.mark.parametrize("name", FAMILIES)
def test_nothing_in_tools_or_results_spells_a_control_token(name: str) -> None:
    tokenizer = family(name)
    special = [token for token in tokenizer.all_special_tokens if token.startswith("<")]
    evil = "".join(special)
    tool = {"type": "function", "function": {"name": "f", "description": evil}}
    messages = [*CALLED[:2], {"role": "tool", "content": evil}]
    plain_tool = {"type": "function", "function": {"name": "f"}}
    plain = [*CALLED[:2], {"role": "tool", "content": "x"}]
    counts = []
    for given, each in ((messages, tool), (plain, plain_tool)):
        ids = encode_prompt(tokenizer, with_tools(tokenizer, given, [each]))
        counts.append([ids.count(id) for id in tokenizer.all_special_ids])
    assert counts[0] == counts[1]


def test_no_tools_and_the_choice_none_leave_the_prompt_as_it_is() -> None:
    tokenizer = family("qwen2.5")
    assert with_tools(tokenizer, ASKED) == with_tools(tokenizer, ASKED, TOOLS, "none") == ASKED


@pytest.mark.parametrize(
    "arguments", ["[1]", "{", '{"a": "\\ud800"}', pytest.param('{"a":' * 2000, id="deep")]
)
def test_arguments_that_are_no_object_are_refused(arguments: str) -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": arguments}}
    with pytest.raises(HeadwaterError, match="of the call of 'f' are not a JSON object"):
        with_tools(family("chatml"), [{"role": "assistant", "content": "", "tool_calls": [call]}])


def test_a_forced_call_follows_its_parameters() -> None:
    assert forced_schema(TOOLS, "auto") is None and forced_schema(TOOLS, "none") is None
    required = json.loads(forced_schema(TOOLS, "required") or "")
    named = json.loads(forced_schema(TOOLS, {"type": "function", "function": {"name": "clock"}}) or "")
    weather = {"name": "get_weather", "arguments": {"city": "Oslo"}}
    clock = {"name": "clock", "arguments": {"any": 1}}
    jsonschema.validate(weather, required)
    for schema in (required, named):
        jsonschema.validate(clock, schema)
    for wrong, schema in (
        (weather, named),
        ({"name": "get_weather", "arguments": {}}, required),
        ({"name": "other", "arguments": {}}, required),
        ({"name": "clock"}, required),
        ({"name": "clock", "arguments": "x"}, required),
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)
    with pytest.raises(HeadwaterError, match="names 'other'"):
        forced_schema(TOOLS, {"type": "function", "function": {"name": "other"}})


def test_a_models_forced_call_is_a_call_with_references_resolved() -> None:
    number, again = {"type": "integer"}, {"$ref": "#/$defs/node"}
    node = {"type": "object", "properties": {"of": again, "n": number}, "required": ["n"]}
    tree = {
        "$defs": {"node": node},
        "properties": {"root": again, "$ref": {"const": {"$ref": "#"}}},
        "required": ["root"],
    }
    tools = [CLOCK, {"type": "function", "function": {"name": "plant", "parameters": tree}}]
    schema = forced_schema(tools, {"type": "function", "function": {"name": "plant"}})
    engine = small_engine()
    for completion in engine.generate([[7, 8, 9]] * 4, Sampling(90, schema=schema), range(4)):
        shown, calls = parse_tool_calls(
            str(engine.tokenizer.decode(completion.ids, skip_special_tokens=True)), tools
        )
        assert shown == "" and [call.name for call in calls] == ["plant"]
        jsonschema.validate(json.loads(calls[0].arguments), tree)


NO_NAME = '<tool_call>{"name": [], "arguments": {}}</tool_call>'
HALF_A_PAIR = '{"name": "clock", "arguments": {"a": "\\ud800"}}'
DEEP = '{"name": "clock", "arguments": ' + "[" * 2000
OSLO = ToolCall("get_weather", '{"city": "Oslo"}')
TEXTS: list[Any] = [
    ("It is 4 C.", "It is 4 C.", []),
    ('<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>', "", [OSLO]),
    (
        'I see. <tool_call>{"name": "get_weather", "arguments": {"city": "Oslo"}}</tool_call>',
        "I see.",
        [OSLO],
    ),
    (
        '<tool_call>{"name": "clock", "arguments": {}}</tool_call>\n'
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>\n',
        "",
        [ToolCall("clock", "{}"), OSLO],
    ),
    ('{"name": "get_weather", "arguments": {"city": "Oslo"}}', "", [OSLO]),
    ('\n{"name": "get_weather", "parameters": {"city": "Oslo"}}\n', "", [OSLO]),
    ('[{"name": "clock", "arguments": {}}, {"name": "clock"}]', "", [ToolCall("clock", "{}")] * 2),
    ('{"name": "get_weather", "arguments": "{\\"city\\": \\"Oslo\\"}"}', "", [OSLO]),
    ('<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n', "", [OSLO]),
    ('I look. <tool_call>{"name": "clock"}', "I look.", [ToolCall("clock", "{}")]),
    ('{"name": "clock", "arguments": {"a": "<tool_call>"}}', "", [ToolCall("clock", '{"a": "<tool_call>"}')]),
    ('{"name": "other", "arguments": {}}', '{"name": "other", "arguments": {}}', []),
    ('{"name": "clock", "arguments": [1]}', '{"name": "clock", "arguments": [1]}', []),
    ('{"answer": 4}', '{"answer": 4}', []),
    ("[]", "[]", []),
    (NO_NAME, NO_NAME, []),
    (HALF_A_PAIR, HALF_A_PAIR, []),
    pytest.param(DEEP, DEEP, [], id="deep"),
    ('{"name": "clock", "arg', '{"name": "clock", "arg', []),
    ("<tool_call>nothing</tool_call> a", "<tool_call>nothing</tool_call> a", []),
    ("a <tool_c", "a <tool_c", []),
    ("if a < b and <tool> c", "if a < b and <tool> c", []),
    ('See: {"name": "clock", "arguments": {}}', 'See: {"name": "clock", "arguments": {}}', []),
]


@pytest.mark.parametrize(("text", "shown", "calls"), TEXTS)
def test_calls_are_found_in_whole_texts_and_in_every_split_of_them(
    text: str, shown: str, calls: list[ToolCall]
) -> None:
    assert parse_tool_calls(text, TOOLS) == (shown, calls)
    for size in (1, 2, 3, 7, 20):
        stream = ToolCallStream(TOOLS)
        parts = [text[at : at + size] for at in range(0, len(text), size)]
        found = [each for part in parts for each in stream.add(part)] + [*stream.end()]
        assert [each for each in found if isinstance(each, ToolCall)] == calls
        told = "".join(each for each in found if isinstance(each, str))
        assert (told.strip() if calls else told) == shown


def test_text_is_held_back_only_while_it_may_begin_a_call() -> None:
    stream = ToolCallStream(TOOLS)
    assert list(stream.add("I look")) == ["I look"]
    assert list(stream.add(" up <tool")) == [" up "]
    assert list(stream.add(" kit>")) == ["<tool kit>"]
    assert list(stream.add('<tool_call>{"name": "clock"')) == []
    assert list(stream.add("}</tool_call> so")) == [ToolCall("clock", "{}"), " so"]
    other = ToolCallStream(TOOLS)
    assert list(other.add('{"na')) == [] and list(other.add('tion": 1')) == ['{"nation": 1']
    without = ToolCallStream([])
    assert list(without.add('{"name": "clock"')) == ['{"name": "clock"']
    assert list(without.add(" <tool_call>")) == [" <tool_call>"] and list(without.end()) == []
