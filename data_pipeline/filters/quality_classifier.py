"""Keep what a classifier takes for good text: one that `headwater quality train` made of examples.

GPT-3 (Brown et al. 2020, appendix A) and LLaMA chose web pages so, with linear classifiers on hashed words.
What is "good" is what the examples say.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from headwater.cluster.runtime.stage import StageConfig
from headwater.cluster.storage.filesystem import join
from headwater.data_pipeline.filters.linear import MODEL, LinearModel
from headwater.data_pipeline.verdict import Rule, Scores


class QualityClassifierConfig(StageConfig):
    """A classifier of your own. Without a model the step is passed over."""

    limits: ClassVar[frozenset[str]] = frozenset({"min_score"})

    enabled: bool = True
    """Off: the step is passed over."""
    model: str = ""
    """Folder of a model made by `headwater quality train` (a path or `s3://`)."""
    min_score: float = Field(default=0.5, ge=0, le=1)
    """Least probability that the text is of the good kind. The command prints what each value would keep."""

    @property
    def files(self) -> tuple[str, ...]:
        """The description alone: it holds the checksum of the weights."""
        return (join(self.model, MODEL),) if self.model else ()

    @property
    def wanted(self) -> bool:
        return bool(self.model)


def rules(config: QualityClassifierConfig) -> list[Rule]:
    return [Rule("score", "low_score", least=config.min_score)]


class QualityClassifier:
    """Loads the model once."""

    def __init__(self, config: QualityClassifierConfig) -> None:
        self._model = LinearModel.load(config.model)

    def measure(self, text: str) -> Scores:
        return {"score": self._model.score(text)}
