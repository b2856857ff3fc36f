"""The base stage: an existing model to start from."""

from __future__ import annotations

from headwater.cluster.runtime.stage import Stage, StageConfig


class BaseConfig(StageConfig):
    """Settings of the base model."""

    model: str


class Base(Stage[BaseConfig]):
    name = "base"
