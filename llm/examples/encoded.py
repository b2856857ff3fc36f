"""Encoded examples on disk: variable-length lists of ids and masks in memory-mapped Arrow files.

Written by the fine-tuning stages (one file per unit of input), read by index as one sequence.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.artifact import Artifact

Example = Mapping[str, Sequence[float]]


ORIGINS = "origins"


def write_examples(
    output: Artifact,
    name: str,
    examples: Sequence[Example],
    columns: Iterable[str],
    values: pa.DataType | None = None,
    *,
    origins: Sequence[Sequence[str]] | None = None,
) -> None:
    """Write one Arrow IPC file of one record batch; each column has one list per example (int32 or `values`).

    `origins` names each example's sources: document ids, or file and line.
    """
    kind = pa.list_(values or pa.int32())
    table = {column: pa.array([list(example[column]) for example in examples], kind) for column in columns}
    if origins is not None:
        table[ORIGINS] = pa.array([list(of_one) for of_one in origins], pa.list_(pa.string()))
    batch = pa.record_batch(table)
    with output.create(name) as stream, pa.ipc.new_file(stream, batch.schema) as writer:
        writer.write_batch(batch)


class EncodedExamples:
    """The example files of a folder that match a pattern, as one sequence, maybe empty. They are opened on
    first use."""

    def __init__(self, artifact: Artifact, folder: str, pattern: str = "*.arrow") -> None:
        self.artifact, self.folder, self.pattern = artifact, folder, pattern
        self._table: pa.Table | None = None
        self._files: list[tuple[str, range]] = []

    def __reduce__(self) -> tuple[Any, ...]:
        return (EncodedExamples, (self.artifact, self.folder, self.pattern))

    @property
    def table(self) -> pa.Table:
        if self._table is None:
            paths = sorted(self.artifact.local(self.folder).glob(self.pattern))
            tables = [pa.ipc.open_file(pa.memory_map(str(path))).read_all() for path in paths]
            ends = list(itertools.accumulate((table.num_rows for table in tables), initial=0))
            ranges = [range(start, end) for start, end in itertools.pairwise(ends)]
            self._files = [(path.name, rows) for path, rows in zip(paths, ranges, strict=True)]
            self._table = pa.concat_tables(tables, promote_options="default") if tables else pa.table({})
        return self._table

    def files(self) -> list[tuple[str, range]]:
        """The name of each file, and the indices of its examples."""
        _ = self.table
        return self._files

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def gather(self, column: str, indices: np.ndarray) -> list[np.ndarray]:
        values = self.table.column(column)
        return [np.asarray(values[int(i)].values) for i in indices]

    def origins(self, index: int) -> list[str]:
        """The sources of an example. Raises HeadwaterError if the files do not record them."""
        found = self.table.column(ORIGINS)[index].as_py() if ORIGINS in self.table.column_names else None
        if found is None:
            raise self._unnamed()
        return list(found)

    def made_from(self, origin: str) -> list[int]:
        """Indices of the examples made from a document (or line), alone or with others."""
        if ORIGINS not in self.table.column_names:
            raise self._unnamed()
        column = self.table.column(ORIGINS).combine_chunks()
        hits = pc.equal(pc.list_flatten(column), origin)
        return sorted(set(pc.list_parent_indices(column).filter(hits).to_pylist()))

    def _unnamed(self) -> HeadwaterError:
        return HeadwaterError(
            "these examples do not record their sources: an earlier version wrote them",
            where=self.artifact.path(self.folder),
            fix="rebuild them: headwater run RECIPE --from STAGE",
        )


def pad(sequences: Sequence[np.ndarray], value: int, dtype: type = np.int64) -> np.ndarray:
    """Ragged integers → [n, longest], padded on the right."""
    width = max(len(sequence) for sequence in sequences)
    padded: np.ndarray = np.full((len(sequences), width), value, dtype)
    for row, sequence in enumerate(sequences):
        padded[row, : len(sequence)] = sequence
    return padded


def describe_examples(examples: EncodedExamples, indices: np.ndarray) -> list[str]:
    """One line per example: its sources, if recorded, and its index."""
    if ORIGINS not in examples.table.column_names:
        return [f"example {i}" for i in indices]
    return [f"{', '.join(examples.origins(int(i)))} (example {i})" for i in indices]
