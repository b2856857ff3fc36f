"""Number of pods a recipe needs: its actors' reservations, packed into pods of a given size."""

from __future__ import annotations

import math
from collections.abc import Iterable

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.needs import Need, first_fit, needs_of
from headwater.pipeline import stages
from headwater.recipe import Recipe
from headwater.serving.config import ReplicaRange


class TooSmall(HeadwaterError):
    """The overlay's pods or pools cannot hold the recipe."""


def stage_needs(recipe: Recipe) -> dict[str, list[list[Need]]]:
    """What each stage runs at most: lists that follow each other, each of actors that run at once."""
    chain = list(stages(recipe))
    settings = {stage.name: stage.config for stage in chain}
    return {
        stage.name: [needs_of(a.at_most() for a in actors) for actors in stage.resources(settings)]
        for stage in chain
    }


def serving_needs(recipe: Recipe, *, most: bool) -> list[Need]:
    """Replicas of the endpoint's parts: the recipe's minimum, or with `most` its maximum."""

    def copies(part: ReplicaRange) -> list[Need]:
        return [Need(part.cpus, part.gpus)] * (part.max_replicas if most else part.min_replicas)

    return [need for part in recipe.serve.parts(index=True).values() for need in copies(part)]


def pods_for(needs: Iterable[Need], pod: Need, what: str) -> int:
    """Number of pods of one size that hold all these actors (first fit decreasing).

    Raises HeadwaterError if an actor is larger than a pod.
    """
    free, outside = first_fit(needs, [], pod)
    if outside:
        need = outside[0]
        raise TooSmall(
            f"an actor of {need.cpus:g} CPUs and {need.gpus:g} GPUs does not fit into a pod of "
            f"{pod.cpus:g} CPUs and {pod.gpus:g} GPUs",
            where=what,
            fix="reserve less, or choose an overlay with larger pods",
        )
    return len(free)


def cores(quantity: str) -> float:
    """Cores of a Kubernetes CPU quantity; like Ray, rounds millicores up ("500m" is 1)."""
    text = str(quantity)
    return float(math.ceil(float(text[:-1]) / 1000)) if text.endswith("m") else float(text)
