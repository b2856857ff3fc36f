"""Encoded examples on disk: variable-length lists of ids and masks in memory-mapped Arrow files.

Written by the stages that fine-tune (one file per unit of input), read by index like one list.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from cluster.artifact import Artifact

Example = Mapping[str, Sequence[float]]


def write_examples(
    output: Artifact,
    name: str,
    examples: Sequence[Example],
    columns: Iterable[str],
    values: pa.DataType | None = None,
) -> None:
    """One Arrow IPC file of one record batch; each column holds a list per example, of int32 or `values`."""
    kind = pa.list_(values or pa.int32())
    table = {column: pa.array([list(example[column]) for example in examples], kind) for column in columns}
    batch = pa.record_batch(table)
    with output.create(name) as stream, pa.ipc.new_file(stream, batch.schema) as writer:
        writer.write_batch(batch)


class Examples:
    """The example files of a folder (those that match) as one sequence, opened where they are read."""

    def __init__(self, artifact: Artifact, folder: str, pattern: str = "*.arrow") -> None:
        self.artifact, self.folder, self.pattern = artifact, folder, pattern
        self._table: pa.Table | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return (Examples, (self.artifact, self.folder, self.pattern))

    @property
    def table(self) -> pa.Table:
        if self._table is None:
            local = self.artifact.local(self.folder)
            readers = [
                pa.ipc.open_file(pa.memory_map(str(path))) for path in sorted(local.glob(self.pattern))
            ]
            self._table = pa.concat_tables([reader.read_all() for reader in readers])
        return self._table

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def gather(self, column: str, indices: np.ndarray) -> list[np.ndarray]:
        values = self.table.column(column)
        return [np.asarray(values[int(i)].values) for i in indices]


def pad(sequences: Sequence[np.ndarray], value: int, dtype: type = np.int64) -> np.ndarray:
    """Ragged integers → [n, longest], filled on the right."""
    width = max(len(sequence) for sequence in sequences)
    padded: np.ndarray = np.full((len(sequences), width), value, dtype)
    for row, sequence in enumerate(sequences):
        padded[row, : len(sequence)] = sequence
    return padded
