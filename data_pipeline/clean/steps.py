"""The cleaning steps: their settings, their order (FineWeb's) and their rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from headwater.cluster.runtime.stage import StageConfig
from headwater.data_pipeline.dedup.exact import ExactConfig
from headwater.data_pipeline.dedup.minhash import MinHashConfig
from headwater.data_pipeline.dedup.substring import SubstringConfig
from headwater.data_pipeline.filters.c4 import C4Config
from headwater.data_pipeline.filters.c4 import rules as c4_rules
from headwater.data_pipeline.filters.decontaminate import DecontaminateConfig
from headwater.data_pipeline.filters.decontaminate import rules as decontaminate_rules
from headwater.data_pipeline.filters.fineweb import FineWebConfig
from headwater.data_pipeline.filters.fineweb import rules as fineweb_rules
from headwater.data_pipeline.filters.gopher import (
    QualityConfig,
    RepetitionConfig,
    quality_rules,
    repetition_rules,
)
from headwater.data_pipeline.filters.language import LanguageConfig
from headwater.data_pipeline.filters.language import rules as language_rules
from headwater.data_pipeline.filters.pii import PiiConfig
from headwater.data_pipeline.filters.quality_classifier import QualityClassifierConfig
from headwater.data_pipeline.filters.quality_classifier import rules as quality_classifier_rules
from headwater.data_pipeline.filters.toxicity import ToxicityConfig
from headwater.data_pipeline.filters.toxicity import rules as toxicity_rules
from headwater.data_pipeline.filters.url import UrlConfig
from headwater.data_pipeline.text.extract import ExtractConfig
from headwater.data_pipeline.verdict import Rule

OWN_STEPS = (
    "url", "extract", "language", "gopher_repetition", "gopher_quality", "c4", "fineweb",
    "quality_classifier", "toxicity", "decontaminate",
)  # fmt: skip
"""Per-document steps. The later steps compare documents or only rewrite them."""

RULES: dict[str, Callable[[Any], list[Rule]]] = {
    "language": language_rules,
    "gopher_repetition": repetition_rules,
    "gopher_quality": quality_rules,
    "c4": c4_rules,
    "fineweb": fineweb_rules,
    "quality_classifier": quality_classifier_rules,
    "toxicity": toxicity_rules,
    "decontaminate": decontaminate_rules,
}
"""Rules of each step that has scores. The other steps reject a document directly."""


class CleanConfig(StageConfig):
    """Settings of the stage `clean`: one entry per step. The order is fixed and follows FineWeb."""

    url: UrlConfig = UrlConfig()
    """Blocklists of URLs."""
    extract: ExtractConfig = ExtractConfig()
    """Extraction of the main text from HTML."""
    language: LanguageConfig = LanguageConfig()
    """Language identification: keeps documents in the listed languages."""
    gopher_repetition: RepetitionConfig = RepetitionConfig()
    """Gopher's repetition rules."""
    gopher_quality: QualityConfig = QualityConfig()
    """Gopher's quality rules."""
    c4: C4Config = C4Config()
    """C4's line and document rules."""
    fineweb: FineWebConfig = FineWebConfig()
    """FineWeb's line rules."""
    quality_classifier: QualityClassifierConfig = QualityClassifierConfig()
    """Quality classifier trained on your own examples."""
    toxicity: ToxicityConfig = ToxicityConfig()
    """Filter for obscene and toxic text, by word lists or a classifier."""
    decontaminate: DecontaminateConfig = DecontaminateConfig()
    """Removal of documents that contain text of evaluation sets."""
    exact_dedup: ExactConfig = ExactConfig()
    """Removal of exact duplicates."""
    minhash_dedup: MinHashConfig = MinHashConfig()
    """Removal of near duplicates by MinHash."""
    pii: PiiConfig = PiiConfig()
    """Replacement of personal identifiers; drops no document."""
    substring_dedup: SubstringConfig = SubstringConfig()
    """Removal of spans repeated across documents, from the texts in their final form."""

    def steps(self) -> list[str]:
        """Names of the active steps, in order. Extraction is always included."""
        return [name for name in CleanConfig.model_fields if name == "extract" or self._has_work(name)]

    def own_steps(self) -> list[str]:
        return [name for name in self.steps() if name in OWN_STEPS]

    def rules(self, step: str) -> list[Rule]:
        """Rules on the scores `<step>.<name>` of a step; empty for steps without scores."""
        return RULES[step](getattr(self, step)) if step in RULES else []

    def files(self) -> list[str]:
        """Files that the steps read in addition to the documents."""
        return [file for name in self.steps() for file in getattr(getattr(self, name), "files", ())]

    def _has_work(self, name: str) -> bool:
        step = getattr(self, name)
        return bool(step.enabled and getattr(step, "wanted", True))
