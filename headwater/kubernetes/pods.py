"""Number of pods a recipe needs: its actors' reservations, packed into pods of a given size."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from headwater.cluster.errors import HeadwaterError
from headwater.llm.training.config import TrainConfig
from headwater.recipe import Recipe
from headwater.serving.config import ReplicaRange


@dataclass(frozen=True)
class Need:
    """CPUs and GPUs that one actor reserves, or that one pod has."""

    cpus: float
    gpus: float = 0.0


def training_needs(recipe: Recipe) -> dict[str, list[Need]]:
    """Actors that run at the same time, per training stage."""
    stages: dict[str, TrainConfig | None] = {
        "pretrain": recipe.pretrain,
        "sft": recipe.sft,
        "dpo": recipe.dpo,
        "reward": recipe.reward,
        "rl": recipe.rl,
    }
    needs = {
        name: [Need(stage.cpus_per_worker, stage.gpus_per_worker)] * stage.workers
        for name, stage in stages.items()
        if stage is not None
    }
    if recipe.rl is not None:
        rollout = Need(recipe.rl.cpus_per_rollout_worker, recipe.rl.gpus_per_rollout_worker)
        needs["rl"] += [rollout] * recipe.rl.rollout_workers
    return needs


def serving_needs(recipe: Recipe, *, most: bool) -> list[Need]:
    """Replicas of the endpoint's parts: the recipe's minimum, or with `most` its maximum."""

    def copies(part: ReplicaRange) -> list[Need]:
        return [Need(part.cpus, part.gpus)] * (part.max_replicas if most else part.min_replicas)

    serve = recipe.serve
    return [*copies(serve.api), *copies(serve.engine), *copies(serve.retrieval)]


def pods_for(needs: Iterable[Need], pod: Need, what: str) -> int:
    """Number of pods of one size that hold all these actors (first fit decreasing).

    Raises HeadwaterError if an actor is larger than a pod.
    """
    free: list[Need] = []
    for need in sorted(needs, key=lambda need: (need.gpus, need.cpus), reverse=True):
        if need.cpus > pod.cpus or need.gpus > pod.gpus:
            raise HeadwaterError(
                f"an actor of {need.cpus:g} CPUs and {need.gpus:g} GPUs does not fit into a pod of "
                f"{pod.cpus:g} CPUs and {pod.gpus:g} GPUs",
                where=what,
                fix="reserve less, or choose an overlay with larger pods",
            )
        for number, left in enumerate(free):
            if need.cpus <= left.cpus + 1e-9 and need.gpus <= left.gpus + 1e-9:
                free[number] = Need(left.cpus - need.cpus, left.gpus - need.gpus)
                break
        else:
            free.append(Need(pod.cpus - need.cpus, pod.gpus - need.gpus))
    return len(free)


def cores(quantity: str) -> float:
    """Cores of a Kubernetes CPU quantity; like Ray, rounds millicores up ("500m" is 1)."""
    text = str(quantity)
    return float(math.ceil(float(text[:-1]) / 1000)) if text.endswith("m") else float(text)
