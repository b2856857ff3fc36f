"""Rows of sequences in blocks of keys and values, which OpenVINO's PagedAttention reads and writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from headwater.llm.inference.openvino import runtime
from headwater.llm.inference.openvino.graph import BLOCK


class PagedDecoder:
    """Implements `forward.decoder.Decoder`. A row is a list of blocks; moving one moves no numbers."""

    shares = True
    device = torch.device("cpu")

    def __init__(self, compiled: Any) -> None:
        """`compiled`: the compiled model of `graph.build`."""
        self._request = compiled.create_infer_request()
        shapes = {port.any_name: port.partial_shape for port in compiled.inputs}
        self._caches: dict[str, torch.Tensor] = {
            name: torch.zeros(0, *(int(shape[axis].get_length()) for axis in (1, 2, 3)))
            for name, shape in shapes.items()
            if "." in name
        }
        """[blocks, heads, BLOCK, width] of keys and values of each layer."""
        self._tables: list[list[int]] = []
        self._free: list[int] = []
        self._limit = 0  # blocks of a row

    @property
    def bytes_per_position(self) -> int:
        return sum(4 * each.shape[1] * each.shape[3] for each in self._caches.values())

    def reserve(self, rows: int, positions: int, live: int) -> None:
        """Have room for `rows` × `positions`, keeping the first `live` rows."""
        rows, limit = max(rows, len(self._tables)), max(-(-positions // BLOCK), self._limit)
        if rows == len(self._tables) and limit == self._limit:
            return
        for row in range(live, len(self._tables)):
            self.clear(row)
        self._tables += [[] for _ in range(rows - len(self._tables))]
        self._limit = limit
        old = len(next(iter(self._caches.values())))
        self._free += range(old, rows * limit)
        for name, held in self._caches.items():
            made = torch.zeros(rows * limit, *held.shape[1:])
            made[:old] = held
            self._caches[name] = made
            self._set(name, made.numpy(), shared=True)

    def clear(self, row: int) -> None:
        self._free += self._tables[row]
        self._tables[row] = []

    def copy(self, source: int, target: int, length: int) -> None:
        self._extend(target, length)
        new = torch.tensor(self._tables[target])
        old = torch.tensor(self._tables[source][: len(new)])
        for cache in self._caches.values():
            cache[new] = cache[old]

    def move(self, source: int, target: int) -> None:
        self.clear(target)
        self._tables[target], self._tables[source] = self._tables[source], []

    def swap(self, one: int, other: int) -> None:
        self._tables[one], self._tables[other] = self._tables[other], self._tables[one]

    def kept(self, row: int, length: int) -> list[torch.Tensor]:
        """Of each layer, keys and values [heads, length, width]."""
        blocks = torch.tensor(self._tables[row][: -(-length // BLOCK)])
        return [
            cache[blocks].transpose(0, 1).flatten(1, 2)[:, :length].contiguous()
            for cache in self._caches.values()
        ]

    def restore(self, row: int, kept: list[torch.Tensor], length: int) -> None:
        self._extend(row, length)
        places = torch.arange(length)
        blocks, inside = torch.tensor(self._tables[row])[places // BLOCK], places % BLOCK
        for cache, held in zip(self._caches.values(), kept, strict=True):
            cache[blocks, :, inside] = held[:, :length].transpose(0, 1)

    def read(self, rows: Sequence[int], starts: Sequence[int], ids: Sequence[Sequence[int]]) -> torch.Tensor:
        return self.logits(rows, starts, ids, np.cumsum([len(each) for each in ids]) - 1)

    def logits(
        self, rows: Sequence[int], starts: Sequence[int], ids: Sequence[Sequence[int]], wanted: np.ndarray
    ) -> torch.Tensor:
        """As `read`, the logits after the ids at the places `wanted`, counted over all rows."""
        ends = [start + len(each) for start, each in zip(starts, ids, strict=True)]
        for row, end in zip(rows, ends, strict=True):
            self._extend(row, end)
        places = [np.arange(start, end) for start, end in zip(starts, ends, strict=True)]
        tables = [self._tables[row][: -(-end // BLOCK)] for row, end in zip(rows, ends, strict=True)]
        self._set("ids", np.concatenate([np.asarray(each, np.int64) for each in ids]))
        self._set("positions", np.concatenate(places).astype(np.int64))
        self._set("wanted", np.asarray(wanted, np.int64))
        self._set("past_lens", np.asarray(starts, np.int32))
        self._set("subsequence_begins", _begins(ids))
        self._set("block_indices", np.concatenate([np.asarray(each, np.int32) for each in tables]))
        self._set("block_indices_begins", _begins(tables))
        self._set("max_context_len", np.asarray(max(ends), np.int32))
        self._request.start_async()
        self._request.wait()  # `infer` does not raise what the kernel of attention raises
        return torch.from_numpy(self._request.get_output_tensor(0).data.copy())

    def _set(self, name: str, values: np.ndarray, *, shared: bool = False) -> None:
        self._request.set_tensor(name, runtime().Tensor(values, shared_memory=shared))

    def _extend(self, row: int, positions: int) -> None:
        table = self._tables[row]
        while len(table) * BLOCK < positions:
            table.append(self._free.pop())


def _begins(parts: Sequence[Sequence[int]]) -> np.ndarray:
    return np.cumsum([0, *map(len, parts)]).astype(np.int32)
