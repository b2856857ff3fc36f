"""The fast encoder against `tokenizers`: the same ids for every text."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import lxml.html
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers

from headwater.data_pipeline.tokens import encoder as module
from headwater.data_pipeline.tokens.chat_template import SPECIAL_TOKENS
from headwater.data_pipeline.tokens.encoder import Encoder
from headwater.data_pipeline.tokens.tokenizer import load_encoder, save_tokenizer, train, wrap
from tests.data_pipeline.tokens.test_tokenizer import TEXTS, TRICKY

SCRIPTS = [
    "Быстрая коричневая лиса прыгает через ленивую собаку, 1234 раза.",
    "敏捷的棕色狐狸跳过了懒狗。 素早い茶色の狐は怠け者の犬を飛び越える。",
    "الثعلب البني السريع يقفز فوق الكلب الكسول ٣٤٥.",
    "तेज़ भूरी लोमड़ी आलसी कुत्ते के ऊपर कूदती है।",
    "dzień dobry — naïve façade, e\u0301te\u0301, \u1e9e\u0130\u0131, \U0001f9d1\u200d\U0001f680\U0001f3fd",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(wrap(train([*TEXTS, *SCRIPTS * 3], 900, 2)), target)
    return target


@pytest.fixture(scope="module")
def pair(folder: Path) -> tuple[Tokenizer, Encoder]:
    encoder = Encoder(folder)
    assert encoder.fast
    return load_encoder(folder), encoder


def assert_equal_ids(pair: tuple[Tokenizer, Encoder], texts: Sequence[str]) -> None:
    theirs, ours = pair
    expected = theirs.encode_batch_fast(texts, add_special_tokens=False)
    for text, encoding, ids in zip(texts, expected, ours.encode(texts), strict=True):
        assert ids.dtype == ours.dtype and ids.tolist() == encoding.ids, text[:200]


def test_ids_on_real_text(shared_data: Path, tmp_path: Path) -> None:
    texts = [json.loads(line)["text"] for line in (shared_data / "text/c4-300.jsonl").open()]
    save_tokenizer(wrap(train(texts, 4096, 2)), tmp_path)
    wikipedia = (shared_data / "text/wikipedia.txt").read_text()
    books = pq.read_table(shared_data / "text/books.parquet", columns=["text"])["text"].to_pylist()
    pages = pq.read_table(shared_data / "web/readability-130.parquet").to_pylist()
    texts += [wikipedia, *wikipedia.splitlines()[:500], *(book[10_000:25_000] for book in books[:60])]
    texts += [lxml.html.fromstring(page["expected_html"]).text_content() for page in pages]
    texts += [page["html"].decode("utf-8", "replace")[:8_000] for page in pages]
    assert_equal_ids((load_encoder(tmp_path), Encoder(tmp_path)), texts)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.text(), max_size=5))
def test_ids_on_any_text(pair: tuple[Tokenizer, Encoder], texts: list[str]) -> None:
    assert_equal_ids(pair, texts)


CHARACTERS = "aZ's1 \t\r\n\x00\x85\xa0\u2028\u3000-'’٣中é\u0301Ⅷ²ſK\ufeff\U0001f600"
AWKWARD = st.sampled_from([*CHARACTERS, "'ll", "'RE", "  ", "<|im_end|>"])


@settings(deadline=None, max_examples=300)
@given(st.lists(AWKWARD, max_size=30).map("".join))
def test_ids_where_pieces_meet(pair: tuple[Tokenizer, Encoder], text: str) -> None:
    assert_equal_ids(pair, [text])


def test_ids_on_every_kind_of_character(pair: tuple[Tokenizer, Encoder]) -> None:
    # every 16th code point and all of the first 4,096, between letters, digits, spaces and marks
    points = [c for c in (*range(4096), *range(4096, 0x110000, 16)) if not 0xD800 <= c < 0xE000]
    assert_equal_ids(pair, [f"a{c}b 1{c}1 {c} !{c}{c}\n{c}" for c in map(chr, points)])


def test_ids_on_odd_texts(pair: tuple[Tokenizer, Encoder]) -> None:
    letters = np.random.default_rng(0).integers(97, 123, 1_000_000, dtype=np.uint8).tobytes().decode()
    control = "".join(map(chr, range(32))) + "\x7f\x80\x9f"
    assert_equal_ids(pair, ["", letters, "x" * 1_000_000, " " * 100_000, "!" * 100_000, control, *TRICKY])


def test_a_special_tokens_spelling_is_text(pair: tuple[Tokenizer, Encoder]) -> None:
    texts = [*SPECIAL_TOKENS, "a<|endoftext|>b <|pad|>\n<|im_start|>user", "<|im_end|>" * 50]
    assert_equal_ids(pair, texts)
    assert min(ids.min() for ids in pair[1].encode(texts)) >= len(SPECIAL_TOKENS)


def test_clearing_the_encoder_cache_changes_no_id(
    pair: tuple[Tokenizer, Encoder], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REMEMBERED", 500)
    encoder = Encoder(folder)
    opened = []
    monkeypatch.setattr(encoder, "_open_fast", lambda: opened.append(1) or Encoder._open_fast(encoder))
    assert_equal_ids((pair[0], encoder), TEXTS)
    assert len(opened) > 10


def changed(tokenizer: Tokenizer, change: str) -> Tokenizer:
    if change == "normaliser":
        tokenizer.normalizer = normalizers.NFC()
    elif change == "pre-tokenizer":
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(r"\s+|\S+"), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    elif change == "not special":
        tokenizer.add_tokens(["council"])
    return tokenizer


@pytest.mark.parametrize("change", ["normaliser", "pre-tokenizer", "not special"])
def test_an_unsupported_tokenizer_falls_back_to_tokenizers_and_is_logged(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, change: str
) -> None:
    tokenizer = changed(Tokenizer.from_file(str(folder / "tokenizer.json")), change)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with caplog.at_level(logging.INFO, "headwater"):
        encoder = Encoder(tmp_path)
    assert not encoder.fast
    assert len(caplog.records) == 1 and change in caplog.records[0].getMessage()
    assert_equal_ids((load_encoder(tmp_path), encoder), [*TEXTS[:20], *TRICKY])
