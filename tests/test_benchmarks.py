"""The benchmarks run and print their results; the measurements are not checked."""

from __future__ import annotations

import importlib
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

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
    lines = run("corpus.extraction", str(pages), monkeypatch=monkeypatch, capsys=capsys)
    assert [line.split()[0] for line in lines[1:]] == ["trafilatura", "no-comments", "quality", "fast"]
    assert all(line.endswith("F1 1.0000") for line in lines[3:])


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
