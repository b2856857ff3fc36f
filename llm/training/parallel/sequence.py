"""Rows too long for one worker: a few workers share each, a stretch a worker (Ulysses, Jacobs et al. 2023).

Parameters and data are sharded as without it. For attention alone the workers of a row exchange what they
have, so that each sees the whole row through some of the heads. DeepSpeed does the exchange, over gloo on
CPUs as over NCCL on GPUs; here is which stretch a worker has, and what must hold for it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from headwater.llm.model.shape import Shape
from headwater.llm.training.parallel import sharing


def stretch(ids: np.ndarray, rank: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A worker's part of rows [B, L+1]: ids [B, L/size + 1] with the last target, positions [B, L/size]."""
    width = (ids.shape[1] - 1) // size
    start = rank % size * width
    positions = np.broadcast_to(np.arange(start, start + width), (len(ids), width)).copy()
    return ids[:, start : start + width + 1], positions


def check(size: int, shape: Shape, *, row_length: int, **sizes: Any) -> None:
    """Raises HeadwaterError for rows that cannot be shared out among `size` workers (`sharing.check`)."""
    kv_heads = shape.num_key_value_heads
    own = {
        f"{kv_heads} key/value heads cannot be shared out": kv_heads % size and size % kv_heads,
        f"a row of {row_length} tokens cannot be cut evenly": row_length % size,
    }
    sharing.check("sequence_parallel", size, shape, own, **sizes)


def exchange_in_attention(model: Any, size: int, micro_batch: int) -> Any:
    """Have transformers' attention exchange with the other workers of a row while the model trains.

    Returns what DeepSpeed has to know of the groups (None where every worker has whole rows). Not in
    evaluation mode: there every worker is by itself. Once in a process, after `zero.start`.
    """
    if size == 1:
        return None
    from deepspeed.runtime.sequence_parallel.ulysses_sp import UlyssesSPAttentionHF

    return UlyssesSPAttentionHF.register_with_transformers(
        model,
        core_attn_implementation="sdpa",
        sequence_parallel_size=size,
        micro_batch_size=micro_batch,
        seq_length_is_variable=True,
        disable_in_eval=True,
    )
