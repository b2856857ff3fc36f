"""Runs one document through the per-document steps: computes its text and the scores of each step.

Processing stops early only if nothing is left to measure (a blocked URL, no text). The decision from the
scores follows later, in data_pipeline/clean/select_documents.py.
"""

from __future__ import annotations

import time
from dataclasses import replace

from headwater.data_pipeline.clean.steps import CleanConfig
from headwater.data_pipeline.documents import Document
from headwater.data_pipeline.filters.filter import Measure, Measured
from headwater.data_pipeline.filters.pii import redact
from headwater.data_pipeline.text.extract import Extractor
from headwater.data_pipeline.text.normalise import normalise
from headwater.data_pipeline.verdict import Refused, Rejection, Scores

NORMALISED = 4
"""A text this many times longer than the limit is rejected before normalisation."""


class Measurer:
    """Runs the steps and holds their models and lists. `seconds` accumulates the time of each step."""

    def __init__(self, config: CleanConfig) -> None:
        self._config = config
        self._extractor = Extractor(config.extract)
        self._steps: dict[str, Measure] = {}
        for name in config.own_steps():
            found = config.filter(name)
            self._steps[name] = self._extract if found is None else found.measurer()
        self.seconds = dict.fromkeys(self._steps, 0.0)

    def __call__(self, document: Document) -> Measured:
        found = Measured(document, {"read": len(document.text) or len(document.html or b"")})
        for name, measure in self._steps.items():
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

    def _extract(self, found: Measured) -> Scores | Rejection:
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
        return {}
