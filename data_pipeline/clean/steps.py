"""The cleaning steps: their settings and their order (FineWeb's)."""

from __future__ import annotations

from headwater.cluster.runtime.stage import StageConfig
from headwater.data_pipeline.dedup.exact import ExactConfig
from headwater.data_pipeline.dedup.minhash import MinHashConfig
from headwater.data_pipeline.dedup.substring import SubstringConfig
from headwater.data_pipeline.filters.c4 import C4Config
from headwater.data_pipeline.filters.decontaminate import DecontaminateConfig
from headwater.data_pipeline.filters.filter import FilterConfig
from headwater.data_pipeline.filters.fineweb import FineWebConfig
from headwater.data_pipeline.filters.gopher import QualityConfig, RepetitionConfig
from headwater.data_pipeline.filters.language import LanguageConfig
from headwater.data_pipeline.filters.pii import PiiConfig
from headwater.data_pipeline.filters.quality_classifier import QualityClassifierConfig
from headwater.data_pipeline.filters.toxicity import ToxicityConfig
from headwater.data_pipeline.filters.url import UrlConfig
from headwater.data_pipeline.text.extract import ExtractConfig
from headwater.data_pipeline.verdict import Rule


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
        return [name for name in type(self).model_fields if name == "extract" or self._has_work(name)]

    def own_steps(self) -> list[str]:
        """The active steps that look at one document: extraction and the filters. The later steps compare
        documents or only rewrite them."""
        return [name for name in self.steps() if name == "extract" or self.filter(name) is not None]

    def filter(self, step: str) -> FilterConfig | None:
        """Settings of a step that is a filter; None for the other steps."""
        settings = getattr(self, step)
        return settings if isinstance(settings, FilterConfig) else None

    def rules(self, step: str) -> list[Rule]:
        """Rules on the scores `<step>.<name>` of a step; empty for steps without scores."""
        found = self.filter(step)
        return found.rules() if found is not None else []

    def rewrites(self, step: str) -> bool:
        """Whether the step changes the text of a kept document."""
        found = self.filter(step)
        return found.rewrites if found is not None else step in ("extract", "pii")

    def files(self) -> list[str]:
        """Files that the steps read in addition to the documents."""
        return [file for found in map(self.filter, self.steps()) if found is not None for file in found.files]

    def _has_work(self, name: str) -> bool:
        found = self.filter(name)
        return bool(getattr(self, name).enabled and (found is None or found.wanted))
