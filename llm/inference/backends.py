"""Which backend computes a model's logits, decided once before anything starts, and why."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any, Literal

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.extras import require
from headwater.llm.inference.openvino.graph import fault

Wanted = Literal["torch", "openvino", "auto"]
Backend = Literal["torch", "openvino"]
Quantize = Literal["none", "int8"]


@dataclass(frozen=True)
class Choice:
    """A backend for one model."""

    backend: Backend
    quantize: Quantize
    why: str

    def __str__(self) -> str:
        weights = "int8 weights" if self.quantize == "int8" else "the model's weights"
        return f"backend {self.backend} with {weights}: {self.why}"


def choose(
    wanted: Wanted, quantize: Quantize, config: dict[str, Any], where: str, *, gpus: float = 0.0
) -> Choice:
    """The backend for a model with this `config.json`, found at `where`.

    `auto` takes openvino where it is installed and covers the model, else torch. Raises HeadwaterError for
    what cannot be had: nothing is replaced silently.
    """
    against = _against(config, gpus)
    if wanted == "openvino" and not gpus:
        require("openvino")
    if wanted == "openvino" and against:
        raise HeadwaterError(
            f"the backend openvino cannot run this model: {against}", where=where, fix="use torch or auto"
        )
    if wanted == "torch" or against:
        if quantize != "none":
            why = against if wanted == "auto" else "torch computes in the model's precision"
            raise HeadwaterError(
                f"`quantize: {quantize}` needs the backend openvino ({why})",
                where=where,
                fix="set `quantize: none`" if against else "set `backend: openvino`",
            )
        return Choice("torch", "none", against or "as set")
    why = "as set" if wanted == "openvino" else "it is installed and covers the model"
    return Choice("openvino", quantize, why)


def _against(config: dict[str, Any], gpus: float) -> str:
    """Why openvino cannot be taken; empty if it can."""
    if gpus:
        return "it runs on CPUs, and a GPU is reserved"
    if importlib.util.find_spec("openvino") is None:
        return "openvino is not installed"
    return fault(config)
