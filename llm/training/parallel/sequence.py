"""Sequence parallelism (Ulysses, Jacobs et al. 2023): several workers share each row, one stretch each.

Parameters and data are sharded as usual. Only for attention the workers of a row exchange activations, so
that each computes some heads over the whole row. DeepSpeed does the exchange, over gloo on CPUs and NCCL on
GPUs; this file cuts the rows and checks the sizes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from headwater.llm.model.architecture import of_config, with_feature
from headwater.llm.model.shape import Shape
from headwater.llm.training.parallel import sharing


def stretch(ids: np.ndarray, rank: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A worker's stretch of rows [B, L+1]: ids [B, L/size + 1] with the target, positions [B, L/size]."""
    width = (ids.shape[1] - 1) // size
    start = rank % size * width
    positions = np.broadcast_to(np.arange(start, start + width), (len(ids), width)).copy()
    return ids[:, start : start + width + 1], positions


def check(size: int, shape: Shape, *, row_length: int, **sizes: Any) -> None:
    """Raises HeadwaterError if rows cannot be split over `size` workers (`sharing.check`)."""
    kv_heads = shape.num_key_value_heads
    own: dict[str, object] = {
        f"the attention of {shape.model_type} is not exchanged (take an `architecture` of "
        f"{with_feature('shares_rows')})": not of_config(shape).shares_rows,
        "a sliding window cannot be split (remove `sliding_window`)": shape.sliding_window is not None,
        f"{kv_heads} key/value heads cannot be split evenly": kv_heads % size and size % kv_heads,
        f"a row of {row_length} tokens cannot be split evenly": row_length % size,
    }
    sharing.check("sequence_parallel", size, shape, own, **sizes)


def exchange_in_attention(model: Any, size: int, micro_batch: int) -> Any:
    """Make transformers' attention exchange activations with the workers of the same row during training.

    Returns the process groups for DeepSpeed (None if every worker has whole rows). In evaluation mode there
    is no exchange. Call once per process, after `zero.start`.
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
