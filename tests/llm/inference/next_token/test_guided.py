"""Guided decoding: the text conforms to its schema and ends within its tokens, whatever the model wants."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

from headwater.cluster.errors import HeadwaterError
from headwater.llm.examples.chat import stop_ids
from headwater.llm.inference.base import Completion, Sampling
from headwater.llm.inference.next_token.closing import Place
from headwater.llm.inference.next_token.guided import Guides, check_size
from headwater.llm.inference.torch_engine import TorchEngine
from tests.llm.chat_tokenizer import chat_tokenizer
from tests.llm.examples.template_tokenizers import family
from tests.llm.models import foreign_model, small_engine

COLOURS = {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "minItems": 1}
SCHEMAS: dict[str, Any] = {
    "any object": {"type": "object"},
    "person": {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "colours": COLOURS,
        },
        "required": ["name", "age", "colours"],
        "additionalProperties": False,
    },
    "numbers": {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 5},
    "enum": {"enum": ["yes", "no", 3, None, {"a": [1]}]},
    "nested": {
        "type": "object",
        "properties": {
            "inner": {
                "type": "object",
                "properties": {
                    "list": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "properties": {
                                "c": {"type": "boolean"},
                                "d": {"anyOf": [{"type": "null"}, {"type": "string", "minLength": 4}]},
                            },
                            "required": ["c", "d"],
                        },
                    }
                },
                "required": ["list"],
            },
            "note": {"type": "string"},
        },
        "required": ["inner"],
    },
    "tree": {
        "$ref": "#/$defs/node",
        "$defs": {
            "node": {
                "type": "object",
                "properties": {
                    "value": {"type": "integer", "minimum": 100},
                    "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
                },
                "required": ["value"],
            }
        },
    },
    "pattern": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}é+$"},
}


@functools.cache
def engine() -> TorchEngine:
    return small_engine()


@functools.cache
def shortest(name: str) -> int:
    """Tokens of the shortest text, the ending id included."""
    guide = engine()._guides.open(json.dumps(SCHEMAS[name]), [1])
    return len(guide._end.ids) + 1


def written(completion: Completion, tokenizer: Any = None) -> str:
    assert completion.ids[-1] in stop_ids(tokenizer or chat_tokenizer())
    return str((tokenizer or chat_tokenizer()).decode(completion.ids[:-1], skip_special_tokens=False))


def seeds_that_conform(name: str, seeds: Sequence[int]) -> None:
    schema, texts = SCHEMAS[name], set()
    for more in (0, 1, 7, 40):
        sampling = Sampling(shortest(name) + more, 1.3, schema=json.dumps(schema))
        for completion in engine().generate([[7, 8, 9]] * len(seeds), sampling, seeds):
            text = written(completion)
            jsonschema.validate(json.loads(text), schema)
            assert completion.finish_reason == "stop" and "\ufffd" not in text
            texts.add(text)
    assert len(texts) > 3


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_text_conforms_within_any_budget_that_the_shortest_fits(name: str) -> None:
    seeds_that_conform(name, range(8))


@pytest.mark.soak
@pytest.mark.parametrize("name", SCHEMAS)
def test_two_hundred_seeds_conform(name: str) -> None:
    seeds_that_conform(name, range(200))


@pytest.mark.parametrize(
    ("schema", "wanted"),
    [
        ({"type": "object"}, "{}"),
        ({"enum": ["green", "red", "yellow"]}, '"red"'),
        (SCHEMAS["person"], '{"name": "", "age": 0, "colours": ["red"]}'),
        ({"type": "string", "minLength": 3}, '"000"'),
        ({"type": "integer", "minimum": 1234}, "1234"),
        ({"type": "array", "items": {"type": "number"}, "minItems": 3}, "[0, 0, 0]"),
        ({"anyOf": [{"const": "a long word"}, {"const": "word"}]}, '"word"'),
        (SCHEMAS["tree"], '{"value": 100}'),
    ],
)
def test_a_text_without_room_is_no_longer_than_the_shortest_that_conforms(schema: Any, wanted: str) -> None:
    text = json.dumps(schema)
    end = engine()._guides.open(text, [1])._end.ids
    shortest = str(engine().tokenizer.decode(end))
    jsonschema.validate(json.loads(shortest), schema)
    assert len(shortest) == len(wanted)
    (completion,) = engine().generate([[5]], Sampling(len(end) + 1, schema=text, seed=0))
    assert completion.finish_reason == "stop" and len(completion.ids) <= len(end) + 1
    jsonschema.validate(json.loads(written(completion)), schema)


def test_what_does_not_fit_at_all_is_cut_at_its_length() -> None:
    text = json.dumps(SCHEMAS["person"])
    (completion,) = engine().generate([[5]], Sampling(6, schema=text, seed=0))
    assert (len(completion.ids), completion.finish_reason) == (6, "length")
    assert str(chat_tokenizer().decode(completion.ids)).startswith('{"name')
    least = shortest("person")
    (unended,) = engine().generate([[5]], Sampling(least - 1, schema=text, seed=0))
    text = str(chat_tokenizer().decode(unended.ids, skip_special_tokens=True))
    jsonschema.validate(json.loads(text), SCHEMAS["person"])


def test_log_probabilities_are_those_of_what_was_written() -> None:
    sampling = Sampling(20, 0.7, seed=4, schema=json.dumps(SCHEMAS["any object"]))
    (completion,) = engine().generate([[7, 8, 9]], sampling)
    (scored,) = engine().score([[7, 8, 9]], [completion.ids], temperature=0.7)
    assert completion.logprobs == pytest.approx(scored, abs=1e-3)


def test_a_text_may_go_on_as_long_as_its_end_fits() -> None:
    sampling = Sampling(60, schema='{"type": "string"}')
    found = engine().generate([[5]] * 20, sampling, range(20))
    lengths = [len(each.ids) for each in found]
    assert max(lengths) == 60 and len(set(lengths)) > 5


@pytest.mark.parametrize("setting", [{"min_tokens": 30}, {"ignore_eos": True}, {"logit_bias": ((60, 90.0),)}])
def test_other_settings_do_not_make_it_invalid(setting: Any) -> None:
    for completion in engine().generate(
        [[5]] * 4, Sampling(30, schema=json.dumps(COLOURS), **setting), range(4)
    ):
        jsonschema.validate(json.loads(written(completion)), COLOURS)


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ("{", "not a JSON Schema"),
        ("[]", "not a JSON Schema"),
        ('{"type": "bogus"}', "Invalid type: bogus"),
        ('{"not": {"type": "string"}}', 'Unimplemented keys: \\["not"\\]'),
        ('{"$ref": "https://example.org/schema"}', "example.org/schema"),
        ('{"type": "string", "minLength": 5, "maxLength": 3}', "minLength"),
        ('{"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}', "no JSON text was found"),
        ('{"type": "array", "items": {"$ref": "#"}, "minItems": 1}', "no JSON text was found"),
    ],
)
def test_a_schema_that_is_not_supported_is_refused_by_what_it_names(schema: str, named: str) -> None:
    batch = engine().batch()
    with pytest.raises(HeadwaterError, match=named):
        batch.submit([5], Sampling(5, schema=schema))
    assert batch.idle


def test_the_text_of_another_familys_tokenizer_conforms_too(tmp_path: Path) -> None:
    model = foreign_model(tmp_path, "llama")
    other = TorchEngine.load(Path(model.path("model")))
    sampling = Sampling(50, 1.3, schema=json.dumps(SCHEMAS["nested"]))
    for completion in other.generate([[7, 8, 9]] * 6, sampling, range(6)):
        jsonschema.validate(json.loads(written(completion, other.tokenizer)), SCHEMAS["nested"])


def test_a_tokenizer_that_writes_a_space_before_each_text_is_refused_or_conforms() -> None:
    guides = Guides(family("gemma"), len(family("gemma")))
    guide = guides.open('{"type": "object"}', [1])
    assert guides.tokens.decode_bytes(list(guide._end.ids)) == b"{}"


def test_a_character_that_several_tokens_share_is_completed_before_the_end() -> None:
    guides = Guides(chat_tokenizer(), len(chat_tokenizer()))
    guide = guides.open('{"type": "string"}', stop_ids(chat_tokenizer()))
    start = [guides.tokens.tokenize_bytes(bytes([byte]))[0] for byte in '"\U0001f980'.encode()]
    taken = [guide.take(token, 20) for token in start[:3]]  # the quote and two of four bytes
    assert taken == start[:3]
    for left in range(4, 0, -1):
        allowed = torch.nonzero(guide.allowed(len(chat_tokenizer())))[:, 0].tolist()
        taken.append(guide.take(allowed[-1], left))
    assert taken[-1] in stop_ids(chat_tokenizer())
    assert json.loads(guides.tokens.decode_bytes(taken[:-1]))


def _chain(length: int) -> str:
    defs = {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(length)}
    return json.dumps({"$ref": "#/$defs/d0", "$defs": {**defs, f"d{length}": {"type": "null"}}})


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        (_chain(3_000), "3,001 references, at most 500"),
        (json.dumps({"enum": ["x" * 200_000]}), "bytes, at most"),
        (json.dumps({"type": "string", "allOf": [{"pattern": "a"}] * 9}), "9 patterns that apply together"),
        ("[" * 100_000, "not a JSON Schema"),
    ],
)
def test_a_schema_that_could_end_the_process_is_refused_before_it_is_compiled(
    schema: str, named: str
) -> None:
    with pytest.raises(HeadwaterError, match=named):
        check_size(schema)
    check_size(_chain(400))


def test_where_one_is_in_a_text() -> None:
    assert Place().after(b'{"a": [1, "x\\"') == Place((0, 1), quoted=True, escaped=False, run=3)
    assert Place().after(b'{"a": [1, "x\\"", 12') == Place((0, 2), quoted=False, escaped=False, run=3)
    assert Place().after(b'{"a": []}').open == 0
