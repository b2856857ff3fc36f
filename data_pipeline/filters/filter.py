"""What a filter is: settings with rules, and a function that scores one document."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Self

from headwater.cluster.runtime.stage import StageConfig
from headwater.data_pipeline.documents import Document
from headwater.data_pipeline.text.words.document_text import Text
from headwater.data_pipeline.text.words.languages import ENGLISH
from headwater.data_pipeline.verdict import Rejection, Rule, Scores


@dataclass
class Measured:
    """A document on its way through the steps, and what they found."""

    document: Document
    """The document after the steps, without its HTML."""
    characters: dict[str, int]
    """Characters as `read`, and after each step that rewrites the text."""
    scores: dict[str, Scores] = field(default_factory=dict)
    """Scores by step."""
    stop: tuple[str, Rejection] | None = None
    """The step that stopped processing and its rejection; None if all steps ran."""
    left_out: bool = False
    """Rejected by its scores at a step with `FilterConfig.last_word`: the later steps did not run."""
    splitter: str = ENGLISH
    """Word splitter of the document's language (`text.words.languages`)."""
    _text: Text = field(default_factory=lambda: Text(""), init=False)

    @property
    def text(self) -> Text:
        """The document's text with its words, cached until a step changes the text."""
        if self._text.text is not self.document.text or self._text.splitter != self.splitter:
            self._text = Text(self.document.text, self.splitter)
        return self._text


Measure = Callable[[Measured], Scores | Rejection]


class FilterConfig(StageConfig):
    """Settings of a filter. The name of its field in `clean.steps.CleanConfig` is the name of the step."""

    measured_with: ClassVar[frozenset[str] | None] = None
    """Settings that the scores depend on; None: all. The others can be changed after cleaning, because
    only the rules read them."""
    last_word: ClassVar[bool] = False
    """Whether documents that the rules reject are not measured by later steps. Its rules can then only become
    stricter after cleaning (`stricter`), and the step cannot be switched off."""
    rewrites: ClassVar[bool] = False
    """Whether the filter changes the text."""

    enabled: bool = True
    """Run this step."""

    @property
    def files(self) -> tuple[str, ...]:
        """Files that the filter reads in addition to the documents."""
        return ()

    @property
    def wanted(self) -> bool:
        """False if the settings give the filter nothing to do; the step is then skipped."""
        return True

    def measurer(self) -> Measure:
        """Called once per worker, so that models and lists are loaded once. The function returns the scores
        that `rules` read, or a rejection that needs no score. It may replace `document`."""
        raise TypeError(f"filter {type(self).__name__} does not define measurer()")

    def stricter(self, wanted: Self) -> bool:
        """Whether the wanted settings reject at least what these do. Asked of filters with `last_word`."""
        return self == wanted

    def rules(self) -> list[Rule]:
        """Rules on the scores, in order: the first one that rejects decides."""
        return []
