"""Passages, the index and the search."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import execute
from headwater.cluster.storage.artifact import Artifact
from headwater.cluster.storage.filesystem import filesystem
from headwater.data_pipeline.documents import Document
from headwater.llm.examples.conversations import question_about
from headwater.serving.retrieval.embed import load_embedder
from headwater.serving.retrieval.index import Index, IndexConfig
from headwater.serving.retrieval.passages import WebPassage, collected
from headwater.serving.retrieval.search import PassageIndex
from tests.serving.conftest import ARTICLES, BRIDGE, clean_artifact, documents


@pytest.fixture(scope="module")
def index(news_index: Artifact) -> PassageIndex:
    return PassageIndex(news_index.location)


def test_vectors_have_length_one_and_like_texts_lie_close() -> None:
    embed = load_embedder("wordllama")
    rain, wet, chess = embed(["weeks of heavy rain", "it rained for days", "a chess tournament"])
    assert np.linalg.norm(rain) == pytest.approx(1, abs=1e-5)
    assert rain @ wet > rain @ chess
    assert np.isfinite(embed(["", "\u200b"])).all()


def test_unknown_embedding_is_named() -> None:
    with pytest.raises(HeadwaterError, match="word-lama"):
        load_embedder("word-lama")


@pytest.mark.parametrize("title", ARTICLES)
def test_headlines_question_finds_its_article_first(index: PassageIndex, title: str) -> None:
    found = index.search(question_about(title))
    assert found[0].title == title
    assert ARTICLES[title][found[0].start : found[0].end] == found[0].text


def test_search_gives_no_more_than_asked_of_one_document(index: PassageIndex) -> None:
    found = index.search("bridge council work drivers", limit=4, per_document=1)
    assert len({passage.document_id for passage in found}) == len(found) <= 4


def test_query_syntax_is_only_words(index: PassageIndex) -> None:
    for query in [
        '"bridge" AND (title:^',
        "' OR 1=1 --",
        "*",
        "bridge~2 +council -rain",
        "\x00bridge",
        "   ",
    ]:
        index.search(query)
    assert index.search('"bridge" AND (title:^', min_relevance=0)[0].title == BRIDGE


def test_words_that_no_document_has_find_nothing(index: PassageIndex) -> None:
    assert index.search("zxqv wvut") == []


@pytest.mark.parametrize(
    "question",
    [
        "How do I bake sourdough bread?",  # the bakery burned down
        "What is 2+2?",
        "Which stone is the hardest?",
        "How many hospitals are there in Peru?",
        "How do I forecast rain with a neural network?",
        "Hello, how are you today?",
    ],
)
def test_questions_that_share_a_word_with_the_corpus_and_no_subject_find_nothing(
    index: PassageIndex, question: str
) -> None:
    assert index.search(question, min_relevance=0) and index.search(question) == []


@pytest.mark.parametrize(
    ("question", "title"),
    [
        ("When will work on the stone bridge begin?", BRIDGE),
        ("How much do the nurses' wages rise?", "Striking nurses return to work after a pay deal"),
        ("Who beat the grandmaster in Oslo?", "Chess champion, 14, beats a grandmaster in Oslo"),
    ],
)
def test_questions_in_other_words_than_the_headline_find_their_article(
    index: PassageIndex, question: str, title: str
) -> None:
    assert index.search(question)[0].title == title


def test_stage_reports_what_it_found_and_is_not_run_twice(here: Session) -> None:
    clean = clean_artifact(here.store, documents(), files=3)
    stage = Index(IndexConfig(passage_words=20, overlap_words=0))
    built, found = execute(stage, {"clean": clean}, here)
    metrics = built.manifest().metrics  # type: ignore[union-attr]
    assert not found and metrics["documents"] == metrics["questions"] == len(ARTICLES)
    assert metrics["passages"] >= 2 * len(ARTICLES)
    assert metrics["first_passage_is_its_article"] == 1.0
    assert execute(stage, {"clean": clean}, here)[1]


def test_corpus_without_text_is_refused(here: Session) -> None:
    clean = clean_artifact(here.store, [Document("0", "u", "t", "  ")], files=1)
    with pytest.raises(HeadwaterError, match="no text to index"):
        execute(Index(IndexConfig()), {"clean": clean}, here)


def test_folder_that_is_no_index_is_named(tmp_path: Path) -> None:
    with pytest.raises(HeadwaterError, match="no passage index"):
        PassageIndex(str(tmp_path))


def test_a_page_stands_for_the_document_of_its_url_and_competes_with_the_others(index: PassageIndex) -> None:
    text = "The city council has given up the old stone bridge over the Avon, Mayor Anna Reed said on Friday."
    page = WebPassage("w", "https://news.example/story/0", BRIDGE, text, 0, len(text))
    web = collected([page], load_embedder("wordllama")([f"{page.title}\n{page.text}"]))
    found = index.search(question_about(BRIDGE), limit=20, per_document=20, min_relevance=0, web=web)
    assert found[0].text == text and isinstance(found[0], WebPassage)
    assert [each.document_id for each in found if each.url == page.url] == ["w"]
    assert len(found) > 1  # the other documents are still there
    other = next(title for title in ARTICLES if title != BRIDGE)
    assert index.search(question_about(other), web=web)[0].title == other


def test_index_on_s3_is_searched_where_it_lies(news_index: Artifact, s3_server: str) -> None:
    import boto3
    import pyarrow.fs as pafs

    boto3.client("s3", endpoint_url=s3_server).create_bucket(Bucket="passages")
    remote, path = filesystem("s3://passages/index/k")
    pafs.copy_files(str(news_index.local()), path, destination_filesystem=remote)
    found = PassageIndex("s3://passages/index/k").search(question_about(BRIDGE))
    assert found == PassageIndex(news_index.location).search(question_about(BRIDGE))
