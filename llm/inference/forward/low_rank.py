"""Low-rank adapters beside one model: sequences of several adapters, and of none, share its forward passes.

The base's matrices are multiplied once for all rows of a batch. Then each adapter's product is added to its
own rows (Punica, Chen et al. 2023; S-LoRA, Sheng et al. 2023, without their kernels).
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from headwater.cluster.errors import HeadwaterError
from headwater.llm.model.adapter_files import TENSORS, read_adapter
from headwater.llm.model.adapters import PREFIX

PROBE = (1, 2, 3, 4)
"""Ids that a model reads when an adapter is loaded."""
AGREEMENT = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 5e-2}
"""Largest difference of two ways' logits, as a share of the largest logit."""
_numbers = itertools.count(1)


@dataclass(frozen=True, eq=False)
class Product:
    """What is added to a matrix's output: scaling × x @ down.T @ up.T."""

    down_RI: torch.Tensor
    up_OR: torch.Tensor
    scaling: float

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return (x @ self.down_RI.T @ self.up_OR.T) * self.scaling


@dataclass(frozen=True, eq=False)
class Adapter:
    """An adapter in memory. Two that were loaded of one folder are not the same one."""

    products: dict[str, Product]
    """By module name."""
    number: int = field(default_factory=lambda: next(_numbers))
    """Its own, from 1: what one has read, others do not go on with."""


class _Pass(threading.local):
    """Which rows of this thread's forward pass have an adapter; None: all rows."""

    groups: Sequence[tuple[Adapter, torch.Tensor | None]] = ()


_pass = _Pass()


@contextlib.contextmanager
def using(adapters: Sequence[Adapter | None], device: torch.device | None = None) -> Iterator[None]:
    """Forward passes of this thread: row r has adapter r. One entry stands for all rows."""
    before = _pass.groups
    different = {id(each): each for each in adapters}
    if len(different) == 1:
        only = adapters[0]
        _pass.groups = () if only is None else ((only, None),)
    else:
        rows = {each: [r for r, own in enumerate(adapters) if own is each] for each in different.values()}
        _pass.groups = [
            (each, torch.tensor(places, device=device)) for each, places in rows.items() if each is not None
        ]
    try:
        yield
    finally:
        _pass.groups = before


@contextlib.contextmanager
def only(row: int) -> Iterator[None]:
    """Within `using`: forward passes over one of its rows alone."""
    before = _pass.groups
    _pass.groups = [(each, None) for each, rows in before if rows is None or row in rows.tolist()]
    try:
        yield
    finally:
        _pass.groups = before


def load_adapter(model: Any, folder: Path) -> Adapter:
    """An adapter for a model, whose matrices it teaches to add products; it has no effect but in `using`.

    Raises HeadwaterError for a folder that `read_adapter` refuses, one that does not fit the model, and
    numbers that are not finite.
    """
    from safetensors.torch import load_file

    found = read_adapter(str(folder))
    linear = {name: each for name, each in model.named_modules() if isinstance(each, torch.nn.Linear)}
    head = model.get_output_embeddings()
    shapes = {n: (each.out_features, each.in_features) for n, each in linear.items() if each is not head}
    found.check_fits("the model", shapes)
    tensors = {name.removeprefix(PREFIX): tensor for name, tensor in load_file(folder / TENSORS).items()}
    if broken := [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]:
        raise HeadwaterError(
            f"the adapter has numbers that are not finite, in `{broken[0]}`",
            where=str(folder),
            fix="train it again from an earlier checkpoint",
        )
    like = next(model.parameters())
    products = {}
    for name, layer in found.layers.items():
        down, up = (tensors[f"{name}.lora_{part}.weight"].to(like) for part in "AB")
        products[name] = Product(down, up, layer.scaling)
        module: Any = linear[name]
        if not isinstance(module.forward, functools.partial):
            module.forward = functools.partial(_adapted, module.forward, name)
    adapter = Adapter(products)
    _check_rows(model, adapter, folder)
    return adapter


@torch.inference_mode()
def _check_rows(model: Any, adapter: Adapter, folder: Path) -> None:
    """Raises HeadwaterError unless a row gets the same logits beside rows of others as alone. Layers that see
    rows in another order, such as experts, would add products to the wrong ones."""
    ids = torch.tensor([PROBE, PROBE[::-1]], device=next(model.parameters()).device)
    own: Sequence[Adapter | None] = (adapter, None)
    with using(own, ids.device):
        together = model(input_ids=ids, use_cache=False).logits
    for row, each in enumerate(own):
        with using([each]):
            alone = model(input_ids=ids[row : row + 1], use_cache=False).logits[0]
        if not (together[row] - alone).abs().max() <= AGREEMENT[alone.dtype] * alone.abs().max():
            raise HeadwaterError(
                f"adapters cannot share a batch of this {type(model).__name__}",
                where=str(folder),
                fix="merge it into its base (peft's merge_and_unload), and serve that model",
            )


def _adapted(plain: Callable[[torch.Tensor], torch.Tensor], name: str, x: torch.Tensor) -> torch.Tensor:
    """A linear layer's output, with the products of the present pass."""
    y = plain(x)
    for adapter, rows in _pass.groups:
        product = adapter.products.get(name)
        if product is None:
            continue
        if rows is None:
            y = y + product(x)
        else:
            y.index_add_(0, rows, product(x[rows]))
    return y
