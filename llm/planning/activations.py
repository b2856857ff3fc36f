"""Activation memory: what one pass through a model needs in addition to the training state.

Forward and backward run on tensors without memory (torch's FakeTensor), with the attention and the loss of
training, counting every memory block while it is live. The peak is linear in rows and in layers of a kind, so
a few small passes determine that of any model.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headwater.llm.training.losses.objectives import Batch, NextToken
from headwater.llm.training.losses.token_losses import token_logits

if TYPE_CHECKING:
    import torch


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


_measured: dict[tuple[Any, ...], Activations] = {}


def activations(config: Any, row_length: int, precision: str, how: Pass) -> Activations:
    """Activations for rows of `row_length` tokens through a model with a transformers config.

    A process measures equal models once.
    """
    key = (type(config), config.to_json_string(use_diff=False), row_length, precision, how)
    if key not in _measured:
        _measured[key] = _measure(config, row_length, precision, how)
    return _measured[key]


def _measure(config: Any, row_length: int, precision: str, how: Pass) -> Activations:
    from torch._subclasses import FakeTensorMode

    base, further = _layouts(config)
    peaks = []
    for rows in (1, 2):
        with FakeTensorMode():

            def peak(kinds: Sequence[str], rows: int = rows) -> int:
                return pass_peak(_with_layers(config, kinds), rows, row_length, precision, how)

            shallow = peak(base)
            peaks.append(shallow + sum(n * (peak([*base, kind]) - shallow) for kind, n in further.items()))
    return Activations(fixed=2 * peaks[0] - peaks[1], per_row=peaks[1] - peaks[0])


def _layouts(config: Any) -> tuple[list[str], dict[str, int]]:
    """The layers of the smallest measured model, and how many of each kind the whole one has besides."""
    kinds = list(getattr(config, "layer_types", None) or [""] * config.num_hidden_layers)
    base = sorted(set(kinds))
    base = base if len(base) > 1 else base * 2
    return base, {kind: kinds.count(kind) - base.count(kind) for kind in set(kinds)}


def _with_layers(config: Any, kinds: Sequence[str]) -> Any:
    changed = copy.deepcopy(config)
    changed.num_hidden_layers = len(kinds)
    if getattr(changed, "layer_types", None):
        changed.layer_types = list(kinds)
    return changed


@contextlib.contextmanager
def _rows_are_whole() -> Iterator[None]:
    """transformers tells from values whether a row has several documents, and makes a mask for fake tensors,
    which have none."""
    from transformers import masking_utils

    found = masking_utils.find_packed_sequence_indices
    masking_utils.find_packed_sequence_indices = lambda position_ids: None
    try:
        yield
    finally:
        masking_utils.find_packed_sequence_indices = found


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
    objective = _OnGpus() if how.on_gpus else NextToken(how.z_loss)
    mask = contextlib.nullcontext() if how.separate_documents else _rows_are_whole()
    with mask, _living_blocks()() as living:
        loss, _ = objective.loss_sum(model, batch)
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
