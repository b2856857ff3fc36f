"""The benchmarks run and print their results; the measurements are not checked."""

from __future__ import annotations

import gzip
import importlib
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.corpus.extraction import scores
from tests.data_pipeline.corpora import article

pytest.importorskip("datatrove", reason="datatrove is not installed")


def page(seed: int) -> str:
    paragraphs = "".join(f"<p>{article(seed * 100 + n)}</p>" for n in range(3))
    return f"<html><body><article>{paragraphs}</article></body></html>"


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    html = [page(seed) for seed in range(6)]
    table = pa.table({"html": pa.array([text.encode() for text in html]), "expected_html": html})
    pq.write_table(table, tmp_path / "pages.parquet")
    return tmp_path / "pages.parquet"


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Restores the process settings that a benchmark changes."""
    monkeypatch.setenv("RAYON_NUM_THREADS", "1")
    yield
    logging.disable(logging.NOTSET)


def run(
    name: str, *arguments: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> list[str]:
    module = importlib.import_module(f"benchmarks.{name}")
    monkeypatch.setattr(module, "PASSES", 1, raising=False)
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    module.main()
    return capsys.readouterr().out.splitlines()


def test_the_corpus_engine_decides_as_datatrove(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [article(n, 2 + n) for n in range(12)] + ["buy this now " * 80]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    lines = run("corpus.cleaning", str(tmp_path / "a.jsonl"), monkeypatch=monkeypatch, capsys=capsys)
    assert all(line.endswith("equal 13 of 13") for line in lines[1:]) and len(lines) == 3


def test_extraction_is_measured_in_both_settings(
    pages: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (str(pages), "--passes", "1")
    lines = run("corpus.extraction.__main__", *arguments, monkeypatch=monkeypatch, capsys=capsys)
    engines = ["trafilatura", "no-comments", "quality", "fast"]
    assert [line.split()[3] for line in lines[1:5]] == [line.split()[0] for line in lines[5:]] == engines
    assert all("F1 1.0000  difference" in line for line in lines[3:5])


def test_snippets_are_counted_over_all_pages() -> None:
    assert scores.snippets("One  two\nthree", ["two three", "four"], ["one", "One two"]) == (1, 1, 1)
    counts = np.array([[1.0, 1.0, 1.0], [3.0, 0.0, 0.0]])
    assert scores.of_counts(counts).tolist() == pytest.approx([8 / 10, 4 / 5, 4 / 5])
    assert scores.interval(counts, counts, scores.of_counts) == (0.0, 0.0)


def test_a_site_of_pages_that_measure_trains_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def put(place: str, content: object, packed: bool = False) -> None:
        file = tmp_path / place
        file.parent.mkdir(parents=True, exist_ok=True)
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        file.write_bytes(gzip.compress(data) if packed else data)

    def page(split: str, number: str, url: str) -> None:
        truth = {"main_content": number, "with": ["a"], "without": []}
        about = {"url": url, "ground_truth": truth, "_internal": {"page_type": {"primary": "forum"}}}
        put(f"web-content-extraction-benchmark/{split}/ground-truth/{number}.json", about)
        put(f"web-content-extraction-benchmark/{split}/html/{number}.html.gz", b"<p>x", packed=True)

    page("dev", "1", "https://news.kept.co.uk/1")
    page("dev", "2", "https://www.measured.com/2")
    page("dev", "3", "https://also.unseen.com/3")
    page("test", "4", "https://measured.com/4")
    data = "fundus/tests/resources/parser/test_data/us"
    body = {"summary": ["s"], "sections": [{"headline": ["h"], "paragraphs": ["p"]}]}
    put(f"{data}/A.json", {"V1": {"body": body}})
    put(f"{data}/meta.info", {"A_2024_01_02.html.gz": {"url": "https://a.org/1"}})
    put(f"{data}/A_2024_01_02.html.gz", b"<p>x", packed=True)
    put("article-extraction-benchmark/ground-truth.json", {"n": {"url": "http://b.org", "articleBody": "b"}})
    put("article-extraction-benchmark/html/n.html.gz", b"<p>b", packed=True)
    snippets = {"http://c.org/1": {"file": "c.html", "with": ["c"], "without": ["d"]}}
    put("trafilatura/tests/evaldata.json", snippets)
    put("trafilatura/tests/eval/c.html", b"<p>c")
    own = b'<link rel="canonical" href="https://www.unseen.com/x">'
    pq.write_table(pa.table({"html": [own]}), tmp_path / "own.parquet")
    arguments = (str(tmp_path), "--also-unseen", str(tmp_path / "own.parquet"))
    run("corpus.extraction.pages", *arguments, monkeypatch=monkeypatch, capsys=capsys)
    made = pq.read_table(tmp_path / "train.parquet").to_pylist()
    assert [(row["site"], row["text"]) for row in made] == [("kept.co.uk", "1"), ("a.org", "s\n\nh\n\np")]
    assert pq.read_table(tmp_path / "trafilatura.parquet")["with"].to_pylist() == [["c"]]


def test_training_without_lightgbm_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "lightgbm", None)  # an import of it fails
    monkeypatch.delitem(sys.modules, "benchmarks.corpus.extraction.training", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for arguments, said in ((["--help"], "usage: "), (["a", "b", "--source", "s"], "pip install lightgbm\n")):
        with pytest.raises(SystemExit):
            run("corpus.extraction.training", *arguments, monkeypatch=monkeypatch, capsys=capsys)
        assert said in "".join(capsys.readouterr())


def test_the_chain_ends_in_rows_on_both_sides(
    pages: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (str(pages), "--vocab-size", "300")
    lines = run("corpus.chain", *arguments, monkeypatch=monkeypatch, capsys=capsys)
    assert [line.split()[0] for line in lines[1:4]] == ["peers", "cold", "headwater"]
    assert all("(6 kept" in line for line in lines[1:4])


def test_classifier_list_and_repeats_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"text": article(n % 5)} for n in range(10)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = run("corpus.quality_and_spans", str(tmp_path / "a.jsonl"), monkeypatch=monkeypatch, capsys=capsys)
    assert sum("0.00% of the texts flagged" in line for line in lines) == 4
    assert lines[-1].endswith("words cut") and " 0 words cut" not in lines[-1]


@pytest.mark.parametrize(
    "name",
    [
        "training.checkpoint",
        "corpus.duplicates",
        "training.interrupted",
        "training.invariance",
        "training.learning",
        "serving.refusals",
        "corpus.scaling",
        "training.zero_memory",
    ],
)
def test_the_other_benchmarks_import(name: str) -> None:
    """They take too long to run here, but importing them detects missing names."""
    assert importlib.import_module(f"benchmarks.{name}").__doc__
