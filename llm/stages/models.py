"""Which model a stage starts from: the newest one among its inputs."""

from __future__ import annotations

from collections.abc import Mapping

from headwater.cluster.runtime.stage import Input
from headwater.cluster.storage.artifact import Artifact, Folder

MODELS = ("base", "pretrain", "sft", "dpo", "rl")
"""Stages that make a language model, each from the one before that the recipe has."""
FOLDER = "model"
PRETRAINED = Input(("pretrain", "base"), what="a model to fine-tune")
"""Input of fine-tuning."""
FINE_TUNED = Input(("sft", "pretrain", "base"), what="a model")
"""Input of stages that learn from preferences."""


def newest(artifacts: Mapping[str, Artifact]) -> Artifact:
    """The artifact of the last stage of `MODELS` that is there. Raises KeyError without any."""
    for name in reversed(MODELS):
        if name in artifacts:
            return artifacts[name]
    raise KeyError(f"no model among {', '.join(artifacts)}")


def newest_model(artifacts: Mapping[str, Artifact]) -> Folder:
    """The folder of the newest model."""
    return Folder(newest(artifacts), FOLDER)
