"""Tools and JSON schemas: an untrained model must follow them, whole and streamed, in both APIs."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.serving.conftest import Endpoint

ASK: list[Any] = [{"role": "user", "content": "How is the weather in Oslo?"}]
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}, "days": {"type": "integer"}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
WEATHER: Any = {"type": "function", "function": {"name": "weather", "parameters": CITY}}
CLOCK: Any = {"type": "function", "function": {"name": "clock", "description": "The time."}}


@pytest.fixture
def client(local: Endpoint) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{local.url}/v1", api_key="none", max_retries=0)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_a_forced_call_has_arguments_of_its_schema(client: openai.OpenAI, choice: Any) -> None:
    tools = [WEATHER] if choice == "required" else [CLOCK, WEATHER]
    settings: Any = {"model": "tiny", "messages": ASK, "tools": tools, "tool_choice": choice}
    settings |= {"max_tokens": 100, "seed": 1, "temperature": 1}
    answer = client.chat.completions.create(**settings).choices[0]
    assert answer.finish_reason == "tool_calls" and answer.message.content is None
    (call,) = answer.message.tool_calls
    assert call.function.name == "weather" and call.id.startswith("call_")
    arguments = json.loads(call.function.arguments)
    assert set(arguments) == {"city", "days"} and isinstance(arguments["days"], int)
    chunks = list(client.chat.completions.create(**settings, stream=True))
    deltas = [d for chunk in chunks for c in chunk.choices for d in c.delta.tool_calls or []]
    assert "".join(d.function.arguments for d in deltas) == call.function.arguments
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_calls_and_their_results_are_a_part_of_the_conversation(client: openai.OpenAI) -> None:
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "weather", "arguments": '{"city": "Oslo"}'},
    }
    messages: list[Any] = [
        *ASK,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
    ]
    used = [
        client.chat.completions.create(model="tiny", messages=m, tools=[WEATHER], max_tokens=4).usage
        for m in (ASK, messages)
    ]
    assert used[1].prompt_tokens > used[0].prompt_tokens + 10


def test_tools_that_must_not_be_called_change_nothing(client: openai.OpenAI) -> None:
    settings: Any = {"model": "tiny", "messages": ASK, "max_tokens": 8, "extra_body": {"retrieval": False}}
    plain = client.chat.completions.create(**settings)
    none = client.chat.completions.create(**settings, tools=[WEATHER], tool_choice="none")
    assert none.choices[0].message.content == plain.choices[0].message.content


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_follows_its_schema(client: openai.OpenAI, stream: bool) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "place", "schema": CITY, "strict": True}}
    settings: Any = {"model": "tiny", "messages": ASK, "response_format": form, "max_tokens": 60}
    settings |= {"temperature": 1.2, "seed": 3, "stream": stream}
    answer = client.chat.completions.create(**settings)
    if stream:
        text = "".join(c.delta.content or "" for chunk in answer for c in chunk.choices)
    else:
        text = answer.choices[0].message.content
    assert set(json.loads(text)) == {"city", "days"}


def test_any_object_is_an_object(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="tiny", messages=ASK, response_format={"type": "json_object"}, max_tokens=30, temperature=1
    )
    assert isinstance(json.loads(answer.choices[0].message.content), dict)


def test_the_clients_own_parsing_gets_its_type(client: openai.OpenAI) -> None:
    class Place(BaseModel):
        city: str
        days: int

    parsed = client.chat.completions.parse(
        model="tiny", messages=ASK, response_format=Place, max_tokens=60, temperature=0
    )
    assert isinstance(parsed.choices[0].message.parsed, Place)
    response = client.responses.parse(model="tiny", input="Oslo?", text_format=Place, max_output_tokens=60)
    assert isinstance(response.output_parsed, Place)


def test_a_schema_that_cannot_be_followed_is_refused_before_the_stream(client: openai.OpenAI) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(
                model="tiny", messages=ASK, response_format=form, max_tokens=20, stream=stream
            )
        assert caught.value.param == "response_format"


def test_responses_call_functions(client: openai.OpenAI) -> None:
    tool: Any = {"type": "function", "name": "weather", "parameters": CITY, "strict": True}
    settings: Any = {"model": "tiny", "input": "Oslo?", "tools": [tool], "tool_choice": "required"}
    response = client.responses.create(**settings, max_output_tokens=100)
    (call,) = response.output
    assert (call.type, call.name, response.status) == ("function_call", "weather", "completed")
    events = list(client.responses.create(**settings, max_output_tokens=100, stream=True))
    kinds = [each.type.removeprefix("response.") for each in events]
    assert kinds[2:] == [
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    again = client.responses.create(
        model="tiny",
        input=[
            {"role": "user", "content": "Oslo?"},
            call.model_dump(),
            {"type": "function_call_output", "call_id": call.call_id, "output": "rain"},
        ],
        max_output_tokens=4,
    )
    assert again.output[0].type == "message"
