"""The bytes of single tokens, for every kind of tokenizer that is served."""

from __future__ import annotations

import pytest

from headwater.data_pipeline.tokens.tokenizer import special_ids, train, wrap
from headwater.llm.inference.base import Token
from headwater.serving.answers.token_text import spoken, texts_of
from tests.serving.conftest import ARTICLES

TEXT = "naïve «ça» 🙂\n\ttabs  and spaces — 東京"


@pytest.fixture(scope="module")
def tokenizer():  # type: ignore[no-untyped-def]
    return wrap(train(list(ARTICLES.values()) * 3, 400, 2))


def test_the_bytes_of_tokens_are_the_text(tokenizer) -> None:  # type: ignore[no-untyped-def]
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    said = spoken(tokenizer, [Token(number, 0.0) for number in ids])
    assert b"".join(token.data for token in said).decode() == TEXT
    assert any(token.text.encode() != token.data for token in said)  # parts of a character


def test_every_token_of_a_vocabulary_has_bytes(tokenizer) -> None:  # type: ignore[no-untyped-def]
    texts = texts_of(tokenizer)
    alone = [texts.data(number) for number in range(len(tokenizer))]
    assert all(alone) and len(set(alone)) == len(alone)
    for number, text in special_ids(tokenizer).items():
        assert alone[number] == text.encode()
    assert texts.data(len(tokenizer) + 5) == b""
