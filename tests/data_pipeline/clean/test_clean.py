"""The stages acquire and clean on Ray: documents kept, reasons for rejections, reproducible output."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import execute
from headwater.cluster.storage.artifact import Artifact
from headwater.cluster.storage.store import Store
from headwater.data_pipeline.acquire import Acquire, AcquireConfig
from headwater.data_pipeline.clean.score_documents import Measurer
from headwater.data_pipeline.clean.stage import Clean, CleanConfig, MeasureWorker
from headwater.data_pipeline.clean.update import Change, update
from headwater.data_pipeline.corpus import read_documents
from headwater.data_pipeline.documents import SCHEMA, Document
from headwater.data_pipeline.text.main_text.extract import ExtractConfig, Extractor
from headwater.data_pipeline.verdict import Rejection
from tests.data_pipeline.corpora import article, contents, iter_texts, rejected, run, write_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "a.jsonl"
    write_corpus(path)
    with path.open("a") as stream:
        stream.write("{broken\n")
    return path


@pytest.fixture(scope="module")
def cleaned(ray_cluster: None, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Artifact]:
    """The corpus cleaned by two workers in parts of 20, for the tests that only look at it."""
    with Session(Store(str(tmp_path_factory.mktemp("store")))) as session:
        yield run(session, corpus, per_part=20)


def test_every_document_is_kept_or_rejected_with_its_reason(cleaned: Artifact) -> None:
    kept = pa.Table.from_batches(read_documents(cleaned), SCHEMA)
    gone = rejected(cleaned)
    assert {url: (row["step"], row["reason"]) for url, row in gone.items()} == {
        "u:copy": ("exact_dedup", "same_text"),
        "https://example.org/4": ("minhash_dedup", "near_duplicate"),
        "u:german": ("language", "other_language"),
        "u:short": ("gopher_quality", "gopher_short_doc"),
        "u:spam": ("gopher_repetition", "top_2_gram"),
        "u:empty": ("extract", "no_main_text"),
    }
    assert kept.num_rows + len(gone) == 46
    assert set(kept["language"].to_pylist()) == {"en"}
    assert kept["html"].null_count == kept.num_rows
    near = gone["https://example.org/4"]
    original = {row["id"]: row["url"] for row in kept.select(["id", "url"]).to_pylist()}
    assert original[str(near["duplicate_of"])] == "u:near"
    assert near["text"] == article(4)
    texts = list(iter_texts(cleaned))
    assert sum("<email>" in text for text in texts) == 1
    assert not any("editor@" in text for text in texts)
    page = kept.filter(pa.compute.equal(kept["url"], "https://example.org/38")).to_pylist()[0]
    assert page["title"] == "A page" and "Home" not in page["text"]


def test_the_funnel_adds_up_and_is_drawn(cleaned: Artifact) -> None:
    funnel = cleaned.read_json("funnel.json")
    steps = funnel["steps"]
    assert [row["step"] for row in steps] == ["acquire", *CleanConfig().steps()]
    assert steps[0]["documents_in"] == 47
    assert steps[0]["reasons"] == {"broken_line": 1}
    for row in steps:
        assert row["documents_in"] - row["documents_out"] == sum(row["reasons"].values())
    for before, after in itertools.pairwise(steps):
        assert before["documents_out"] == after["documents_in"]
        assert before["characters_out"] == after["characters_in"]
    assert funnel["replaced"] == {"emails": 1}
    assert cleaned.read_bytes("funnel.png").startswith(b"\x89PNG")
    manifest = cleaned.manifest()
    assert manifest is not None
    assert manifest.metrics["documents_kept"] == steps[-1]["documents_out"]


def test_the_same_corpus_comes_out_for_any_number_of_workers_and_any_part_size(
    cleaned: Artifact, here: Session, corpus: Path
) -> None:
    assert len(contents(cleaned, "kept")) == 3
    one_worker = run(here, corpus, per_part=20)
    assert one_worker.location != cleaned.location  # another store
    assert contents(one_worker, "kept") == contents(cleaned, "kept")
    assert contents(one_worker, "rejected") == contents(cleaned, "rejected")
    one_part = run(here, corpus, per_part=100)
    assert list(iter_texts(one_part)) == list(iter_texts(cleaned))
    assert rejected(one_part) == rejected(cleaned)


def test_a_scored_part_is_not_scored_again(here: Session, tmp_path: Path) -> None:
    """An interrupted run reuses the finished part's result unchanged."""
    path = tmp_path / "a.jsonl"
    write_corpus(path)
    settings = {"sources": [{"kind": "jsonl", "paths": [str(path)]}], "documents_per_part": 30}
    acquired, _ = execute(Acquire(AcquireConfig.model_validate(settings)), {}, here)
    stage = Clean(CleanConfig())
    output = here.store.artifact("clean", stage.key({"acquire": acquired.key}, {}))
    first = acquired.files("documents")[0]
    unit = {"unit": Path(first).stem, "part": first}
    result = MeasureWorker(stage.config, output, acquired)(unit)
    result["seconds"]["left by the run that was cut off"] = 1.0
    output.write_json(f"_scratch/measure/{unit['unit']}.json", result)
    cleaned, found = execute(stage, {"acquire": acquired}, here)
    assert not found and cleaned == output
    manifest = cleaned.manifest()
    assert manifest and "left by the run that was cut off" in manifest.metrics["cpu_seconds"]
    assert cleaned.files("_scratch") == []
    assert pa.Table.from_batches(read_documents(cleaned), SCHEMA).num_rows == 40


def test_steps_can_be_switched_off(here: Session, tmp_path: Path) -> None:
    write_corpus(tmp_path / "a.jsonl")
    off = {
        name: {"enabled": False}
        for name in ("language", "gopher_repetition", "gopher_quality", "c4", "fineweb")
    }
    off |= {name: {"enabled": False} for name in ("exact_dedup", "minhash_dedup", "pii")}
    bare = run(here, tmp_path / "a.jsonl", 100, CleanConfig.model_validate(off))
    assert [row["step"] for row in bare.read_json("funnel.json")["steps"]] == ["acquire", "extract"]
    assert set(rejected(bare)) == {"u:empty"}


def test_listed_words_drop_and_repeated_spans_are_cut_where_asked_for(here: Session, tmp_path: Path) -> None:
    notice = article(900, 6)
    rows = [{"text": f"{article(n)}\n\n{notice}", "url": f"u:{n}"} for n in range(6)]
    rows += [{"text": f"{article(7, 1)} {notice}", "url": "u:mostly"}]
    rows += [{"text": article(8).replace("the ", "damp "), "url": "u:listed"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "words.txt").write_text("damp\n")
    config = CleanConfig.model_validate(
        {
            "toxicity": {"word_files": [str(tmp_path / "words.txt")]},
            "substring_dedup": {"enabled": True, "span_words": 20},
        }
    )
    cleaned = run(here, tmp_path / "a.jsonl", 3, config)
    texts = "\n".join(iter_texts(cleaned))
    assert texts.count(notice) == 1
    assert all(article(n) in texts for n in range(6))
    gone = {url: (row["step"], row["reason"]) for url, row in rejected(cleaned).items()}
    assert gone.pop("u:listed") == ("toxicity", "listed_words")
    assert set(gone.values()) <= {("substring_dedup", "mostly_repeated")}
    *_, before, last = cleaned.read_json("funnel.json")["steps"]
    assert (before["step"], last["step"]) == ("pii", "substring_dedup")
    assert last["documents_in"] == before["documents_out"] == 7
    assert last["documents_out"] == 7 - len(gone) == len(list(iter_texts(cleaned)))
    assert last["characters_out"] == sum(map(len, iter_texts(cleaned))) < before["characters_out"]
    with pytest.raises(HeadwaterError, match="`substring_dedup` has cut these texts"):
        update(cleaned, Change(forget=("a.org",)), here)


@pytest.mark.parametrize("repair", [False, True])
def test_texts_stay_as_they_were_written_unless_repair_is_asked_for(repair: bool) -> None:
    code = '  for each page of the crawl do\n    return "?q=" + the address of the page\n\tand close it.'
    text = f"{article(1)}\n{code}\n{article(2)}"
    found = Measurer(CleanConfig(extract=ExtractConfig(repair=repair)))(Document("1", "", "A  page", text))
    assert found.stop is None and found.document.title == "A page"
    mended = text.replace('return "?q="', 'return \u2014 q="')
    assert found.document.text == (mended if repair else text)


def test_a_corpus_of_which_nothing_is_left_is_an_error_with_the_reasons(
    here: Session, tmp_path: Path
) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "Too short to keep."}\n')
    with pytest.raises(HeadwaterError, match=r"no document is left: .*\(.*\) 1"):
        run(here, tmp_path / "a.jsonl", 10)


def test_a_page_that_takes_too_long_is_rejected_and_the_next_one_read() -> None:
    slow = b"<html><body>" + b"<p>some words in a paragraph of text</p>" * 100_000 + b"</body></html>"
    quick = ("<html><body><article>" + f"<p>{article(1)}</p>" + "</article></body></html>").encode()
    extract = Extractor(ExtractConfig(timeout_seconds=0.005))
    try:
        assert extract(slow, "") == Rejection("extract_timeout", 0.005, 0.005)
        assert Extractor(ExtractConfig())(quick, "")[1] == article(1)  # type: ignore[index]
        assert isinstance(extract(b"<" * 500, ""), Rejection)
    finally:
        extract.close()


@pytest.mark.parametrize(
    "html",
    [
        b"",
        b"\0" * 500,
        bytes(range(256)) * 50,
        b"<div>" * 100_000,
        b"<table><tr><td>" * 20_000,
        b"<p>x" * 250_000,
    ],
    ids=["empty", "zeros", "bytes", "deep", "tables", "many"],
)
def test_hostile_pages_are_rejected_not_fatal(html: bytes) -> None:
    extract = Extractor(ExtractConfig())
    try:
        assert isinstance(extract(html, ""), Rejection)
    finally:
        extract.close()
