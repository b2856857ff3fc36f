"""The inverted index: BM25 by its formula, parts merged, indexes of version 1, approximate vectors."""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import pytest

from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import execute
from headwater.cluster.storage.artifact import Artifact
from headwater.data_pipeline.documents import Document
from headwater.llm.examples.conversations import question_about
from headwater.serving.retrieval import build
from headwater.serving.retrieval.index import Index, IndexConfig
from headwater.serving.retrieval.search import FOLDER, TABLE, PassageIndex, connect
from headwater.serving.retrieval.words import (
    DOCUMENT_WEIGHT,
    K1,
    TITLE_WEIGHT,
    B,
    Postings,
    Words,
    terms,
)
from tests.serving.conftest import ARTICLES, BRIDGE, clean_artifact

TITLES = ["Old bridges", "Rain", "Chess"]
TEXTS = [
    "The bridge is old. The bridge is closed.",
    "Work on the bridge begins.",
    "Weeks of rain closed a road.",
    "A draw.",
]
DOCUMENTS = np.array([0, 0, 1, 2], np.int32)


def test_scores_are_those_of_the_formula() -> None:
    """BM25 of Robertson and Zaragoza (2009), computed plainly."""

    def saturated(count: int, length: int, average: float) -> float:
        return count / (count + K1 * (1 - B + B * length / average))

    words = Words.of(TITLES, TEXTS, DOCUMENTS)
    bags = [terms(text) for text in TEXTS]
    whole = [bags[0] + bags[1], bags[2], bags[3]]
    heads = [terms(title) for title in TITLES]
    query = terms("closed bridge")
    having = {t: sum(t in bag or t in head for bag, head in zip(whole, heads, strict=True)) for t in query}
    idf = {t: math.log(1 + (3 - n + 0.5) / (n + 0.5)) for t, n in having.items()}
    expected = []
    for number, bag in enumerate(bags):
        document = DOCUMENTS[number]
        score = 0.0
        for t in query:
            parts = (
                (1 - DOCUMENT_WEIGHT, bag, bags),
                (DOCUMENT_WEIGHT, whole[document], whole),
                (TITLE_WEIGHT, heads[document], heads),
            )
            for weight, own, every in parts:
                average = sum(map(len, every)) / len(every)
                score += weight * idf[t] / sum(idf.values()) * saturated(own.count(t), len(own), average)
        expected.append(score)
    numbers, scores = words.scores(words.weights("closed bridge"))
    assert numbers.tolist() == [0, 1, 2]
    assert scores == pytest.approx(expected[:3], abs=1e-6) and expected[3] == 0


def test_a_title_alone_finds_its_first_passage() -> None:
    words = Words.of(["Whales", ""], ["They swim.", "They dive.", "A road."], np.array([0, 0, 1], np.int32))
    numbers, scores = words.scores(words.weights("whale"))
    assert numbers.tolist() == [0] and scores[0] > 0


def test_merged_parts_equal_one_index_and_come_back_from_disk(tmp_path: Path) -> None:
    chance = random.Random(0)
    texts = [[chance.randrange(40) for _ in range(chance.randrange(30))] for _ in range(50)]
    whole = Postings.of(texts)
    merged = Postings.merged([Postings.of(texts[:7]), Postings.of([]), Postings.of(texts[7:])])
    merged.save(Artifact(str(tmp_path)), "w")
    for read in (merged, Postings.load(Artifact(str(tmp_path)), "w")):
        for term in range(41):
            numbers, counts = read.of_term(term)
            assert numbers.tolist() == [n for n, text in enumerate(texts) if term in text]
            assert counts.tolist() == [text.count(term) for text in texts if term in text]
            assert whole.of_term(term)[0].tolist() == numbers.tolist()
        assert read.lengths.tolist() == list(map(len, texts))


def test_an_index_of_version_1_is_searched(news_index: Artifact, tmp_path: Path) -> None:
    old = Artifact(str(tmp_path))
    rows = connect(news_index.path(FOLDER)).open_table(TABLE).search().to_arrow()
    connect(old.path(FOLDER)).create_table(TABLE, rows.drop_columns(["number"]))
    old.write_json("index.json", {"embedding": "wordllama", "passages": len(rows)})
    index, new = PassageIndex(old.location), PassageIndex(news_index.location)
    for title in ARTICLES:
        found, expected = (each.search(question_about(title), limit=3) for each in (index, new))
        assert [(p.title, p.start) for p in found] == [(p.title, p.start) for p in expected]
        assert found[0].score == pytest.approx(expected[0].score, abs=2e-3)
    assert index.changes.delete("https://news.example/story/0")
    assert BRIDGE not in {p.title for p in index.search(BRIDGE, limit=20, min_relevance=0)}


def many_documents(count: int) -> list[Document]:
    said = sorted({word for text in ARTICLES.values() for word in text.split()})
    chance = random.Random(0)
    made = []
    for number in range(count):
        text = " ".join(chance.choices(said, k=30)) + f" case{number}."
        made.append(Document(f"{number:04d}", f"https://news.example/{number}", "", text))
    return made


def test_above_a_size_vectors_are_searched_approximately_with_a_measured_recall(
    here: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "RECALL_QUERIES", 30)
    clean = clean_artifact(here.store, many_documents(600), files=2)
    stage = Index(IndexConfig(exact_passages=500, questions=0))
    location = execute(stage, {"clean": clean}, here)[0]
    metrics = location.manifest().metrics  # type: ignore[union-attr]
    index = PassageIndex(location.location)
    assert build.RECALL <= metrics["vectors_recall_at_10"] <= 1
    assert index.description["near"]["recall_at_10"] == metrics["vectors_recall_at_10"]
    assert index.search("case77", min_relevance=0)[0].document_id == "0077"
    assert index.changes.delete("https://news.example/77")
    assert "0077" not in {p.document_id for p in index.search("case77", limit=50, min_relevance=0)}

    monkeypatch.setattr(build, "RECALL", 1.1)  # out of reach: every vector is compared
    other = execute(Index(IndexConfig(exact_passages=499, questions=0)), {"clean": clean}, here)[0]
    assert PassageIndex(other.location).description["near"] is None
