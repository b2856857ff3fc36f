"""One document through the steps that look at it alone: extract, language, and the quality filters."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from cluster.stage import StageConfig
from data_pipeline.dedup.exact import ExactConfig
from data_pipeline.dedup.minhash import MinHashConfig
from data_pipeline.documents import Document
from data_pipeline.extract import ExtractConfig, Extractor
from data_pipeline.filters.c4 import C4Config
from data_pipeline.filters.c4 import rewrite as rewrite_by_c4
from data_pipeline.filters.decontaminate import DecontaminateConfig, Decontaminator
from data_pipeline.filters.fineweb import FineWebConfig
from data_pipeline.filters.fineweb import judge as judge_by_fineweb
from data_pipeline.filters.gopher import QualityConfig, RepetitionConfig, judge_quality, judge_repetition
from data_pipeline.filters.language import LanguageConfig, LanguageFilter
from data_pipeline.filters.pii import PiiConfig
from data_pipeline.filters.text import Text
from data_pipeline.filters.url import UrlConfig, UrlFilter
from data_pipeline.filters.verdict import Rejection
from data_pipeline.funnel import StepCount
from data_pipeline.normalise import normalise

OWN_STEPS = (
    "url", "extract", "language", "gopher_repetition", "gopher_quality", "c4", "fineweb", "decontaminate",
)  # fmt: skip
"""Steps that judge a document by itself, in FineWeb's order; what follows compares documents."""


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
    decontaminate: DecontaminateConfig = DecontaminateConfig()
    """Text of evaluation sets."""
    exact_dedup: ExactConfig = ExactConfig()
    """Exact duplicates."""
    minhash_dedup: MinHashConfig = MinHashConfig()
    """Near duplicates."""
    pii: PiiConfig = PiiConfig()
    """Personal identifiers are replaced; drops nothing."""

    def steps(self) -> list[str]:
        """Names of the steps that have something to do, in order. Extraction always has its place."""
        return [name for name in CleanConfig.model_fields if name == "extract" or self._has_work(name)]

    def files(self) -> list[str]:
        """What the steps read beside the documents."""
        return [file for name in self.steps() for file in getattr(getattr(self, name), "files", ())]

    def _has_work(self, name: str) -> bool:
        step = getattr(self, name)
        return bool(step.enabled and getattr(step, "wanted", True))


def _size(document: Document) -> int:
    return len(document.text) or len(document.html or b"")


Step = Callable[[Document], Document | Rejection]


class Judge:
    """Holds what is expensive to load; counts what each step does."""

    def __init__(self, config: CleanConfig) -> None:
        self._config = config
        self._extractor = Extractor(config.extract)
        on = config.steps()
        self._url = UrlFilter(config.url) if "url" in on else None
        self._decontaminator = Decontaminator(config.decontaminate) if "decontaminate" in on else None
        self._language = LanguageFilter(config.language) if config.language.enabled else None
        self._text = Text("")
        self._steps: list[tuple[str, Step]] = [
            (name, getattr(self, f"_{name}_step")) for name in config.steps() if name in OWN_STEPS
        ]
        self.counts: dict[str, StepCount] = {}
        self.seconds: dict[str, float] = {}
        self.restart()

    def restart(self) -> None:
        """Count from zero: a new unit begins."""
        self.counts = {name: StepCount(name) for name, _ in self._steps}
        self.seconds = dict.fromkeys(self.counts, 0.0)

    def __call__(self, document: Document) -> tuple[str, Rejection, Document] | Document:
        """The cleaned document, or the step that rejects it, why, and the document as that step got it."""
        for name, step in self._steps:
            before = _size(document)
            started = time.perf_counter()
            result = step(document)
            self.seconds[name] += time.perf_counter() - started
            if isinstance(result, Rejection):
                self.counts[name].drop(before, result.reason)
                return name, result, document
            document = result
            self.counts[name].keep(before, _size(document))
        return document

    def _of(self, document: Document) -> Text:
        """The document's text with its words; made once for all steps that leave the text as it is."""
        if self._text.text is not document.text:
            self._text = Text(document.text)
        return self._text

    def _url_step(self, document: Document) -> Document | Rejection:
        assert self._url is not None
        return self._url(document.url) or document

    def _decontaminate_step(self, document: Document) -> Document | Rejection:
        assert self._decontaminator is not None
        return self._decontaminator(document.text) or document

    def _extract_step(self, document: Document) -> Document | Rejection:
        config = self._config.extract
        title, text = document.title, document.text
        if not text and document.html is not None:
            if not config.enabled:
                return Rejection("html_not_extracted")
            found = self._extractor(document.html, document.url)
            if isinstance(found, Rejection):
                return found
            title, text = title or found[0], found[1]
        text = normalise(text, config.repair)
        if not text:
            return Rejection("no_text")
        title = normalise(title, config.repair).replace("\n", " ")
        return replace(document, title=title, text=text, html=None)

    def _language_step(self, document: Document) -> Document | Rejection:
        assert self._language is not None
        language, rejection = self._language(document.text)
        return rejection or replace(document, language=language)

    def _gopher_repetition_step(self, document: Document) -> Document | Rejection:
        return judge_repetition(self._of(document), self._config.gopher_repetition) or document

    def _gopher_quality_step(self, document: Document) -> Document | Rejection:
        return judge_quality(self._of(document), self._config.gopher_quality) or document

    def _c4_step(self, document: Document) -> Document | Rejection:
        text = rewrite_by_c4(document.text, self._config.c4)
        if isinstance(text, Rejection):
            return text
        return document if text == document.text else replace(document, text=text)

    def _fineweb_step(self, document: Document) -> Document | Rejection:
        return judge_by_fineweb(self._of(document), self._config.fineweb) or document
