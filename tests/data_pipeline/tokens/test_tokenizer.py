"""The trained tokenizer: lossless, deterministic, identical however it is loaded."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tokenizers import Tokenizer

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import execute
from headwater.cluster.storage.artifact import Artifact
from headwater.data_pipeline.documents import Document, document_id, to_table
from headwater.data_pipeline.tokens.chat_template import SPECIAL_TOKENS
from headwater.data_pipeline.tokens.tokenizer import (
    FOLDER,
    TokenizerConfig,
    TrainTokenizer,
    load_encoder,
    load_tokenizer,
    save_tokenizer,
    train,
    wrap,
)

SENTENCES = [
    "The council voted on Tuesday to rebuild the old bridge over the river.",
    "Scientists said that the new telescope had seen a planet 40 light years away.",
    "It's raining again, and the farmers' fields don't drain — they're under water.",
    "Prices rose 3.5% in March, the bank's report says; wages rose 2%.",
    "Ein schöner Tag: naïve café, 東京, \U0001f600 and e\u0301 written in two code points.",
]
TEXTS = [f"{SENTENCES[i % 5]} {SENTENCES[(i * 3 + 1) % 5]}\n\nItem {i}" for i in range(200)]
TRICKY = [
    "e\u0301te\u0301 \u212b \ufb01",  # not in normal form C: a normaliser would change it
    "  two  spaces\n\n \nand\tbreaks\r\n",
    "numbers 1234567 and <|im_end|> spelt out",
    "\x00\x7f\u2028\ufeff\U0001f9d1\u200d\U0001f680",
]


def clean_artifact(
    folder: Path, texts: list[str], part: int = 50, sources: list[str] | None = None
) -> Artifact:
    """A finished `clean` artifact of these texts, in parts."""
    artifact = Artifact(str(folder), "clean", hashlib.sha256("".join(texts).encode()).hexdigest()[:16])
    for start in range(0, len(texts), part):
        documents = [
            Document(
                document_id(f"https://example.org/{start + i}", text),
                f"https://example.org/{start + i}",
                "",
                text,
                source=sources[start + i] if sources else "",
            )
            for i, text in enumerate(texts[start : start + part])
        ]
        with artifact.create(f"kept/{start // part:05d}.parquet") as stream:
            pq.write_table(to_table(documents), stream)
    return artifact


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(wrap(train(TEXTS, 600, 2)), target)
    return target


def test_training_twice_and_in_another_order_gives_the_same_bytes() -> None:
    first = train(TEXTS, 600, 2).to_str()
    assert train(TEXTS, 600, 2).to_str() == first
    assert train(reversed(TEXTS), 600, 2).to_str() == first


def test_special_tokens_have_the_first_ids(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == [0, 1, 2, 3]
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|pad|>")
    assert tokenizer.bos_token is None
    assert tokenizer.unk_token is None
    assert set(tokenizer.all_special_tokens) == set(SPECIAL_TOKENS)


@pytest.mark.parametrize("model_type", [None, "qwen3", "llama"])
def test_auto_tokenizer_gives_the_trained_ids_whatever_config_lies_beside_it(
    folder: Path, tmp_path: Path, model_type: str | None
) -> None:
    from transformers import AutoTokenizer

    save_tokenizer(load_tokenizer(folder), tmp_path)  # as a model folder gets it
    if model_type is not None:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    opened = AutoTokenizer.from_pretrained(str(tmp_path))
    for text in [*TEXTS[:20], *TRICKY]:
        assert opened(text)["input_ids"] == trained().encode(text).ids
    assert len(opened) == trained().get_vocab_size()
    assert opened.chat_template == load_tokenizer(folder).chat_template
    assert (opened.eos_token_id, opened.pad_token_id) == (2, 3)


def test_saving_again_writes_the_same_files(folder: Path, tmp_path: Path) -> None:
    save_tokenizer(load_tokenizer(folder), tmp_path)
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(path.name for path in tmp_path.iterdir())
    for name in names:
        assert (folder / name).read_bytes() == (tmp_path / name).read_bytes(), name


@settings(deadline=None)
@given(st.text())
def test_decoding_gives_back_any_text(text: str) -> None:
    encoder = trained()
    assert encoder.decode(encoder.encode(text).ids, skip_special_tokens=False) == text


@functools.cache
def trained() -> Tokenizer:
    return train(TEXTS, 600, 2)


def test_a_document_that_spells_a_special_token_gets_no_special_token(folder: Path) -> None:
    encoder = load_encoder(folder)
    for text in ("<|endoftext|>", "a<|im_end|>b", "<|pad|> <|im_start|>user"):
        ids = encoder.encode(text).ids
        assert min(ids) >= len(SPECIAL_TOKENS)
        assert encoder.decode(ids, skip_special_tokens=False) == text


def test_the_template_marks_the_assistants_tokens(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Who voted?"},
        {"role": "assistant", "content": "The council."},
        {"role": "user", "content": "On what?"},
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWho voted?<|im_end|>\n"
        "<|im_start|>assistant\nThe council.<|im_end|>\n<|im_start|>user\nOn what?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    encoded = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    marked = [i for i, m in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True) if m]
    assert tokenizer.decode(marked) == "The council.<|im_end|>"


def test_the_stage_writes_a_folder_and_measures_it(here: Session, tmp_path: Path) -> None:
    corpus = clean_artifact(tmp_path / "clean", TEXTS)
    stage = TrainTokenizer(TokenizerConfig(vocab_size=400))
    output, found = execute(stage, {"clean": corpus}, here)
    assert not found
    manifest = output.manifest()
    assert manifest is not None
    size = sum(len(text.encode()) for text in TEXTS)
    assert manifest.metrics["corpus_bytes"] == manifest.metrics["trained_on_bytes"] == size
    tokenizer = load_tokenizer(output.local(FOLDER))
    assert len(tokenizer) == manifest.metrics["vocab_size"] == 400
    tokens = sum(len(tokenizer(text)["input_ids"]) for text in TEXTS)
    assert manifest.metrics["bytes_per_token"] == pytest.approx(size / tokens, rel=1e-3)


def test_a_large_corpus_is_sampled_by_document_whatever_its_parts(here: Session, tmp_path: Path) -> None:
    size = sum(len(text.encode()) for text in TEXTS)
    stage = TrainTokenizer(TokenizerConfig(vocab_size=400, sample_bytes=size // 2))
    contents = []
    for part in (50, 17):
        corpus = clean_artifact(tmp_path / f"clean-{part}", TEXTS, part)
        output = here.store.artifact("tokenizer", f"part-{part}")
        metrics = stage.run({"clean": corpus}, output, here)
        assert 0.35 * size < metrics["trained_on_bytes"] < 0.65 * size
        contents.append(output.read_bytes(f"{FOLDER}/tokenizer.json"))
    assert contents[0] == contents[1]


def test_a_corpus_without_text_is_named(here: Session, tmp_path: Path) -> None:
    corpus = clean_artifact(tmp_path / "clean", [""])
    with pytest.raises(HeadwaterError, match="no text"):
        TrainTokenizer(TokenizerConfig()).run({"clean": corpus}, here.store.artifact("tokenizer", "k"), here)


def test_a_vocabulary_smaller_than_the_bytes_is_refused() -> None:
    with pytest.raises(ValidationError):
        TokenizerConfig(vocab_size=256)
