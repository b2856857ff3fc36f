"""Token shards: on-disk format of packed rows, and its memory-mapped reader.

A shard is an uncompressed Arrow IPC file with one record batch: `ids` (fixed-size list of uint16, or
uint32 above 65,536 ids), and `starts` and `document_ids` of the documents in each row. `tokens/packing.py`
defines how documents become rows. With every method each token is a target once, a document starts after
`<|endoftext|>`, and padding targets are not scored (`inputs_and_targets`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import IO, Any, Literal

import numpy as np
import pyarrow as pa

from headwater.cluster.storage.artifact import Artifact
from headwater.data_pipeline.tokens.packing import PackedRows
from headwater.data_pipeline.tokens.shard_files import ShardFiles

Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = ("train", "validation")
INDEX = "rows.json"
IGNORED = -100
"""Target of positions that are not scored (default `ignore_index` of torch's `cross_entropy`)."""


def write_shard(stream: IO[bytes], packed: PackedRows) -> None:
    """Write a shard as one record batch, so that a reader gets one array."""
    width = packed.ids.shape[1]
    values = pa.array(np.ascontiguousarray(packed.ids).reshape(-1))
    offsets = pa.array(packed.offsets, pa.int32())
    names = pa.array(packed.names, pa.string()).take(pa.array(packed.owners))
    batch = pa.record_batch(
        {
            "ids": pa.FixedSizeListArray.from_arrays(values, width),
            "starts": pa.ListArray.from_arrays(offsets, pa.array(packed.starts, pa.int32())),
            "document_ids": pa.ListArray.from_arrays(offsets, names),
        }
    )
    with pa.ipc.new_file(stream, batch.schema) as writer:
        writer.write_batch(batch)


def inputs_and_targets(rows: np.ndarray, pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    """int64 [n, row_length + 1] → inputs and targets [n, row_length]; padding targets are IGNORED."""
    targets = rows[:, 1:].copy()
    targets[targets == pad_id] = IGNORED
    return rows[:, :-1], targets


class TokenRows:
    """Rows of one split, read from memory-mapped shards. Cheap to pickle: shards are opened on use.

    A shard in an object store is copied to the local disk when one of its rows is first read.
    """

    def __init__(self, artifact: Artifact, split: Split) -> None:
        self.artifact, self.split = artifact, split
        index = artifact.read_json(INDEX)
        self.row_length: int = index["row_length"]
        self.vocab_size: int = index["vocab_size"]
        self.pad_id: int = index["pad_id"]
        self.end_id: int = index["end_id"]
        counts = index["splits"][split]
        self.tokens: int = counts["tokens"]
        """Number of scored targets: the documents' tokens plus one end token per document."""
        self.bytes: int = counts["bytes"]
        """UTF-8 bytes of the documents' text, without end tokens."""
        self.document_count: int = counts["documents"]
        self._shards: list[dict[str, Any]] = counts["shards"]
        self.corpora: dict[str, range] = _corpora(self._shards)
        """Row indices of each corpus, if the recipe names corpora."""
        self.corpus_bytes: dict[str, int] = {
            name: totals["bytes"] for name, totals in counts.get("corpora", {}).items()
        }
        """UTF-8 bytes of the documents of each corpus."""
        self.shard_rows: tuple[int, ...] = tuple(shard["rows"] for shard in self._shards)
        """Rows of each shard."""
        self._ends = np.cumsum(self.shard_rows, dtype=np.int64)
        names = [f"{split}/{shard['name']}" for shard in self._shards]
        self.files = ShardFiles(artifact, names, self.row_length + 1)

    def __reduce__(self) -> tuple[Any, ...]:
        return (TokenRows, (self.artifact, self.split))

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> np.ndarray:
        """[row_length + 1] ids, a read-only view of the file."""
        shard, row = self._place(index)
        return self.files.open(shard)[0][row]

    def gather(self, indices: np.ndarray) -> np.ndarray:
        """Rows in the order of `indices`: int64 [n, row_length + 1]."""
        indices = np.asarray(indices, np.int64)
        if indices.size and (indices.min() < 0 or indices.max() >= len(self)):
            raise IndexError(f"row index out of range 0 … {len(self) - 1}")
        gathered = np.empty((len(indices), self.row_length + 1), np.int64)
        shards = np.searchsorted(self._ends, indices, side="right")
        found, places = np.unique(shards, return_index=True)
        for shard in found[np.argsort(places)].tolist():  # those of an order's earlier window first
            here = shards == shard
            first = self._ends[shard] - self.shard_rows[shard]
            gathered[here] = self.files.open(shard)[0][indices[here] - first]
        return gathered

    def shards_of(self, rows: range) -> range:
        """The shards that hold a range of rows."""
        low, high = np.searchsorted(self._ends, [rows.start, rows.stop - 1], side="right").tolist()
        return range(low, high + 1)

    def documents(self, index: int) -> list[tuple[int, str]]:
        """Documents of a row: (start offset in the row, document id)."""
        shard, row = self._place(index)
        batch = self.files.open(shard)[1]
        return list(
            zip(batch.column("starts")[row].as_py(), batch.column("document_ids")[row].as_py(), strict=True)
        )

    def place(self, index: int) -> tuple[str, int]:
        """Location of a row: the shard's file in the artifact, and the row in it."""
        shard, row = self._place(index)
        return self.files.names[shard], row

    def index(self, shard: str, row: int) -> int:
        """Index of a row of a shard; inverse of `place`."""
        number = self.files.names.index(shard)
        return int(self._ends[number] - self.shard_rows[number]) + row

    def _place(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"row index {index} out of range 0 … {len(self) - 1}")
        shard = int(np.searchsorted(self._ends, index, side="right"))
        return shard, index - int(self._ends[shard] - self.shard_rows[shard])


def _corpora(shards: Sequence[Mapping[str, Any]]) -> dict[str, range]:
    """Row range of each corpus. Its shards are adjacent, so its rows are one range."""
    ranges: dict[str, range] = {}
    end = 0
    for shard in shards:
        begin, end = end, end + shard["rows"]
        if "corpus" in shard:
            ranges[shard["corpus"]] = range(ranges.get(shard["corpus"], range(begin, end)).start, end)
    return ranges


def unigram_bits_per_byte(train_counts: np.ndarray, counts: np.ndarray, text_bytes: int) -> float:
    """Bits per byte of a model that knows only the token frequencies.

    `counts` (int64 [vocab_size]) says how often each id is a scored target in rows of `text_bytes` bytes of
    text. The model uses the counts of the training split plus one per id (Laplace smoothing). The cost of all
    scored targets, end tokens included, is divided by the bytes of text, as in the model's own bits per byte.
    """
    probability = (train_counts + 1) / (train_counts.sum() + len(train_counts))
    return float(-(counts * np.log2(probability)).sum() / max(1, text_bytes))
