"""Word splitters of languages that spaCy's rules do not split, against texts made to be slow and by hand."""

from __future__ import annotations

import importlib.util

import pytest

from headwater.data_pipeline.text.words.document_text import Text, vocabulary
from headwater.data_pipeline.text.words.languages import UNSPACED, language_of, named, table
from headwater.data_pipeline.text.words.segmented import LONG, PACKAGES, PIECE, SPLITTERS, bounded, pieces

HERE = [name for name in SPLITTERS if all(importlib.util.find_spec(part) for part in PACKAGES.get(name, ()))]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("letter", ["漢", "ก", "1", '"', "क", "ア", "a"])
@pytest.mark.parametrize("splitter", HERE)
def test_long_runs_do_not_hang_a_splitter(splitter: str, letter: str) -> None:
    """Without limits jieba and PyThaiNLP would need minutes for some of these."""
    words = Text(letter * 100_000, splitter).words.strings()
    assert sum(map(len, words)) == 100_000


def test_only_longer_runs_are_cut() -> None:
    run = "長" * LONG
    assert list(bounded(f"ab {run[:-1]}。cd")) == [f"ab {run[:-1]}。cd"]
    cut = list(bounded(f"ab {run}。cd"))
    assert "".join(cut) == f"ab {run}。cd" and len(cut) == LONG // PIECE
    assert cut[0] == "ab " + "長" * PIECE


def test_a_long_text_is_cut_at_line_ends_where_there_are_any() -> None:
    text = "一二三四\n五六七\n八九十一二三四五六七八九"
    assert list(pieces(text, 30)) == ["一二三四\n五六七\n", "八九十一二三四五六七", "八九"]
    assert list(pieces("kurz", 30)) == ["kurz"]


@pytest.mark.parametrize(
    ("splitter", "text", "words"),
    [
        ("indic", "नाम, पता: 1,000.5 रु।", ["नाम", ",", "पता", ":", "1,000.5", "रु", "।"]),
        ("indic", "1,000 रु 1,000", ["1", ",", "000", "रु", "1,000"]),
        ("indic ur", "نام، پتہ: 1,000۔", ["نام", "،", "پتہ", ":", "1", ",", "000", "۔"]),
        ("clusters", "កម្ពុជា, ok!", ["ក", "ម្", "ពុ", "ជា", ",", "ok", "!"]),
    ],
)
def test_words_by_hand(splitter: str, text: str, words: list[str]) -> None:
    assert vocabulary(splitter).words(text).strings() == words


@pytest.mark.parametrize(
    ("splitter", "line", "count"),
    [
        ("indic", "यह एक है। वह दो है। और?", 3),
        ("indic ur", "یہ ایک ہے۔ وہ دو ہے؟ ہاں", 3),
        ("clusters", "ဒါဟာ တစ်။ အဲဒါ နှစ်။", 2),
    ],
)
def test_sentences_end_at_the_marks_of_their_scripts(splitter: str, line: str, count: int) -> None:
    assert vocabulary(splitter).sentences([line]) == count
    assert vocabulary(splitter).sentences([line, line]) == 2 * count


def test_the_table_knows_every_splitter_and_limit() -> None:
    assert {each.words for each in table() if not each.words.startswith("spacy ")} == {*SPLITTERS}
    assert {*PACKAGES} <= UNSPACED <= {*SPLITTERS}
    assert len({each.code for each in table()}) == len(table()), "a code names one language"
    german = language_of("de").limits
    assert german is not None and german.top_n_grams == ((2, 0.169), (3, 0.153), (4, 0.137))
    assert german.dup_n_grams[-1] == (10, 0.098) and german.stop_words[:3] == ("der", "und", "die")


def test_a_language_without_limits_has_those_of_its_script() -> None:
    korean, burmese = named("ko"), named("mya_Mymr")
    assert korean is not None and korean.limits is not None and korean.limits.stop_words == ()
    assert burmese is not None and (burmese.code, burmese.words) == ("my", "clusters")
    cyrillic = language_of("xyz_Cyrl").limits
    assert cyrillic is not None and cyrillic.min_avg_word_length <= 2 < 10 < cyrillic.max_avg_word_length
    assert named("xyz_Cyrl") is None
