"""Packed rows: every token is a target exactly once, on any storage and after interruptions."""

from __future__ import annotations

import math
import pickle
from pathlib import Path

import numpy as np
import pytest

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import execute
from headwater.cluster.storage.artifact import SCRATCH, Artifact
from headwater.data_pipeline.corpus import read_documents
from headwater.data_pipeline.split import document_fraction
from headwater.data_pipeline.tokens.corpora import Corpus, Sorter
from headwater.data_pipeline.tokens.packing import Packing, id_type, pack
from headwater.data_pipeline.tokens.shards import (
    IGNORED,
    TokenRows,
    inputs_and_targets,
    unigram_bits_per_byte,
    write_shard,
)
from headwater.data_pipeline.tokens.tokenize import Tokenize, TokenizeConfig
from headwater.data_pipeline.tokens.tokenizer import FOLDER, TokenizerConfig, TrainTokenizer, load_encoder
from tests.data_pipeline.tokens.test_tokenizer import TEXTS, clean_artifact

END, PAD = 0, 3


@pytest.mark.parametrize("vocabulary", [50, 1 << 16, (1 << 16) + 1])
def test_a_shard_is_read_back_as_a_view_of_the_file(tmp_path: Path, vocabulary: int) -> None:
    documents = [("a", [5, 6, 7, 8]), ("b", [9]), ("c", [vocabulary - 1] * 5)]
    packed = pack(documents, 4, end_id=END, pad_id=PAD, vocab_size=vocabulary)
    artifact = Artifact(str(tmp_path))
    with artifact.create("train/x.arrow") as stream:
        write_shard(stream, packed)
    summary = {"tokens": 13, "bytes": 1, "documents": 3, "shards": [{"name": "x.arrow", "rows": 4}]}
    index = {
        "row_length": 4,
        "vocab_size": vocabulary,
        "pad_id": PAD,
        "end_id": END,
        "splits": {"train": summary},
    }
    artifact.write_json("rows.json", index)
    rows = TokenRows(artifact, "train")
    assert len(rows) == 4
    assert rows[0].tolist() == [END, 5, 6, 7, 8]
    assert rows[1].tolist() == [8, END, 9, END, vocabulary - 1]
    assert rows[3].tolist() == [vocabulary - 1, END, PAD, PAD, PAD]
    assert rows.documents(1) == [(0, "a"), (2, "b"), (4, "c")]
    assert rows[0].dtype == id_type(vocabulary) and not rows[0].flags.owndata and not rows[0].flags.writeable


def test_vocabularies_of_up_to_65536_ids_take_two_bytes_an_id() -> None:
    assert (id_type(1 << 16), id_type((1 << 16) + 1)) == (np.uint16, np.uint32)


def test_a_unigram_model_of_two_equal_tokens_needs_one_bit_a_token() -> None:
    counts, many = np.array([0, 4, 4]), 10**9  # of each, so that the smoothing no longer shows
    assert unigram_bits_per_byte(np.array([0, many, many]), counts, 4) == pytest.approx(8 * 1 / 4)
    # counts 0, 2, 0 and one added to each: probabilities 1/5, 3/5, 1/5
    expected = (4 * math.log2(5 / 3) + 4 * math.log2(5)) / 4
    assert unigram_bits_per_byte(np.array([0, 2, 0]), counts, 4) == pytest.approx(expected)


def target_counts(rows: TokenRows) -> np.ndarray:
    """Number of times each id is a scored target, from all rows."""
    _, targets = inputs_and_targets(rows.gather(np.arange(len(rows))), rows.pad_id)
    return np.bincount(targets[targets != IGNORED], minlength=rows.vocab_size)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return clean_artifact(tmp_path_factory.mktemp("clean"), TEXTS, part=40)


def run_both(session: Session, corpus: Artifact, config: TokenizeConfig) -> tuple[Artifact, Artifact]:
    tokenizer, _ = execute(TrainTokenizer(TokenizerConfig(vocab_size=400)), {"clean": corpus}, session)
    rows, _ = execute(Tokenize(config), {"clean": corpus, "tokenizer": tokenizer}, session)
    return tokenizer, rows


@pytest.mark.parametrize("packing", ["concatenate", "best_fit"])
def test_the_rows_spell_the_corpus_and_the_splits_share_no_document(
    here: Session, corpus: Artifact, packing: Packing
) -> None:
    config = TokenizeConfig(row_length=32, validation_share=0.1, packing=packing)
    tokenizer, output = run_both(here, corpus, config)
    manifest = output.manifest()
    assert manifest is not None
    encoder = load_encoder(tokenizer.local(FOLDER))
    written = {}
    for batch in read_documents(corpus, ["id", "text"]):
        written |= dict(zip(*(batch.column(name).to_pylist() for name in ("id", "text")), strict=True))
    seen = {}
    for split in ("train", "validation"):
        rows = TokenRows(output, split)
        texts = {
            d: text for d, text in written.items() if (document_fraction(d) < 0.1) == (split == "validation")
        }
        _, targets = inputs_and_targets(rows.gather(np.arange(len(rows))), rows.pad_id)
        spelt = encoder.decode(targets[targets != IGNORED].tolist(), skip_special_tokens=False)
        expected = "".join(f"{text}<|endoftext|>" for text in texts.values())
        if packing == "concatenate":
            assert spelt == expected
        else:
            assert sorted(spelt) == sorted(expected)
        seen[split] = {name for row in range(len(rows)) for _, name in rows.documents(row)}
        assert seen[split] == set(texts)
        assert rows.bytes == sum(len(text.encode()) for text in texts.values())
        assert rows.tokens == target_counts(rows).sum() == manifest.metrics[f"{split}_tokens"]
        assert rows.document_count == len(texts)
        padded = (targets == IGNORED).mean()
        assert manifest.metrics[f"{split}_padded_share"] == pytest.approx(padded, abs=1e-6)
    assert not seen["train"] & seen["validation"]
    counts = np.load(output.local("train-counts.npy"))
    assert (counts == target_counts(TokenRows(output, "train"))).all()
    validation = TokenRows(output, "validation")
    assert manifest.metrics["unigram_bits_per_byte"] == pytest.approx(
        unigram_bits_per_byte(counts, target_counts(validation), validation.bytes), abs=1e-6
    )
    assert not output.files(SCRATCH)


def test_gather_agrees_with_single_rows_across_shards_and_after_a_trip_between_processes(
    here: Session, corpus: Artifact
) -> None:
    _, output = run_both(here, corpus, TokenizeConfig(row_length=32, validation_share=0.1))
    rows = TokenRows(output, "train")
    order = np.random.default_rng(0).permutation(len(rows))
    gathered = pickle.loads(pickle.dumps(rows)).gather(order)
    assert gathered.dtype == np.int64 and gathered.shape == (len(rows), 33)
    assert all((gathered[i] == rows[int(row)]).all() for i, row in enumerate(order))
    for wrong in (-1, len(rows)):
        with pytest.raises(IndexError):
            rows[wrong]
        with pytest.raises(IndexError):
            rows.gather(np.array([0, wrong]))


def test_a_run_that_was_cut_off_goes_on_to_the_same_bytes(here: Session, corpus: Artifact) -> None:
    config = TokenizeConfig(row_length=16, validation_share=0.1)
    tokenizer, whole = run_both(here, corpus, config)
    half = here.store.artifact("tokenize", "cut-off")
    inputs = {"clean": corpus, "tokenizer": tokenizer}
    Tokenize(config).run(inputs, half, here)
    for name in half.files(SCRATCH):
        if "00002" in name or "00004" in name:
            half.local(name).unlink()
    half.local("train/00002.arrow").write_bytes(b"half written")
    Tokenize(config).run(inputs, half, here)
    for record in whole.manifest().files:  # type: ignore[union-attr]
        assert half.read_bytes(record.path) == whole.read_bytes(record.path), record.path


def test_a_corpus_too_small_to_validate_on_is_refused(here: Session, tmp_path: Path) -> None:
    few = clean_artifact(tmp_path / "few", TEXTS[:2])
    with pytest.raises(HeadwaterError, match="validation split"):
        run_both(here, few, TokenizeConfig(row_length=16, validation_share=1e-6))


def test_a_broken_shard_is_named(here: Session, corpus: Artifact) -> None:
    _, output = run_both(here, corpus, TokenizeConfig(row_length=64, validation_share=0.1))
    output.local("train/00000.arrow").write_bytes(b"ARROW1 and no more")
    with pytest.raises(HeadwaterError, match=r"00000\.arrow"):
        TokenRows(output, "train")[0]


SOURCES = [f"/data/{'wiki' if n % 3 else 'news'}/file{n % 5}.jsonl:{n}" for n in range(len(TEXTS))]
CORPORA = (Corpus(name="news", sources=("/data/news/*",)), Corpus(name="rest", sources=("*",)))


def test_rows_of_named_corpora_are_kept_apart(here: Session, tmp_path: Path) -> None:
    corpus = clean_artifact(tmp_path / "clean", TEXTS, 40, SOURCES)
    config = TokenizeConfig(row_length=32, validation_share=0.1, corpora=CORPORA)
    _, output = run_both(here, corpus, config)
    of_document: dict[str, str] = {}
    for batch in read_documents(corpus, ["id", "source"]):
        of_document |= dict(zip(*(batch.column(name).to_pylist() for name in ("id", "source")), strict=True))
    seen = set()
    for split in ("train", "validation"):
        rows = TokenRows(output, split)
        assert list(rows.corpora) == ["news", "rest"]
        assert [*rows.corpora["news"], *rows.corpora["rest"]] == list(range(len(rows)))
        for name, members in rows.corpora.items():
            documents = {document for row in members for _, document in rows.documents(row)}
            assert {("/news/" in of_document[d]) == (name == "news") for d in documents} == {True}
            seen |= documents
        assert rows.tokens == target_counts(rows).sum()
    assert seen == set(of_document)


def test_a_document_in_no_corpus_is_named(here: Session, tmp_path: Path) -> None:
    corpus = clean_artifact(tmp_path / "clean", TEXTS, 40, SOURCES)
    config = TokenizeConfig(row_length=32, validation_share=0.1, corpora=CORPORA[:1])
    with pytest.raises(HeadwaterError, match=r"no corpus in `tokenize\.corpora`.*") as caught:
        run_both(here, corpus, config)
    assert "/data/wiki/" in str(caught.value)


def test_a_corpus_without_documents_is_named(here: Session, tmp_path: Path) -> None:
    corpus = clean_artifact(tmp_path / "clean", TEXTS, 40, SOURCES)
    config = TokenizeConfig(row_length=32, validation_share=0.1, corpora=CORPORA[::-1])
    with pytest.raises(HeadwaterError, match="no document is in the corpus news"):
        run_both(here, corpus, config)


def test_a_corpus_is_told_by_the_file_or_by_file_and_position() -> None:
    sorter = Sorter(
        [
            Corpus(name="web", sources=("s3://b/web/*", "*.warc.gz")),
            Corpus(name="pages", sources=("*/page?.html", "pack==1.0")),
        ]
    )
    for source, name in {
        "s3://b/web/x.html": "web",
        "crawl/a.warc.gz:1024": "web",
        "/d/page1.html": "pages",
        "pack==1.0:3": "pages",
    }.items():
        assert sorter.corpus(source) == name
    for source in ("/d/page.html", "s3://b/other/page.txt", ""):
        with pytest.raises(HeadwaterError):
            sorter.corpus(source)
