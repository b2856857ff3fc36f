"""Keeps texts that a classifier, trained with `headwater quality train`, considers good.

GPT-3 (Brown et al. 2020, appendix A) and LLaMA selected web pages with linear classifiers on hashed words.
The training examples define "good".
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from headwater.cluster.runtime.stage import StageConfig
from headwater.cluster.storage.filesystem import join
from headwater.data_pipeline.filters.linear import MODEL, LinearModel
from headwater.data_pipeline.verdict import Rule, Scores


class QualityClassifierConfig(StageConfig):
    """Settings of the quality classifier. Without a model the step is skipped."""

    limits: ClassVar[frozenset[str]] = frozenset({"min_score"})

    enabled: bool = True
    """Run this step."""
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


def rules(config: QualityClassifierConfig) -> list[Rule]:
    return [Rule("score", "low_score", least=config.min_score)]


class QualityClassifier:
    """Scores texts with the model, which it loads once."""

    def __init__(self, config: QualityClassifierConfig) -> None:
        self._model = LinearModel.load(config.model)

    def measure(self, text: str) -> Scores:
        return {"score": self._model.score(text)}
