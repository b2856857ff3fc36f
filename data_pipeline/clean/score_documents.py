"""Runs one document through the per-document steps: computes its text and the scores of each step.

Processing stops early only if nothing is left to measure (a blocked URL, no text). The decision from the
scores follows later, in data_pipeline/clean/select_documents.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from headwater.data_pipeline.clean.steps import CleanConfig
from headwater.data_pipeline.documents import Document
from headwater.data_pipeline.filters import c4, fineweb, gopher
from headwater.data_pipeline.filters.decontaminate import Decontaminator
from headwater.data_pipeline.filters.language import LanguageFilter
from headwater.data_pipeline.filters.pii import redact
from headwater.data_pipeline.filters.quality_classifier import QualityClassifier
from headwater.data_pipeline.filters.toxicity import Toxicity
from headwater.data_pipeline.filters.url import UrlFilter
from headwater.data_pipeline.text.document_text import Text
from headwater.data_pipeline.text.extract import Extractor
from headwater.data_pipeline.text.normalise import normalise
from headwater.data_pipeline.verdict import Refused, Rejection, Scores

NORMALISED = 4
"""A text this many times longer than the limit is rejected before normalisation."""


@dataclass
class Measured:
    document: Document
    """The document after the steps, without its HTML."""
    characters: dict[str, int]
    """Characters as `read`, and after each step that rewrites the text."""
    scores: dict[str, Scores]
    """Scores by step."""
    stop: tuple[str, Rejection] | None = None
    """The step that stopped processing and its rejection; None if all steps ran."""


Step = Callable[[Measured], Rejection | None]


class Measurer:
    """Runs the steps and holds their models and lists. `seconds` accumulates the time of each step."""

    def __init__(self, config: CleanConfig) -> None:
        on = config.own_steps()
        self._config = config
        self._extractor = Extractor(config.extract)
        self._url = UrlFilter(config.url) if "url" in on else None
        self._decontaminator = Decontaminator(config.decontaminate) if "decontaminate" in on else None
        self._language = LanguageFilter() if "language" in on else None
        self._classifier = (
            QualityClassifier(config.quality_classifier) if "quality_classifier" in on else None
        )
        self._toxicity = Toxicity(config.toxicity) if "toxicity" in on else None
        self._text = Text("")
        self._steps: list[tuple[str, Step]] = [(name, getattr(self, f"_{name}_step")) for name in on]
        self.seconds = dict.fromkeys(on, 0.0)

    def __call__(self, document: Document) -> Measured:
        found = Measured(document, {"read": len(document.text) or len(document.html or b"")}, {})
        for name, step in self._steps:
            started = time.perf_counter()
            try:
                rejection = step(found)
            except Refused as refused:
                rejection = refused.rejection
            self.seconds[name] += time.perf_counter() - started
            if rejection is not None:
                found.stop = name, rejection
                break
        found.document = replace(found.document, html=None)
        return found

    def redact(self, found: Measured) -> None:
        """Replace personal identifiers in text and title, and record their number by kind in the scores."""
        if not self._config.pii.enabled:
            return
        text, in_text = redact(found.document.text, self._config.pii)
        title, in_title = redact(found.document.title, self._config.pii)
        kinds = in_text.keys() | in_title.keys()
        found.scores["pii"] = {kind: in_text.get(kind, 0) + in_title.get(kind, 0) for kind in kinds}
        found.document = replace(found.document, text=text, title=title)
        found.characters["pii"] = len(text)

    def _of(self, document: Document) -> Text:
        """The document's text with its words, cached until a step changes the text."""
        if self._text.text is not document.text:
            self._text = Text(document.text)
        return self._text

    def _url_step(self, found: Measured) -> Rejection | None:
        assert self._url is not None
        return self._url(found.document.url)

    def _extract_step(self, found: Measured) -> Rejection | None:
        config, document = self._config.extract, found.document
        title, text = document.title, document.text
        if not text and document.html is not None:
            if not config.enabled:
                return Rejection("html_not_extracted")
            extracted = self._extractor(document.html, document.url)
            if isinstance(extracted, Rejection):
                return extracted
            title, text = title or extracted[0], extracted[1]
        whole = len(text)
        if whole > NORMALISED * config.max_characters:
            text = text[: config.max_characters]
        text = normalise(text, config.repair)
        found.document = replace(document, text=text[: config.max_characters])
        if not text:
            return Rejection("no_text")
        if max(len(text), whole / NORMALISED) > config.max_characters:
            return Rejection("too_long", whole, config.max_characters)
        title = " ".join(normalise(title, config.repair).split())
        found.document = replace(document, title=title, text=text)
        found.characters["extract"] = len(text)
        return None

    def _language_step(self, found: Measured) -> None:
        assert self._language is not None
        scores = found.scores["language"] = self._language.measure(found.document.text)
        found.document = replace(found.document, language=str(scores["language"]))

    def _gopher_repetition_step(self, found: Measured) -> None:
        config = self._config.gopher_repetition
        found.scores["gopher_repetition"] = gopher.measure_repetition(self._of(found.document), config)

    def _gopher_quality_step(self, found: Measured) -> None:
        config = self._config.gopher_quality
        found.scores["gopher_quality"] = gopher.measure_quality(self._of(found.document), config)

    def _c4_step(self, found: Measured) -> Rejection | None:
        result = c4.measure(found.document.text, self._config.c4, indented=True)
        if isinstance(result, Rejection):
            return result
        text, found.scores["c4"] = result
        if text != found.document.text:
            found.document = replace(found.document, text=text)
        found.characters["c4"] = len(text)
        return None

    def _fineweb_step(self, found: Measured) -> None:
        found.scores["fineweb"] = fineweb.measure(self._of(found.document), self._config.fineweb)

    def _quality_classifier_step(self, found: Measured) -> None:
        assert self._classifier is not None
        found.scores["quality_classifier"] = self._classifier.measure(found.document.text)

    def _toxicity_step(self, found: Measured) -> None:
        assert self._toxicity is not None
        found.scores["toxicity"] = self._toxicity.measure(found.document.text)

    def _decontaminate_step(self, found: Measured) -> None:
        assert self._decontaminator is not None
        found.scores["decontaminate"] = self._decontaminator.measure(found.document.text)
