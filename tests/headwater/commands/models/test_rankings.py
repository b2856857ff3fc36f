"""`headwater rankings`: the list, and files in and out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from headwater.cluster.storage.store import Store
from headwater.llm.examples import rankings
from headwater.llm.examples.own_data.reading import preferences
from headwater.llm.examples.own_data.source import DataSource
from headwater.llm.rankings.aside import ASIDE, set_aside
from tests.headwater.command import headwater
from tests.llm.rankings.people import People


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """40 pairs, judged by two honest raters and one who guesses."""
    opened, people = Store(str(tmp_path / "store")), People(4)
    items = people.items(40)
    for name, right in (("anna", 0.95), ("ben", 0.95), ("guesses", 0.5)):
        for ranking in people.rank(name, items, right):
            rankings.save(opened, ranking)
    return opened


def test_list_says_who_agrees_and_who_cannot_be_believed(store: Store) -> None:
    code, said = headwater("rankings", "list", "--store", store.location)
    assert code == 0 and "120 rankings, 0 of them ties; 40 pairs judged by several" in said
    assert "guesses agrees by chance with the others" in said and "Krippendorff's alpha 0." in said
    code, said = headwater("rankings", "list", "--store", store.location, "--json")
    found = json.loads(said)
    assert {rater["name"]: bool(rater["faults"]) for rater in found["raters"]} == {
        "anna": False,
        "ben": False,
        "guesses": True,
    }


def test_an_export_is_read_as_preference_data(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    code, said = headwater("rankings", "export", file, "--store", store.location, "--believed")
    assert code == 0 and "80 pairs of 80 rankings" in said
    read = [pair for _, pair in preferences(DataSource(files=(str(file),)), str(file))]
    kept = {
        (better.text, worse.text)
        for each in rankings.read(store)
        if each.ranking.rater != "guesses"
        for _, better, worse in each.ranking.pairs()
    }
    assert {(pair.chosen, pair.rejected) for pair in read} == kept and len(read) == 80


def test_an_import_adds_each_ranking_once(tmp_path: Path) -> None:
    store, file = tmp_path / "store", tmp_path / "pairs.jsonl"
    rows = [{"prompt": "Why?", "chosen": f"a{n}", "rejected": "b"} for n in range(3)]
    rows.append({"prompt": "Why?", "chosen": "b", "rejected": "b"})
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    for new in (3, 0):
        code, said = headwater("rankings", "import", file, "--store", store, "--rater", "team")
        assert code == 0 and f"3 rankings in {file}, {new} of them new" in said
        assert "skipped 1: equal_answers" in said
    assert [each.ranking.rater for each in rankings.read(Store(str(store)))] == ["team"] * 3


def test_rankings_that_were_set_aside_come_back(store: Store) -> None:
    before = rankings.read(store)
    bad = [each for each in before if each.ranking.rater == "guesses"]
    set_aside(store, bad)
    assert len(rankings.read(store)) == 80 and len(store.folder(ASIDE).files(suffix=".json")) == 40
    code, said = headwater("rankings", "restore", "guesses", "--store", store.location)
    assert code == 0 and "40 rankings of guesses are learnt from again" in said
    assert rankings.read(store) == before and not store.folder(ASIDE).files()
