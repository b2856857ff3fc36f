"""The cleaning steps: their settings and their order (FineWeb's)."""

from __future__ import annotations

from typing import Any, Self

from pydantic import model_validator

from headwater.cluster.runtime.stage import StageConfig
from headwater.data_pipeline.dedup.exact import ExactConfig
from headwater.data_pipeline.dedup.minhash import MinHashConfig
from headwater.data_pipeline.dedup.substring import SubstringConfig
from headwater.data_pipeline.filters.c4 import C4Config
from headwater.data_pipeline.filters.classifiers.quality_classifier import QualityClassifierConfig
from headwater.data_pipeline.filters.classifiers.toxicity import ToxicityConfig
from headwater.data_pipeline.filters.custom import CustomFilter
from headwater.data_pipeline.filters.decontaminate import DecontaminateConfig
from headwater.data_pipeline.filters.filter import FilterConfig, Measure
from headwater.data_pipeline.filters.fineweb import FineWebConfig
from headwater.data_pipeline.filters.gopher import QualityConfig, RepetitionConfig
from headwater.data_pipeline.filters.language import LanguageConfig
from headwater.data_pipeline.filters.licence import LicenceConfig
from headwater.data_pipeline.filters.pii import PiiConfig
from headwater.data_pipeline.filters.published import published
from headwater.data_pipeline.filters.url import UrlConfig
from headwater.data_pipeline.text.main_text.extract import ExtractConfig
from headwater.data_pipeline.text.words.languages import ENGLISH, language_of
from headwater.data_pipeline.verdict import Rule

BEFORE_LANGUAGE = ("url", "extract", "licence", "language")
"""Steps that run before a document's language is known."""


class CleanConfig(StageConfig):
    """Settings of the stage `clean`: one entry per step. The order is fixed and follows FineWeb."""

    url: UrlConfig = UrlConfig()
    """Blocklists of URLs."""
    extract: ExtractConfig = ExtractConfig()
    """Extraction of the main text from HTML."""
    licence: LicenceConfig = LicenceConfig()
    """Keeps pages under the listed licences."""
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
    filters: tuple[CustomFilter, ...] = ()
    """Filters of your own files."""
    exact_dedup: ExactConfig = ExactConfig()
    """Removal of exact duplicates."""
    minhash_dedup: MinHashConfig = MinHashConfig()
    """Removal of near duplicates by MinHash."""
    pii: PiiConfig = PiiConfig()
    """Replacement of personal identifiers; drops no document."""
    substring_dedup: SubstringConfig = SubstringConfig()
    """Removal of spans repeated across documents, from the texts in their final form."""

    @model_validator(mode="after")
    def _names_differ(self) -> CleanConfig:
        names = self.names()
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"filters: {name} is the name of two steps; rename the class")
        return self

    def names(self) -> list[str]:
        """Names of all steps, in order. Those of `filters` are the names of their classes."""
        own = [custom.name for custom in self.filters]
        fields = list(type(self).model_fields)
        place = fields.index("filters")
        return [*fields[:place], *own, *fields[place + 1 :]]

    def settings(self, step: str) -> StageConfig:
        """Settings of a step."""
        own = {custom.name: custom for custom in self.filters}.get(step)
        found: StageConfig = own.filter if own is not None else getattr(self, step)
        return found

    def steps(self) -> list[str]:
        """Names of the active steps, in order. Extraction is always included."""
        return [name for name in self.names() if name == "extract" or self._has_work(name)]

    def own_steps(self) -> list[str]:
        """The active steps that look at one document: extraction and the filters. The later steps compare
        documents or only rewrite them."""
        return [name for name in self.steps() if name == "extract" or self.filter(name) is not None]

    def filter(self, step: str) -> FilterConfig | None:
        """Settings of a step that is a filter; None for the other steps."""
        settings = self.settings(step)
        return settings if isinstance(settings, FilterConfig) else None

    def measurer(self, step: str) -> Measure | None:
        """The function that scores documents for a step; None for steps that are no filters."""
        own = {custom.name: custom for custom in self.filters}.get(step)
        found = self.filter(step)
        return own.measurer() if own is not None else found.measurer() if found is not None else None

    def of_language(self, code: str) -> Self:
        """The settings for documents in a language: published limits in place of defaults, then those of
        `language.filters`. Nothing is published for English. Off with `language.per_language`."""
        if not (self.language.enabled and self.language.per_language):
            return self
        limits = language_of(code).limits
        changes = {} if limits is None else published(limits, score=bool(self.language.model))
        for step, values in self.language.filters.get(code, {}).items():
            changes[step] = changes.get(step, {}) | values
        return self.model_copy(update={step: self._changed(step, code, new) for step, new in changes.items()})

    def splitter(self, code: str) -> str:
        """How the texts of a language are split into words."""
        aware = self.language.enabled and self.language.per_language
        return language_of(code).words if aware else ENGLISH

    def _changed(self, step: str, code: str, values: dict[str, Any]) -> FilterConfig:
        before = self.filter(step)
        assert before is not None, step
        own = self.language.filters.get(code, {}).get(step, {})
        fields = type(before).model_fields
        kept = {n for n in values if n in fields and getattr(before, n) != fields[n].default} - own.keys()
        new = {name: value for name, value in values.items() if name not in kept}
        return type(before).model_validate(before.model_dump() | new)

    @model_validator(mode="after")
    def _settings_of_languages_are_valid(self) -> Self:
        for code, steps in self.language.filters.items():
            for step, values in steps.items():
                found = self.filter(step) if step in type(self).model_fields else None
                where = f"`language.filters.{code}.{step}`"
                if found is None or step in BEFORE_LANGUAGE:
                    names = [name for name in type(self).model_fields if self.filter(name) is not None]
                    later = ", ".join(name for name in names if name not in BEFORE_LANGUAGE)
                    raise ValueError(f"{where}: not a filter after `language`; those are {later}")
                for name in values:
                    if name not in type(found).model_fields:
                        raise ValueError(f"{where} has no setting `{name}`")
                try:
                    type(found).model_validate(found.model_dump() | values)
                except ValueError as error:
                    raise ValueError(f"{where}: {error}") from error
        return self

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
        settings: Any = self.settings(name)
        return bool(settings.enabled and (found is None or found.wanted))
