"""Which model a stage starts from: the newest one among its inputs."""

from __future__ import annotations

from collections.abc import Mapping

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.stage import Input
from headwater.cluster.storage.artifact import Artifact, Folder
from headwater.llm.model.adapters import DEFAULT_TARGETS, LoraConfig, check_targets
from headwater.llm.model.build import empty_model

MODELS = ("base", "pretrain", "sft", "dpo", "rl")
"""Stages that make a language model, each from the one before that the recipe has."""
TALKING = ("sft", "dpo", "reward", "rl")
"""Stages that learn from conversations, and need a chat template."""
FOLDER = "model"
PRETRAINED = Input(("pretrain", "base"), what="a model to fine-tune")
"""Input of fine-tuning."""
GROUNDED = Input(("grounded",), required=False)
"""Input of stages that train on, or measure with, tasks made from passages."""
FINE_TUNED = Input(("sft", "pretrain", "base"), what="a model")
"""Input of stages that learn from preferences."""


def check_base(inputs: Mapping[str, Artifact], stage: str) -> None:
    """Raises HeadwaterError if a finished base among the inputs cannot be fine-tuned with conversations."""
    manifest = inputs["base"].manifest() if "base" in inputs else None
    if manifest:
        refuse_untemplated(manifest.metrics.get("fine_tuning", ""), inputs["base"].location, stage)


def check_adapters(inputs: Mapping[str, Artifact], lora: LoraConfig | None) -> None:
    """Raises HeadwaterError if a finished model among the inputs lacks a matrix that `lora.targets` names, or
    has fewer than `lora.layers` layers."""
    if lora is None or (lora.targets == DEFAULT_TARGETS and lora.layers is None):
        return
    for name in MODELS:
        if name in inputs and inputs[name].manifest():
            model = empty_model(Folder(inputs[name], FOLDER))
            if model is not None:
                check_targets(model, lora)


def refuse_untemplated(told: str, where: str, stage: str) -> None:
    """Raises HeadwaterError if `told`, what `Base.fine_tuning` says of a model, is not `yes` or empty."""
    if told not in ("yes", ""):
        raise HeadwaterError(
            f"{stage} needs a chat template, and the base has none of use: {told.removeprefix('no: ')}",
            where=where,
            fix="set `base.chat_template`, or choose another model",
        )


def newest(artifacts: Mapping[str, Artifact]) -> Artifact:
    """The artifact of the last stage of `MODELS` that is there. Raises KeyError without any."""
    for name in reversed(MODELS):
        if name in artifacts:
            return artifacts[name]
    raise KeyError(f"no model among {', '.join(artifacts)}")


def starting_model(artifacts: Mapping[str, Artifact]) -> Folder:
    """The folder of the model that fine-tuning starts from."""
    name = PRETRAINED.choose(artifacts)
    assert name is not None, "a required input of fine-tuning"
    return Folder(artifacts[name], FOLDER)


def newest_model(artifacts: Mapping[str, Artifact]) -> Folder:
    """The folder of the newest model."""
    return Folder(newest(artifacts), FOLDER)
