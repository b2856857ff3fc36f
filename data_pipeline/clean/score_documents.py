"""Runs one document through the per-document steps: computes its text and the scores of each step.

Processing stops early only if nothing is left to measure (a blocked URL, no text), or in a language that is
not asked for. The decision from the scores follows later, in data_pipeline/clean/select_documents.py.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from headwater.data_pipeline.clean.steps import CleanConfig
from headwater.data_pipeline.documents import Document
from headwater.data_pipeline.filters.filter import FilterConfig, Measure, Measured
from headwater.data_pipeline.filters.pii import redact
from headwater.data_pipeline.text.main_text.extract import Extractor
from headwater.data_pipeline.text.normalise import normalise
from headwater.data_pipeline.text.words.languages import ENGLISH
from headwater.data_pipeline.verdict import Refused, Rejection, Scores, first_hit

NORMALISED = 4
"""A text this many times longer than the limit is rejected before normalisation."""


@dataclass(frozen=True)
class Language:
    """What the documents of one language are measured with."""

    config: CleanConfig
    splitter: str
    steps: dict[str, Measure]


class Measurer:
    """Runs the steps and holds their models and lists. `seconds` accumulates the time of each step."""

    def __init__(self, config: CleanConfig) -> None:
        self._config = config
        self._extractor = Extractor(config.extract)
        self._made: dict[str, list[tuple[FilterConfig | None, Measure]]] = {}
        self._of_language: dict[str, Language] = {}
        self._default = self._language(config, ENGLISH)
        self.seconds = dict.fromkeys(config.own_steps(), 0.0)

    def __call__(self, document: Document) -> Measured:
        found = Measured(document, {"read": len(document.text) or len(document.html or b"")})
        language = self._default
        for name in self._default.steps:
            measure = language.steps.get(name)
            if measure is None:
                continue  # off in this language
            started = time.perf_counter()
            try:
                result = measure(found)
            except Refused as refused:
                result = refused.rejection
            self.seconds[name] += time.perf_counter() - started
            if isinstance(result, Rejection):
                found.stop = name, result
                break
            found.scores[name] = result
            if self._config.rewrites(name):
                found.characters[name] = len(found.document.text)
            if name == "language":
                language = self._settings_of(found.document.language)
                found.splitter = language.splitter
            settings = language.config.filter(name)
            if settings is not None and settings.last_word and first_hit(result, settings.rules()):
                found.left_out = True
                break
        found.document = replace(found.document, html=None)
        return found

    def _settings_of(self, code: str) -> Language:
        if code not in self._config.language.languages:
            return self._default
        if code not in self._of_language:
            made = self._language(self._config.of_language(code), self._config.splitter(code))
            self._of_language[code] = made
        return self._of_language[code]

    def _language(self, config: CleanConfig, splitter: str) -> Language:
        return Language(config, splitter, {name: self._step(name, config) for name in config.own_steps()})

    def _step(self, name: str, config: CleanConfig) -> Measure:
        """One for equal settings, because some hold a model."""
        settings = config.filter(name)
        made = self._made.setdefault(name, [])
        for others, measure in made:
            if others == settings:
                return measure
        made.append((settings, config.measurer(name) or self._extract))
        return made[-1][1]

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

    def _extract(self, found: Measured) -> Scores | Rejection:
        config, document = self._config.extract, found.document
        title, text = document.title, document.text
        if not text and document.html is not None:
            if not config.enabled:
                return Rejection("html_not_extracted")
            extracted = self._extractor(document.html, document.url)
            if isinstance(extracted, Rejection):
                return extracted
            title, text = title or extracted.title, extracted.text
            document = replace(document, licence=document.licence or extracted.licence)
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
        return {}
