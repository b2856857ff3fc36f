"""Rescoring with other thresholds equals cleaning with them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.session import Session
from headwater.cluster.storage.artifact import Artifact
from headwater.cluster.storage.store import Store
from headwater.data_pipeline.clean.rescore import config_of, decisions_table, unread_of, what_if
from headwater.data_pipeline.clean.stage import CleanConfig, whole_funnel
from headwater.data_pipeline.corpus import read_documents
from tests.data_pipeline.corpora import rejected, run, run_here, write_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "a.jsonl"
    write_corpus(path)
    with path.open("a") as stream:
        stream.write("{broken\n")
    return path


@pytest.fixture(scope="module")
def cleaning(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Artifact, Artifact]]:
    """What was read, and what became of it with the default settings."""
    with Session(Store(str(tmp_path_factory.mktemp("store"))), max_workers=0) as session:
        cleaned = run(session, corpus, per_part=20)
        (acquired,) = (m for m in session.store.manifests() if m.stage == "acquire")
        yield session.store.artifact("acquire", acquired.key), cleaned


@pytest.fixture
def acquired(cleaning: tuple[Artifact, Artifact]) -> Artifact:
    return cleaning[0]


@pytest.fixture
def default(cleaning: tuple[Artifact, Artifact]) -> Artifact:
    return cleaning[1]


def changed(config: CleanConfig, changes: dict[str, dict[str, Any]]) -> CleanConfig:
    raw = config.model_dump()
    for step, settings in changes.items():
        raw[step] |= settings
    return CleanConfig.model_validate(raw)


def funnel(cleaned: Artifact, config: CleanConfig) -> list[dict[str, Any]]:
    return [count.row() for count in whole_funnel(what_if(cleaned, config), unread_of(cleaned))]


CHANGES: dict[str, dict[str, dict[str, Any]]] = {
    "none": {},
    "looser": {
        "gopher_quality": {"min_words": 10},
        "c4": {"min_sentences": 1},
    },
    "tighter": {
        "gopher_quality": {"min_words": 170},
        "language": {"min_score": 0.9},
        "fineweb": {"max_short_lines": 0.1},
    },
    "left out": {
        "gopher_repetition": {"enabled": False},
        "minhash_dedup": {"enabled": False},
    },
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_funnel_under_other_limits_is_that_of_cleaning_with_them(
    name: str, default: Artifact, here: Session, acquired: Artifact, tmp_path: Path
) -> None:
    config = changed(config_of(default), CHANGES[name])
    expected = run_here(here, acquired, config, tmp_path / "other") if CHANGES[name] else default
    assert funnel(default, config) == expected.read_json("funnel.json")["steps"]
    fates = decisions_table(default, what_if(default, config))
    ids = [value for batch in read_documents(expected, ["id"]) for value in batch["id"].to_pylist()]
    assert fates.filter(pc.is_null(fates["step"]))["id"].to_pylist() == ids
    reasons = {row["url"]: (row["step"], row["reason"], row["score"]) for row in fates.to_pylist()}
    for url, row in rejected(expected).items():
        assert reasons[url] == (row["step"], row["reason"], row["score"])
    if name != "none":
        assert funnel(default, config) != funnel(default, config_of(default))


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"c4": {"terminal_punctuation": True}}, "c4.terminal_punctuation: this setting changes the scores"),
        ({"c4": {"enabled": False}}, "c4.enabled: this step cannot be disabled afterwards"),
        ({"language": {"languages": ("en", "de")}}, "language.languages: documents that this step rejected"),
        ({"language": {"min_score": 0.6}}, "language.min_score: documents that this step rejected"),
        ({"language": {"enabled": False}}, "language.enabled: this step cannot be disabled afterwards"),
        ({"minhash_dedup": {"buckets": 20}}, "minhash_dedup.buckets: this setting changes the scores"),
        ({"gopher_repetition": {"top_ngrams": ((5, 0.1),)}}, "top_5_gram: not among the scores"),
    ],
)
def test_rescoring_refuses_settings_that_stored_scores_cannot_answer(
    changes: dict[str, dict[str, Any]], where: str, default: Artifact
) -> None:
    with pytest.raises(HeadwaterError, match=where):
        what_if(default, changed(config_of(default), changes))
