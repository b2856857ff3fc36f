"""The filters compared with naive implementations of their published definitions."""

from __future__ import annotations

import collections
import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.cluster.errors import HeadwaterError
from headwater.data_pipeline.filters import c4, pii
from headwater.data_pipeline.filters.c4 import C4Config
from headwater.data_pipeline.filters.decontaminate import DecontaminateConfig, Decontaminator
from headwater.data_pipeline.filters.language import LanguageConfig, LanguageFilter
from headwater.data_pipeline.filters.url import UrlConfig, UrlFilter
from headwater.data_pipeline.text.normalise import normalise
from headwater.data_pipeline.text.words import counting
from headwater.data_pipeline.text.words import document_text as text_module
from headwater.data_pipeline.text.words.document_text import Text, vocabulary
from headwater.data_pipeline.verdict import Rejection, first_hit
from tests.data_pipeline.decided import decided

SENTENCE = (
    "The council said on Tuesday that people who have lived near the river for years want to be heard. "
)
VOCABULARY = ["a", "ab", "b", "ba", "river", "the", "stone", "é", "日本", "."]


def reason(verdict: Rejection | None) -> str | None:
    return verdict.reason if isinstance(verdict, Rejection) else None


def prose(words: int, seed: int = 1) -> str:
    """Text that passes every rule: varied words, sentences of ten words."""
    generator = random.Random(seed)
    letters = "abcdefghijklmnopqrstuvwxyz"
    made = ["".join(generator.choices(letters, k=generator.randint(3, 8))) for _ in range(words)]
    made[1:8:2] = ["the", "and", "that", "with"]
    return " ".join(" ".join(made[i : i + 10]) + "." for i in range(0, words, 10))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(VOCABULARY), min_size=1, max_size=60), st.integers(1, 10))
def test_ngram_counts_equal_the_naive_definition(pieces: list[str], n: int) -> None:
    found = Text(" ".join(pieces)).words
    table = found.vocabulary
    strings = found.strings()
    spaced = [" ".join(strings[i : i + n]) for i in range(len(strings) - n + 1)]
    top, count = collections.Counter(spaced).most_common(1)[0] if spaced else ("", 0)
    assert counting.top_ngram_characters(found.ids, table.lengths.values, n) == len(top) * count
    seen: set[str] = set()
    repeated = index = 0
    while index < len(strings) - n + 1:
        joined = "".join(strings[index : index + n])
        if joined in seen:
            repeated += len(joined)
            index += n
        else:
            seen.add(joined)
            index += 1
    tables = table.lengths.values, table.hashes.values, table.powers.values
    assert counting.duplicate_ngram_characters(found.ids, *tables, n) == repeated


def test_words_are_those_of_spacy() -> None:
    text = "Mr. O'Brien's 1,000.50 dollars (U.S.) weren't there... https://x.org/a?b=1 – 日本"
    assert Text(text).words.strings() == [
        "Mr.", "O'Brien", "'s", "1,000.50", "dollars", "(", "U.S.", ")", "were", "n't", "there",
        "...", "https://x.org/a?b=1", "–", "日本",
    ]  # fmt: skip


@pytest.mark.timeout(60)
@pytest.mark.parametrize("piece", ['"', "(", "'s", "=", "_", ")a(", "“'"])
def test_long_runs_of_punctuation_do_not_hang_the_tokenizer(piece: str) -> None:
    """Without a limit spaCy would need hours for each of these."""
    words = Text(f"before {piece * 100_000} after").words.strings()
    assert "".join(words) == f"before{piece * 100_000}after"


def test_restarting_a_full_vocabulary_does_not_change_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [prose(60, seed) for seed in range(5)]
    before = vocabulary()
    expected = [before.words(text).strings() for text in texts]
    monkeypatch.setattr(text_module, "CHUNKS_KEPT", 50)
    assert vocabulary() is not before
    found = [Text(text).words for text in texts]
    assert [words.strings() for words in found] == expected, "words keep the tables that they came from"
    assert len({id(words.vocabulary) for words in found}) > 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (prose(300), None),
        (prose(40), "gopher_short_doc"),
        (
            prose(100).replace(".", ". x y z a b c d e f g h i j k l m n o p q r s t u v w"),
            "gopher_below_avg_threshold",
        ),
        (" ".join(["the", "and"] + ["incomprehensibilities"] * 60), "gopher_above_avg_threshold"),
        (prose(100) + " #" * 40, "gopher_too_many_hashes"),
        (prose(100) + " and so on..." * 20, "gopher_too_many_ellipsis"),
        ("\n".join("- " + prose(20, n) for n in range(10)), "gopher_too_many_bullets"),
        ("\n".join(prose(30, n)[:-1] + "..." for n in range(10)), "gopher_too_many_end_ellipsis"),
        (prose(100) + " 1 2 3 4 5 6 7 8 9" * 10, "gopher_below_alpha_threshold"),
        (
            prose(100).replace("the", "xq").replace("and", "qx").replace("that", "qq"),
            "gopher_enough_stop_words",
        ),
    ],
    ids=lambda value: str(value)[:24],
)
def test_each_gopher_quality_rule_hits_what_it_is_for(text: str, expected: str | None) -> None:
    assert decided("gopher_quality", [text])[0][0] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (prose(300), None),
        ("", "empty"),
        ("\n\n".join([prose(20)] * 3 + [prose(20, 2)]), "dup_para_frac"),
        (
            "\n\n".join([prose(100)] * 2 + [prose(10, n) for n in range(2, 7)]),
            "dup_para_char_frac",
        ),
        ("\n".join([prose(20)] * 3 + [prose(20, 2)]), "dup_line_frac"),
        ("\n".join([prose(100)] * 2 + [prose(10, n) for n in range(2, 7)]), "dup_line_char_frac"),
        ("buy now " * 60, "top_2_gram"),
        (f"{prose(200)} {prose(200)}", "duplicated_5_n_grams"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_each_gopher_repetition_rule_hits_what_it_is_for(text: str, expected: str | None) -> None:
    assert decided("gopher_repetition", [text])[0][0] == expected


def test_c4_takes_out_lines_and_keeps_the_rest() -> None:
    lines = [
        "Home",
        SENTENCE * 5,
        "Please turn on JavaScript to see this page.",
        "See our privacy policy for more about this.",
        "A fact[12] that was stated[citation needed] by someone.",
        "word " + "x" * 1001,
    ]
    kept = f"{(SENTENCE * 5).strip()}\nA fact that was stated by someone."
    assert decided("c4", ["\n".join(lines)]) == [(None, kept)]


def test_c4_keeps_the_indentation_of_a_documents_lines() -> None:
    text = f"  {SENTENCE * 5}\n\tMenu\n\n    A fact[12] that was stated.\nThe last line of it."
    without, scores = c4.measure(text, C4Config())  # type: ignore[misc]
    found = c4.measure(text, C4Config(), indented=True)
    assert found == (
        f"  {SENTENCE.strip()}"
        + f" {SENTENCE.strip()}" * 4
        + "\n    A fact that was stated.\nThe last line of it.",
        scores,
    )
    assert [line.strip() for line in found[0].split("\n")] == without.split("\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (SENTENCE * 5, None),
        (SENTENCE * 4, "too_few_sentences"),
        (SENTENCE * 5 + "\nlorem ipsum dolor sit amet", "lorem_ipsum"),
        (SENTENCE * 5 + "\nfunction f() { return 1 }", "curly_bracket"),
    ],
)
def test_c4_rejects_whole_documents(text: str, expected: str | None) -> None:
    assert decided("c4", [text])[0][0] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\n".join(prose(30, n) for n in range(5)), None),
        ("one line that ends in no mark, as many pages do " * 3, "line_punct_ratio"),
        ("\n".join(prose(30, n)[:-1] for n in range(10)), "line_punct_ratio"),
        ("\n".join(["Short line."] * 0 + [f"Line {n}." for n in range(9)] + [prose(30)]), "short_line_ratio"),
        ("\n".join([prose(30)] * 2 + [prose(30, n) for n in range(2, 9)]), "char_dup_ratio"),
        ("\n".join("abcdefghijklmnopqrstuvwxyzabcdef." for _ in range(1)), None),
        ("\n".join(f"{chr(97 + n) * 40}." for n in range(20)), "list_ratio"),
    ],
    ids=["good", "single line", "no ends", "short", "repeated", "one word", "list"],
)
def test_each_fineweb_rule_hits_what_it_is_for(text: str, expected: str | None) -> None:
    assert decided("fineweb", [text])[0][0] == expected


def test_language_is_found_with_its_certainty_offline() -> None:
    measure = LanguageFilter().measure

    def judged(text: str, **settings: object) -> str | None:
        return reason(first_hit(measure(text), LanguageConfig.model_validate(settings).rules()))

    assert measure(SENTENCE)["language"] == "en" and judged(SENTENCE) is None
    french = "Le conseil municipal a voté mardi en faveur du projet de pont sur la rivière."
    assert judged(french) == "other_language" and judged(french, languages=["en", "fr"]) is None
    german = measure("Der Stadtrat hat am Dienstag für den Bau der neuen Brücke gestimmt.")
    assert german["language"] == "de" and float(german["certainty"]) > 0.9
    mixed = "la casa ok 12 xx the"
    assert judged(mixed, languages=[measure(mixed)["language"]], min_score=0.99) == "uncertain_language"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Write to jane.doe+news@mail.example.co.uk, please.", "Write to <email>, please."),
        ("from 8.8.8.8 and 2001:4860:4860::8888", "from <ip> and <ip>"),
        ("at 192.168.1.1, 10.0.0.1 or ::1; version 1.2.3.4.5", None),
        ("call (212) 555-0123 or +44 20 7946 0958 or 1-800-273-8255.", "call <phone> or <phone> or <phone>."),
        ("card 4111 1111 1111 1111 or 5500-0000-0000-0004.", "card <card> or <card>."),
        ("card 4111 1111 1111 1112, ISBN 978-3-16-148410-0, id 12345678901234567890", None),
        ("in 2017-2018, 10:30:45, 1,234,567.89 and 3.14159265 and @user #tag", None),
        ("population 331 449 281, from 1990 to 2020, score 100-98-2019", None),
    ],
    ids=lambda value: str(value)[:20],
)
def test_identifiers_are_replaced_and_other_numbers_are_not(text: str, expected: str | None) -> None:
    redacted, counts = pii.redact(text, pii.PiiConfig())
    assert redacted == (text if expected is None else expected)
    assert sum(counts.values()) == redacted.count("<")
    assert pii.redact(redacted, pii.PiiConfig()) == (redacted, {})


IDENTIFIERS = st.sampled_from(
    [
        "8.8.8.8", "1.1.1.1", "::1", "2001:db8::1", "2606:4700::1111", "a@b.com", "x.y@z.co.uk",
        "4111 1111 1111 1111", "5500-0000-0000-0004", "+44 20 7946 0958", "(212) 555-0123", "+4915123456789",
    ]
)  # fmt: skip
NUMBERS_AND_MARKS = st.lists(IDENTIFIERS | st.text("0123456789 .:+-()@aF<٣", max_size=12), max_size=8)


@settings(max_examples=500, deadline=None)
@given(NUMBERS_AND_MARKS.map("".join) | NUMBERS_AND_MARKS.map(" ".join))
def test_redaction_prefilters_do_not_change_the_result(text: str) -> None:
    expected, counts = text, collections.Counter[str]()
    for kind, patterns, placeholder, holds in pii.KINDS:
        for pattern in patterns:
            found = [match for match in pattern.finditer(expected) if holds(match.group())]
            for match in reversed(found):
                expected = expected[: match.start()] + placeholder + expected[match.end() :]
            counts.update([kind] * len(found))
    assert pii.redact(text, pii.PiiConfig()) == (expected, dict(counts))


def test_luhn_agrees_with_published_numbers() -> None:
    """The card brands' published test numbers are valid; a changed digit is not (ISO/IEC 7812-1)."""
    for number in ("4242424242424242", "378282246310005", "6011111111111117", "79927398713"):
        assert pii.luhn(number)
        assert not pii.luhn(number[:-1] + str((int(number[-1]) + 1) % 10))


def test_normalising_leaves_one_form_and_no_invisible_characters() -> None:
    assert normalise("a\u00a0\u200bb\r\n\r\n\r\n\r\nc\u00ad  d\x00\te\u0301 ") == "a b\n\nc d é"
    assert normalise(normalise(SENTENCE)) == normalise(SENTENCE)


@pytest.mark.parametrize(
    ("lost", "mended"),
    [
        (
            'The vote on DeVos"?highly contentious nomination',
            "The vote on DeVos’ highly contentious nomination",
        ),
        ('"A worse choice,"?Warren said.', '"A worse choice," Warren said.'),
        ('called it "Halsehoods"?and left', 'called it "Halsehoods" and left'),
        ('available to the public "?immediately "?about', "available to the public — immediately — about"),
        ('Did he say "yes"? He did. "Why?" she asked.', 'Did he say "yes"? He did. "Why?" she asked.'),
    ],
)
def test_marks_lost_in_a_wrong_decoding_are_put_back(lost: str, mended: str) -> None:
    assert normalise(lost, repair=True) == mended
    assert normalise(mended, repair=True) == mended
    assert normalise(lost) == lost


CODE = 'def f(x):\n    if x:\n        return "?q=" + x\n\n\n\tdone  #  so\n    \n'


def test_normalising_leaves_line_starts_and_question_marks_as_they_were_written() -> None:
    assert normalise(CODE) == 'def f(x):\n    if x:\n        return "?q=" + x\n\n\tdone # so'
    assert normalise("\r\n    a\r\n  b") == "    a\n  b"
    assert normalise("  one line \n \t\n") == "one line"


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from('a" \t\n\r\u00a0\u3000\u200b?'), max_size=30), st.booleans())
def test_normalising_twice_changes_nothing_more(text: str, repair: bool) -> None:
    once = normalise(text, repair)
    assert normalise(once, repair) == once
    assert repair or once.split() == text.replace("\u200b", "").split()


def test_sentences_are_those_of_spacys_sentencizer() -> None:
    assert vocabulary().sentences(['He said "Go!" It was 3.5 km. Was it? Yes']) == 4
    assert vocabulary().sentences(["One.  Two spaces.", "A line.", ""]) == 4


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://spam.example/page", "blocked_domain"),
        ("http://www.SPAM.example:8080/", "blocked_domain"),
        ("https://notspam.example/spam.example", None),
        ("https://news.example/free-casino/1", "blocked_word"),
        ("https://news.example/casinos", None),
        ("https://from-a-file.example/", "blocked_domain"),
        ("http://[broken", "malformed_url"),
        ("", None),
    ],
)
def test_addresses_are_blocked_by_domain_and_by_word(url: str, expected: str | None, tmp_path: Path) -> None:
    (tmp_path / "domains.txt").write_text("# ours\nFrom-a-file.example  # a remark\n\n")
    config = UrlConfig(
        domains=("spam.example",), words=("casino",), domain_files=(str(tmp_path / "domains.txt"),)
    )
    assert reason(UrlFilter(config)(url)) == expected


def test_text_of_evaluation_sets_is_found_in_other_case_and_punctuation(tmp_path: Path) -> None:
    question = "Which river flows through the old town before it reaches the sea in the far north?"
    short = "Who wrote the first book about bees?"
    rows = [{"question": question, "choices": ["the long one", short]}, {"question": "What is it?"}]
    (tmp_path / "set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = DecontaminateConfig(sets=(str(tmp_path / "set.jsonl"),), min_words=7)
    measure = Decontaminator(config).measure

    def judge(text: str) -> Rejection | None:
        return first_hit(measure(text), config.rules())

    assert judge(SENTENCE * 5) is None
    assert judge(f"{SENTENCE} What is it? {SENTENCE}") is None
    found = judge(SENTENCE + question.upper().replace("?", " --") + SENTENCE)
    assert found is not None and found.reason == "evaluation_text" and found.score == 4
    assert reason(judge(f"{SENTENCE}Who wrote the first book about bees. {SENTENCE}")) == "evaluation_text"


def test_a_list_that_is_not_there_or_broken_is_named(tmp_path: Path) -> None:
    with pytest.raises(HeadwaterError, match=r"nowhere\.txt: no such file"):
        UrlFilter(UrlConfig(domain_files=(str(tmp_path / "nowhere.txt"),)))
    (tmp_path / "set.jsonl").write_text('{"a": "b"}\n{broken\n')
    with pytest.raises(HeadwaterError, match=r"set\.jsonl, line 2: not valid JSON"):
        Decontaminator(DecontaminateConfig(sets=(str(tmp_path / "set.jsonl"),)))
