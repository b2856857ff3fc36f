"""Checks for workers that share rows (`sequence_parallel`) or layers (`tensor_parallel`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from headwater.cluster.errors import HeadwaterError

if TYPE_CHECKING:
    from headwater.llm.model.shape import Shape


def check(
    setting: str,
    size: int,
    shape: Shape,
    own: Mapping[str, object],
    *,
    workers: int,
    elastic: bool,
    batch: int,
    micro_batch: int,
) -> None:
    """Raises HeadwaterError for sizes that cannot be split over `size` workers.

    `own`: additional faults of one kind of sharing: message → whether it applies.
    """
    if size == 1:
        return
    rows = workers // size * micro_batch
    faults = {
        f"{workers} workers cannot form groups of {size}": workers % size,
        "the number of workers must not change (`min_workers`)": elastic,
        f"{shape.num_attention_heads} heads cannot be split evenly": shape.num_attention_heads % size,
        **own,
        f"a batch of {batch} is not a whole number of micro-batches of {micro_batch} per group": rows == 0
        or batch % rows,
    }
    found = [fault for fault, holds in faults.items() if holds]
    if found:
        raise HeadwaterError(
            "; ".join(found),
            where=f"pretrain.{setting}: {size}",
            fix="choose sizes that are multiples of each other, or remove the setting",
        )
