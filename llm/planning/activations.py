"""Activation memory: what one pass through a model needs in addition to the training state.

Forward and backward run on tensors without memory (torch's FakeTensor), with the attention and the loss of
training, counting every memory block while it is live. The peak is linear in rows and in layers, so four
small passes determine that of any model.
"""

from __future__ import annotations

import copy
import functools
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headwater.llm.training.objectives import Batch, NextToken, token_logits

if TYPE_CHECKING:
    import torch

DEPTHS = (2, 3)
"""Numbers of layers of the measured passes; each with 1 and 2 rows."""


@dataclass(frozen=True)
class Pass:
    """The settings that a pass's memory depends on."""

    on_gpus: bool = False
    checkpointing: bool = False
    separate_documents: bool = False
    z_loss: float = 0.0


@dataclass(frozen=True)
class Activations:
    """Peak bytes of a micro-batch's forward and backward pass, without parameters and their gradients."""

    fixed: float
    per_row: float

    def of(self, rows: int) -> int:
        return round(self.fixed + rows * self.per_row)

    def most_rows(self, room: int) -> int:
        """The largest micro-batch that fits into `room` bytes; 0 if none does."""
        return max(0, int((room - self.fixed) // self.per_row))


def activations(config: Any, row_length: int, precision: str, how: Pass) -> Activations:
    """Activations for rows of `row_length` tokens through a model with a transformers config."""
    from torch._subclasses import FakeTensorMode

    further = (config.num_hidden_layers - DEPTHS[0]) / (DEPTHS[1] - DEPTHS[0])
    peaks = []
    for rows in (1, 2):
        with FakeTensorMode():
            shallow, deep = (
                pass_peak(_with_layers(config, depth), rows, row_length, precision, how) for depth in DEPTHS
            )
        peaks.append(shallow + further * (deep - shallow))
    return Activations(fixed=2 * peaks[0] - peaks[1], per_row=peaks[1] - peaks[0])


def _with_layers(config: Any, depth: int) -> Any:
    changed = copy.deepcopy(config)
    changed.num_hidden_layers = depth
    if getattr(changed, "layer_types", None):
        changed.layer_types = list(changed.layer_types[:1]) * depth
    return changed


def pass_peak(config: Any, rows: int, row_length: int, precision: str, how: Pass) -> int:
    """Peak bytes of one pass: in FakeTensorMode, or with a real model."""
    import torch
    from transformers import AutoModelForCausalLM

    from headwater.llm.hardware.precision import torch_dtype
    from headwater.llm.model.cpu_kernels import use_kernels
    from headwater.llm.training.engine import checkpoint_activations

    model = AutoModelForCausalLM.from_config(config, dtype=torch_dtype(precision)).train()
    if not how.on_gpus:
        use_kernels(model)
    if how.checkpointing:
        checkpoint_activations(model)
    for parameter in model.parameters():  # gradients belong to the state; ZeRO removes them at once
        parameter.register_post_accumulate_grad_hook(_drop_gradient)
    ids = torch.zeros((rows, row_length + 1), dtype=torch.int64)
    batch = {"ids": ids, "mask": torch.ones((rows, row_length + 1), dtype=torch.uint8)}
    if how.separate_documents:
        batch["positions"] = torch.zeros((rows, row_length), dtype=torch.int64)
        called = model
    else:  # without values transformers cannot see that no mask is needed
        called = functools.partial(model, attention_mask={"full_attention": None})
    objective = _OnGpus() if how.on_gpus else NextToken(how.z_loss)
    with _living_blocks()() as living:
        loss, _ = objective.loss_sum(called, batch)
        loss.backward()
    return int(living.peak)


class _OnGpus(NextToken):
    """The loss as GPUs compute it (`kernels.cross_entropy` checks its tensors' device)."""

    def loss_sum(self, model: Any, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        from torch.nn.functional import cross_entropy

        logits_BLV = token_logits(model, batch["ids"], positions=batch.get("positions"))
        targets = batch["ids"][:, 1:].flatten()
        return cross_entropy(logits_BLV.flatten(0, 1).float(), targets, reduction="sum"), {}


def _drop_gradient(parameter: Any) -> None:
    parameter.grad = None


@functools.cache
def _living_blocks() -> type[Any]:
    """The class that counts live blocks (defined here: importing this file must not import torch)."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class LivingBlocks(TorchDispatchMode):
        """Sums the memory of all operations' outputs while they are live."""

        def __init__(self) -> None:
            super().__init__()
            self.now = self.peak = 0
            self.known: dict[int, Any] = {}

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            made = func(*args, **(kwargs or {}))
            before = {
                tensor.untyped_storage()._cdata
                for tensor in tree_leaves((args, kwargs))
                if isinstance(tensor, torch.Tensor)
            }
            for tensor in tree_leaves(made):
                if isinstance(tensor, torch.Tensor):
                    storage = tensor.untyped_storage()
                    if storage._cdata not in before and storage._cdata not in self.known:
                        self._add(storage)
            return made

        def _add(self, storage: Any) -> None:
            identity, size = storage._cdata, storage.nbytes()
            self.known[identity] = weakref.finalize(storage, self._remove, identity, size)
            self.now += size
            self.peak = max(self.peak, self.now)

        def _remove(self, identity: int, size: int) -> None:
            self.known.pop(identity, None)
            self.now -= size

    return LivingBlocks
