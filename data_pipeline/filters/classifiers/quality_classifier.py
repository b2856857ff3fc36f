"""Keeps texts that a classifier, trained with `headwater quality train`, considers good.

GPT-3 (Brown et al. 2020, appendix A) and LLaMA selected web pages with linear classifiers on hashed words.
The training examples define "good".
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from headwater.cluster.storage.filesystem import join
from headwater.data_pipeline.filters.classifiers.linear import MODEL, LinearModel
from headwater.data_pipeline.filters.filter import FilterConfig, Measure
from headwater.data_pipeline.verdict import Rule


class QualityClassifierConfig(FilterConfig):
    """Settings of the quality classifier. Without a model the step is skipped."""

    measured_with: ClassVar[frozenset[str] | None] = frozenset({"model"})

    model: str = ""
    """Folder of a model trained by `headwater quality train` (a path or `s3://`)."""
    min_score: float = Field(default=0.5, ge=0, le=1)
    """Minimum probability that the text is good. `headwater quality train` prints what each value keeps."""

    @property
    def files(self) -> tuple[str, ...]:
        """Only the model description, which contains the checksum of the weights."""
        return (join(self.model, MODEL),) if self.model else ()

    @property
    def wanted(self) -> bool:
        return bool(self.model)

    def measurer(self) -> Measure:
        model = LinearModel.load(self.model)
        return lambda found: {"score": model.score(found.document.text)}

    def rules(self) -> list[Rule]:
        return [Rule("score", "low_score", least=self.min_score)]
