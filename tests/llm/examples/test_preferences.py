"""Pairs from the corpus and rankings from people."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.store import Store
from headwater.llm.examples.preferences import (
    RANKINGS,
    Preference,
    headline_pairs,
    rankings_fingerprint,
    read_rankings,
    save_ranking,
)

PROMPT = [{"role": "user", "content": "Write a headline."}]


def documents(count: int) -> list[dict[str, str]]:
    return [
        {"id": f"d{i}", "url": "", "title": f"Bridge number {i} rebuilt", "text": f"Bridge {i} was rebuilt."}
        for i in range(count)
    ]


def save(store: Store, chosen: str = "Good", rejected: str = "Bad") -> str:
    return save_ranking(store.location, PROMPT, chosen, rejected, model="m", source="console")


def test_each_true_headline_is_set_against_another_articles() -> None:
    pairs = headline_pairs(documents(50), seed=1)
    assert len(pairs) == 50
    for number, pair in enumerate(pairs):
        assert pair.chosen == f"Bridge number {number} rebuilt"
        assert pair.rejected != pair.chosen and pair.rejected.startswith("Bridge number")
        assert f"Bridge {number} was" in pair.prompt[0]["content"] and len(pair.prompt) == 1
    assert len({pair.rejected for pair in pairs}) > 25  # spread over the articles
    assert headline_pairs(documents(50), seed=1) == pairs
    assert headline_pairs(documents(50), seed=2) != pairs


def test_one_headline_alone_makes_no_pair() -> None:
    assert headline_pairs(documents(1), seed=0) == []
    assert headline_pairs([documents(1)[0]] * 3, seed=0) == []


def test_a_ranking_is_read_back_as_it_was_saved(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    location = save(store)
    assert Path(location).parent == tmp_path / RANKINGS
    assert read_rankings(store) == [Preference(PROMPT, "Good", "Bad", "console")]
    kept = json.loads(Path(location).read_text())
    assert kept["model"] == "m" and kept["time"]


def test_an_empty_store_has_no_rankings(tmp_path: Path) -> None:
    assert read_rankings(Store(str(tmp_path))) == []
    assert rankings_fingerprint(Store(str(tmp_path)))["rankings"] == 0


def test_many_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with ThreadPoolExecutor(8) as pool:
        places = list(pool.map(lambda number: save(store, f"Good {number}"), range(40)))
    assert len(set(places)) == 40
    assert {found.chosen for found in read_rankings(store)} == {f"Good {number}" for number in range(40)}
    assert not list((tmp_path / RANKINGS).glob("*.tmp"))


def test_a_bad_file_is_named_and_the_others_are_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(str(tmp_path))
    save(store)
    folder = tmp_path / RANKINGS
    (folder / "0-half.json").write_text('{"prompt": [')
    (folder / "1-list.json").write_text("[]")
    (folder / "2-empty.json").write_text(
        json.dumps({"prompt": PROMPT, "chosen": " ", "rejected": "b", "source": "x"})
    )
    (folder / "3-bytes.json").write_bytes(b"\xff\xff")
    bad: dict[str, str] = {}
    assert len(read_rankings(store, bad)) == 1
    assert [Path(name).name for name in bad] == ["0-half.json", "1-list.json", "2-empty.json", "3-bytes.json"]
    assert "`chosen` is not a non-empty string" in bad[str(folder / "2-empty.json")]
    assert "0-half.json" in caplog.text


def test_the_fingerprint_changes_with_every_ranking(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    seen = [rankings_fingerprint(store)]
    for _ in range(3):
        save(store)
        seen.append(rankings_fingerprint(store))
    assert [found["rankings"] for found in seen] == [0, 1, 2, 3]
    assert len({found["rankings_sha256"] for found in seen}) == 4
    assert rankings_fingerprint(store) == seen[-1]


@pytest.mark.parametrize(
    ("prompt", "chosen", "rejected", "fault"),
    [
        (PROMPT, "", "b", "`chosen`"),
        (PROMPT, "same", "same", "both answers are equal"),
        ([], "a", "b", "not a non-empty list"),
        ([*PROMPT, {"role": "assistant", "content": "a"}], "a", "b", "ends with an assistant"),
    ],
)
def test_a_ranking_that_teaches_nothing_is_refused(
    tmp_path: Path, prompt: list[dict[str, str]], chosen: str, rejected: str, fault: str
) -> None:
    with pytest.raises(HeadwaterError, match=fault):
        save_ranking(str(tmp_path), prompt, chosen, rejected, model="m", source="console")
    assert not (tmp_path / RANKINGS).exists()
