"""Documents added, replaced and deleted beside an index."""

from __future__ import annotations

import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from headwater.cluster.storage.artifact import Artifact
from headwater.cluster.storage.filesystem import filesystem
from headwater.serving.retrieval.changes import Change
from headwater.serving.retrieval.passages import Filters
from headwater.serving.retrieval.search import PassageIndex
from tests.serving.conftest import ARTICLES, BRIDGE

URL = "https://other.example/whale"
WHALE = Change(
    URL,
    "Whale rescued",
    "Divers freed a humpback whale from a fishing net off Tromsø. " * 3 + "The council watched.",
    "en",
    "2026-03-01",
)
QUESTION = "Which whale did the divers free from the net?"
BRIDGE_URL = "https://news.example/story/0"


@pytest.fixture
def location(news_index: Artifact, tmp_path: Path) -> str:
    shutil.copytree(news_index.local(), tmp_path / "index")
    return str(tmp_path / "index")


def titles(index: PassageIndex, question: str, least: float = 0.0) -> list[str]:
    return [passage.title for passage in index.search(question, limit=20, min_relevance=least)]


def test_an_added_document_is_found_at_once_everywhere_and_after_a_restart(location: str) -> None:
    here, there = PassageIndex(location), PassageIndex(location)
    assert WHALE.title not in titles(here, QUESTION)
    assert here.changes.put(WHALE) == 1
    for index in (here, there, PassageIndex(location)):
        found = index.search(QUESTION)[0]
        assert (found.title, found.url) == (WHALE.title, URL)
        assert found.text == WHALE.text[found.start : found.end]
        assert titles(index, "When will work on the stone bridge begin?")[0] == BRIDGE


def test_a_deleted_document_is_found_nowhere_at_once_and_after_a_restart(location: str) -> None:
    here, there = PassageIndex(location), PassageIndex(location)
    here.changes.put(WHALE)
    assert titles(there, QUESTION)[0] == WHALE.title
    assert here.changes.delete(URL) and here.changes.delete(BRIDGE_URL)
    for index in (there, here, PassageIndex(location)):
        for question in (QUESTION, WHALE.text, BRIDGE, ARTICLES[BRIDGE]):
            assert not {WHALE.title, BRIDGE} & set(titles(index, question))
        assert {each["title"] for each in index.changes.documents()} == set(ARTICLES) - {BRIDGE}
    assert not here.changes.delete(URL) and not here.changes.delete("https://news.example/none")


def test_a_document_of_a_known_url_replaces_it(location: str) -> None:
    index = PassageIndex(location)
    index.changes.put(replace(WHALE, url=BRIDGE_URL))
    assert BRIDGE not in titles(index, ARTICLES[BRIDGE])
    index.changes.put(Change(BRIDGE_URL, "Bridge closed", "The stone bridge over the Avon stays closed."))
    assert WHALE.title not in titles(index, QUESTION)
    assert titles(index, "Is the stone bridge over the Avon closed?")[0] == "Bridge closed"
    assert len(list(index.changes.documents())) == len(ARTICLES)


def test_changes_by_several_at_once_are_all_kept(location: str) -> None:
    indexes = [PassageIndex(location) for _ in range(3)]

    def change(index: PassageIndex, number: int) -> None:
        for n in range(4):
            index.changes.put(
                replace(WHALE, url=f"https://other.example/{number}-{n}", title=f"{number} {n}")
            )
            index.changes.put(replace(WHALE, url="https://other.example/all", title=f"all {number} {n}"))

    threads = [threading.Thread(target=change, args=each) for each in zip(indexes, range(3), strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told = [sorted(each["title"] for each in index.changes.documents()) for index in indexes]
    assert told[0] == told[1] == told[2]
    assert len(told[0]) == len(ARTICLES) + 3 * 4 + 1


def test_texts_are_cleaned_as_the_corpus_is_and_an_empty_one_changes_nothing(location: str) -> None:
    index = PassageIndex(location)
    index.changes.put(
        Change(URL, "Whale \u202egpj.exe\n[2]", "Divers\u200b freed  a whale.\r\n\r\n\r\nIt swam away.")
    )
    found = index.search("Who freed a whale?", min_relevance=0)[0]
    assert found.title == "Whale gpj.exe [2]" and found.text == "Divers freed a whale.\n\nIt swam away."
    assert index.changes.put(Change(BRIDGE_URL, "Empty", " \u200b\n ")) == 0
    assert titles(index, ARTICLES[BRIDGE])[0] == BRIDGE


def test_added_passages_are_scored_as_those_of_the_index(location: str) -> None:
    index = PassageIndex(location)
    original = index.search(ARTICLES[BRIDGE], limit=1)[0]
    index.changes.put(Change(BRIDGE_URL, BRIDGE, ARTICLES[BRIDGE]))
    again = index.search(ARTICLES[BRIDGE], limit=1)[0]
    assert (again.start, again.text) == (original.start, original.text)
    assert again.score == pytest.approx(original.score, abs=2e-3)  # vectors of the index are float16


def test_filters_choose_site_language_and_date(location: str) -> None:
    index = PassageIndex(location)
    index.changes.put(WHALE)

    def found(**filters: str) -> set[str]:
        return {f.passage.title for f in index.find("council bridge whale", 20, 1, 0.0, Filters(**filters))}

    assert found(site="other.example") == {WHALE.title} == found(language="en", since="2026-01")
    assert WHALE.title not in found(site="news.example") and BRIDGE in found(site="example")
    assert found(site="ther.example") == set() == found(since="2026-03-02") == found(until="2026-02")
    assert found(until="2026-03") == found(since="2026-03-01", until="2026-03-01") == {WHALE.title}


def test_changes_of_an_index_on_s3(news_index: Artifact, s3_server: str) -> None:
    import boto3
    import pyarrow.fs as pafs

    boto3.client("s3", endpoint_url=s3_server).create_bucket(Bucket="changes")
    remote, path = filesystem("s3://changes/index/k")
    pafs.copy_files(str(news_index.local()), path, destination_filesystem=remote)
    here, there = PassageIndex("s3://changes/index/k"), PassageIndex("s3://changes/index/k")
    here.changes.put(WHALE)
    assert titles(there, QUESTION)[0] == WHALE.title
    there.changes.delete(URL)
    assert WHALE.title not in titles(here, QUESTION)
