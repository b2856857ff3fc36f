"""Keys and values of many sequences: one row (slot) of preallocated tensors per sequence.

Each row has its own length. A forward pass (`Pass`) continues some rows by their next ids; transformers'
attention sees it as its cache. Nothing is padded in the cache, and a step writes only the new positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin


@dataclass(frozen=True)
class LayerShape:
    """What attention keeps per position in one layer."""

    heads: int
    key_width: int
    value_width: int
    window: int | None = None
    """Positions that a token sees, itself included; None: all before it."""


class Slots:
    """Rows of keys and values [rows, heads, positions, width], one tensor of each per layer.

    A row is zero beyond its length: a masked value is multiplied by 0, which would not hide a NaN.
    """

    def __init__(self, layers: Sequence[LayerShape], dtype: torch.dtype, device: torch.device) -> None:
        self.layers, self.dtype, self.device = layers, dtype, device
        self.rows = self.positions = 0
        self._used = 0  # rows that were given out since the tensors were made; the others are zero
        self.keys: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []
        self._allocate(0, 0)

    @property
    def bytes_per_position(self) -> int:
        """Memory of one position of one row."""
        numbers = sum(layer.heads * (layer.key_width + layer.value_width) for layer in self.layers)
        return numbers * self.dtype.itemsize

    def reserve(self, rows: int, positions: int, live: int) -> None:
        """Have room for `rows` × `positions`, keeping the first `live` rows, which fit into it."""
        if rows <= self.rows and positions <= self.positions:
            return
        keys, values = self.keys, self.values
        self._allocate(rows, positions)
        self._used = live
        kept = min(len(keys) and keys[0].shape[2], positions)
        for old, new in ((keys, self.keys), (values, self.values)):
            for number in range(len(old)):
                new[number][:live, :, :kept] = old[number][:live, :, :kept]
                old[number] = new[number]  # frees the old layer

    def clear(self, row: int) -> None:
        """Empty a row before a sequence takes it."""
        if row < self._used:
            for tensor in (*self.keys, *self.values):
                tensor[row].zero_()
        self._used = max(self._used, row + 1)

    def copy(self, source: int, target: int, length: int) -> None:
        """The first `length` positions of a row, into a clear one."""
        for tensor in (*self.keys, *self.values):
            tensor[target, :, :length] = tensor[source, :, :length]

    def kept(self, row: int, length: int) -> list[torch.Tensor]:
        """A copy of the first `length` positions of a row: keys and values of each layer."""
        return [tensor[row, :, :length].clone() for tensor in (*self.keys, *self.values)]

    def restore(self, row: int, kept: list[torch.Tensor], length: int) -> None:
        """Begin a clear row with the first `length` positions of what was kept."""
        for tensor, held in zip((*self.keys, *self.values), kept, strict=True):
            tensor[row, :, :length] = held[:, :length]

    def move(self, source: int, target: int) -> None:
        """A whole row; the source then counts as free."""
        for tensor in (*self.keys, *self.values):
            tensor[target] = tensor[source]

    def swap(self, one: int, other: int) -> None:
        for tensor in (*self.keys, *self.values):
            tensor[[one, other]] = tensor[[other, one]]

    def _allocate(self, rows: int, positions: int) -> None:
        def zeros(layer: LayerShape, width: int) -> torch.Tensor:
            return torch.zeros(rows, layer.heads, positions, width, dtype=self.dtype, device=self.device)

        self.rows, self.positions = rows, positions
        self.keys = [zeros(layer, layer.key_width) for layer in self.layers]
        self.values = [zeros(layer, layer.value_width) for layer in self.layers]


class Pass(Cache):
    """One forward pass: `ids[r]` continue row `rows[r]`, which has `starts[r]` positions.

    Rows with fewer ids are padded on the left, so the last column has the last id of every row; padding is
    not written to the slots.
    """

    def __init__(
        self, slots: Slots, rows: Sequence[int], starts: Sequence[int], ids: Sequence[Sequence[int]]
    ) -> None:
        super().__init__(layers=[_Layer(self, number) for number in range(len(slots.layers))])
        self.slots = slots
        counts = [len(each) for each in ids]
        longest, device = max(counts), slots.device
        self.width = max(start + count for start, count in zip(starts, counts, strict=True))
        """Positions that attention reads: those of the longest row."""
        padded = [[0] * (longest - len(each)) + list(each) for each in ids]
        self.ids_RT = torch.tensor(padded, device=device)
        first_R = torch.tensor(
            [start + count - longest for start, count in zip(starts, counts, strict=True)], device=device
        )
        place_RT = first_R[:, None] + torch.arange(longest, device=device)
        self.positions_RT = place_RT.clamp(min=0) if longest > 1 else place_RT
        self._real_RT = None
        if min(counts) < longest:
            self._real_RT = place_RT >= torch.tensor(starts, device=device)[:, None]
        self._rows = torch.tensor(rows, device=device)
        together = list(rows) == list(range(rows[0], rows[0] + len(rows)))
        self._read: Any = slice(rows[0], rows[0] + len(rows)) if together else self._rows
        self._masks: dict[int | None, torch.Tensor] = {}
        self._places: dict[int, torch.Tensor] = {}

    def mask(self, window: int | None) -> torch.Tensor:
        """[R, 1, T, width] added to the scores: 0 where a token may look, else −inf."""
        if window not in self._masks:
            key = torch.arange(self.width, device=self.slots.device)
            query = self.positions_RT[:, None, :, None]
            hidden = key > query
            if window is not None:
                hidden |= key <= query - window
            mask = torch.zeros(hidden.shape, dtype=self.slots.dtype, device=self.slots.device)
            self._masks[window] = mask.masked_fill_(hidden, float("-inf"))
        return self._masks[window]

    def write(
        self, number: int, keys_RHTD: torch.Tensor, values_RHTD: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store a layer's new keys and values. Returns all that the rows have, [R, H, width, D] each."""
        found = []
        for held, new_RHTD in (
            (self.slots.keys[number], keys_RHTD),
            (self.slots.values[number], values_RHTD),
        ):
            new = new_RHTD.transpose(1, 2)
            if self._real_RT is not None:
                new = new[self._real_RT]
            held.view(-1, held.shape[-1]).index_copy_(
                0, self._place(held.shape[1]), new.reshape(-1, held.shape[-1])
            )
            found.append(held[:, :, : self.width][self._read])
        return found[0], found[1]

    def _place(self, heads: int) -> torch.Tensor:
        """Where each new vector is in the flat tensor of a layer."""
        if heads not in self._places:
            rows = self._rows[:, None].expand_as(self.positions_RT)
            positions = self.positions_RT
            if self._real_RT is not None:
                rows, positions = rows[self._real_RT], positions[self._real_RT]
            head = torch.arange(heads, device=self.slots.device)
            row_heads = rows.reshape(-1, 1) * heads + head
            self._places[heads] = (row_heads * self.slots.positions + positions.reshape(-1, 1)).reshape(-1)
        return self._places[heads]


class _Layer(CacheLayerMixin):
    """One layer of a pass, as transformers' attention sees it."""

    is_sliding = False

    def __init__(self, one: Pass, number: int) -> None:
        super().__init__()
        self._pass, self._number = one, number
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None: ...

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self._pass.write(self._number, key_states, value_states)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._pass.width, 0

    def get_max_length(self) -> int:
        return -1

    def get_seq_length(self) -> int:
        return self._pass.width - self._pass.ids_RT.shape[1]
