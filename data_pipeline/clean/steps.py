"""The steps of cleaning: their settings, their order (FineWeb's), and the rules of those that measure."""

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
"""Steps that look at a document by itself; what follows compares documents, or only rewrites them."""

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
"""The rules of a step, from its settings. The other steps stop a document by themselves."""


class CleanConfig(StageConfig):
    """Settings of the stage `clean`: one entry a step. The order is FineWeb's and fixed."""

    url: UrlConfig = UrlConfig()
    """Blocklists of addresses."""
    extract: ExtractConfig = ExtractConfig()
    """HTML → main text."""
    language: LanguageConfig = LanguageConfig()
    """Language identification."""
    gopher_repetition: RepetitionConfig = RepetitionConfig()
    """Gopher's repetition rules."""
    gopher_quality: QualityConfig = QualityConfig()
    """Gopher's quality rules."""
    c4: C4Config = C4Config()
    """C4's rules."""
    fineweb: FineWebConfig = FineWebConfig()
    """FineWeb's rules."""
    quality_classifier: QualityClassifierConfig = QualityClassifierConfig()
    """A classifier trained on examples of yours."""
    toxicity: ToxicityConfig = ToxicityConfig()
    """Obscene and toxic text."""
    decontaminate: DecontaminateConfig = DecontaminateConfig()
    """Text of evaluation sets."""
    exact_dedup: ExactConfig = ExactConfig()
    """Exact duplicates."""
    minhash_dedup: MinHashConfig = MinHashConfig()
    """Near duplicates."""
    pii: PiiConfig = PiiConfig()
    """Personal identifiers are replaced; drops nothing."""
    substring_dedup: SubstringConfig = SubstringConfig()
    """Spans that are repeated across documents are cut out, of texts as they will be written."""

    def steps(self) -> list[str]:
        """Names of the steps that have something to do, in order. Extraction always has its place."""
        return [name for name in CleanConfig.model_fields if name == "extract" or self._has_work(name)]

    def own_steps(self) -> list[str]:
        return [name for name in self.steps() if name in OWN_STEPS]

    def rules(self, step: str) -> list[Rule]:
        """A step's rules about its scores `<step>.<name>`; none for steps without scores."""
        return RULES[step](getattr(self, step)) if step in RULES else []

    def files(self) -> list[str]:
        """What the steps read beside the documents."""
        return [file for name in self.steps() for file in getattr(getattr(self, name), "files", ())]

    def _has_work(self, name: str) -> bool:
        step = getattr(self, name)
        return bool(step.enabled and getattr(step, "wanted", True))
