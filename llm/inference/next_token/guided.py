"""Guided decoding: text that conforms to a JSON Schema and ends within its tokens.

llguidance (MIT) says which tokens may follow. Beside it each text keeps an end of its own, the tokens that
would complete it from here; a token that leaves too few for the end after it is replaced by the end's first.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from headwater.cluster.errors import HeadwaterError, first_line
from headwater.llm.inference.next_token.closing import Place, shortest_end

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

FORM: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": ", "lenient": False}
"""JSON as `json.dumps` writes it: free space between its parts is where small models never stop."""
REMEMBERED = 64
"""Compiled schemas that are kept; the one unused for longest is forgotten first."""

MOST_BYTES = 128 * 1024
"""Of a schema; OpenAI takes 120,000 characters."""
MOST_REFERENCES = 500
"""Uses of `$ref`. A chain of 3,000 overflows the stack of llguidance 1.x and ends the process; 1,000 pass."""
MOST_PATTERNS_TOGETHER = 8
"""Patterns within an `allOf`. Their intersection grows exponentially: 20 short ones take minutes."""


class End(NamedTuple):
    """What completes a text."""

    text: bytes
    ids: tuple[int, ...]


@dataclass
class _Compiled:
    by_tokens: Any
    by_bytes: Any
    end: End


class Guides:
    """The schemas of one tokenizer, compiled when they are first asked for."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, vocabulary: int) -> None:
        """`vocabulary`: number of the model's logits. Raises HeadwaterError for a tokenizer whose tokens are
        not bytes of text."""
        from llguidance import LLTokenizer
        from llguidance.hf import from_tokenizer

        try:
            self.tokens = from_tokenizer(tokenizer, n_vocab=max(vocabulary, len(tokenizer)))
        except (ValueError, RuntimeError) as error:
            raise HeadwaterError(
                f"this tokenizer cannot be guided ({first_line(error)})",
                fix="use a model with a byte-level tokenizer",
            ) from error
        self._bytes = LLTokenizer("byte")
        self._compiled: OrderedDict[str, _Compiled] = OrderedDict()
        self._lock = threading.Lock()

    def open(self, schema: str, ends: Sequence[int]) -> Guide:
        """The guide of one text, which may end with `ends` (at least one id). Raises HeadwaterError for a
        schema that is not supported or that nothing conforms to."""
        if not ends:
            raise HeadwaterError("the tokenizer has no token that ends a text", fix="set `stop_ids`")
        made = self.compile(schema)
        return Guide(self, made.by_tokens.deep_copy(), made.by_bytes.deep_copy(), made.end, tuple(ends))

    def compile(self, schema: str) -> _Compiled:
        """The schema's grammar and its shortest text, from any thread: some schemas take seconds. Raises
        HeadwaterError as `open`."""
        with self._lock:
            if made := self._compiled.get(schema):
                self._compiled.move_to_end(schema)
                return made
        made = self._compile(schema)
        with self._lock:
            self._compiled[schema] = made
            if len(self._compiled) > REMEMBERED:
                self._compiled.popitem(last=False)
        return made

    def end(self, matcher: Any, place: Place) -> End | None:
        """The end of the text that a matcher over bytes has read."""
        text = shortest_end(matcher, place)
        return None if text is None else self.encoded(text)

    def encoded(self, text: bytes) -> End:
        ids = self.tokens.tokenize_bytes(text)
        if self.tokens.decode_bytes(ids) != text:
            ids = [self.tokens.tokenize_bytes(bytes([byte]))[0] for byte in text]
        return End(text, tuple(ids))

    def _compile(self, schema: str) -> _Compiled:
        from llguidance import LLMatcher

        grammar = grammar_of(schema)
        by_bytes = LLMatcher(self._bytes, grammar, log_level=0)
        end = self.end(by_bytes, Place())
        if end is None:
            raise HeadwaterError(
                "no JSON text was found that conforms to the schema",
                fix="remove contradictions and references without an end",
            )
        return _Compiled(LLMatcher(self.tokens, grammar, log_level=0), by_bytes, end)


class Guide:
    """One text on its way: which tokens may follow, and how it ends."""

    def __init__(
        self, guides: Guides, by_tokens: Any, by_bytes: Any, end: End, ends: tuple[int, ...]
    ) -> None:
        self._guides, self._by_tokens, self._by_bytes = guides, by_tokens, by_bytes
        self._end, self._ends, self._place = end, ends, Place()

    def allowed(self, vocabulary: int) -> torch.Tensor:
        """[vocabulary] whether each token may follow; ending ids where the text is complete."""
        bits = np.frombuffer(self._by_tokens.compute_bitmask(), np.uint8)
        allowed = np.unpackbits(bits, bitorder="little")[:vocabulary].astype(bool)
        if self._by_tokens.is_error():  # a limit of llguidance: the text ends as planned
            allowed[:] = False
            allowed[list(self._end.ids[:1])] = True
        allowed[list(self._ends)] = self._by_bytes.is_accepting()
        return torch.from_numpy(allowed)

    def take(self, token: int, left: int) -> int:
        """Add an allowed token to the text, of which `left` may follow with this one. Returns it, or the one
        that is added instead so that the text and an ending id fit, if they can."""
        if token in self._ends:
            return token
        end = self._end_after(token)
        if end is None or len(end.ids) + 2 > left:
            if not self._end.ids:
                return self._ends[0]
            token = self._end.ids[0]
            end = self._end_after(token)
        text = self._text(token)
        self._by_tokens.consume_token(token)
        self._by_bytes.consume_tokens(list(text))
        self._place = self._place.after(text)
        self._end = end or End(b"", ())
        return token

    def take_again(self, token: int, left: int) -> None:
        """Add a token that `take` returned where the same text had been added."""
        self._by_tokens.compute_bitmask()  # as `allowed`: a limit of llguidance is met where it was met then
        self.take(token, left)

    def _end_after(self, token: int) -> End | None:
        """The end once `token` has been added; None if there is none or the token does not fit."""
        text = self._text(token)
        if self._end.ids[:1] == (token,):
            return End(self._end.text.removeprefix(text), self._end.ids[1:])
        if self._end.text.startswith(text):
            return self._guides.encoded(self._end.text.removeprefix(text))
        taken = self._by_bytes.try_consume_tokens(list(text))
        try:
            if taken < len(text):
                return None
            if self._completes(self._end.text):
                return self._end
            return self._guides.end(self._by_bytes, self._place.after(text))
        finally:
            self._by_bytes.rollback(taken)

    def _completes(self, text: bytes) -> bool:
        taken = self._by_bytes.try_consume_tokens(list(text))
        complete = taken == len(text) and self._by_bytes.is_accepting()
        self._by_bytes.rollback(taken)
        return complete

    def _text(self, token: int) -> bytes:
        return bytes(self._guides.tokens.decode_bytes([token]))


def check_size(schema: str) -> None:
    """Raises HeadwaterError for a schema beyond the limits above: the process would end, or not come back."""
    try:
        root = json.loads(schema)
    except (ValueError, RecursionError) as error:
        raise HeadwaterError(f"not a JSON Schema: {first_line(error)}", fix="give an object") from error
    references = patterns = 0
    values: list[tuple[Any, bool]] = [(root, False)]
    while values:
        value, together = values.pop()
        if isinstance(value, dict):
            references += "$ref" in value
            patterns += together and "pattern" in value
            values += [(each, together or name == "allOf") for name, each in value.items()]
        elif isinstance(value, list):
            values += [(each, together) for each in value]
    for what, number, most in (
        ("bytes", len(schema.encode()), MOST_BYTES),
        ("references", references, MOST_REFERENCES),
        ("patterns that apply together (`allOf`)", patterns, MOST_PATTERNS_TOGETHER),
    ):
        if number > most:
            raise HeadwaterError(
                f"the JSON Schema is too large: {number:,} {what}, at most {most:,}",
                fix="ask for less at once",
            )


def grammar_of(schema: str) -> str:
    """llguidance's grammar of a JSON Schema. Raises HeadwaterError that names what is not supported."""
    from llguidance import LLMatcher

    check_size(schema)
    try:
        grammar = LLMatcher.grammar_from_json_schema(schema, overrides=FORM)
    except ValueError as error:
        raise HeadwaterError(f"not a JSON Schema: {first_line(error)}", fix="give an object") from error
    if reason := LLMatcher.validate_grammar(grammar):
        raise HeadwaterError(
            f"the JSON Schema is not supported: {first_line(ValueError(reason))}",
            fix="leave out what is named, or describe it in words",
        )
    return str(grammar)
