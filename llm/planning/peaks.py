"""Memory that a training worker needs for a moment: while it is built, saves a checkpoint, or exports.

A model is born in fp32 in host memory. At ZeRO 0 to 2 every worker makes all of it, whatever it keeps; at
ZeRO 3 it makes the elements of its partition, layer by layer. A checkpoint in the background is a second copy
of what the worker saves: the fp32 weights and moments of its share. An export gathers one layer at a time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from headwater.llm.model.shape import Weight
from headwater.llm.planning.memory import FP32, groups_of, moments_of
from headwater.llm.training.zero_config import Optimizer, ZeroConfig

LAYER = re.compile(r"(.*\blayers\.\d+)\.")


def building_bytes(weights: Sequence[Weight], zero: ZeroConfig, world_size: int) -> int:
    """Host memory of a worker while the model is made."""
    size = sum(weight.size for weight in weights)
    return FP32 * (size // world_size) + exporting_bytes(weights) if zero.stage == 3 else FP32 * size


def saving_bytes(weights: Sequence[Weight], optimizer: Optimizer, world_size: int) -> int:
    """Host memory of the copy of a worker's share of a checkpoint."""
    groups = groups_of(weights, optimizer)
    sizes = (sum(w.size for w in group) * (1 + moments_of(group, optimizer)) for group in groups)
    return FP32 * (sum(sizes) // world_size)


def exporting_bytes(weights: Sequence[Weight]) -> int:
    """The largest layer, in fp32; a matrix outside the layers is one of its own."""
    layers: dict[str, int] = {}
    for weight in weights:
        found = LAYER.match(weight.name)
        name = found[1] if found else weight.name
        layers[name] = layers.get(name, 0) + weight.size
    return FP32 * max(layers.values())
