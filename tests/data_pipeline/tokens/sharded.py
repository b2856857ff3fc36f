"""A finished `tokenize` artifact of many small shards."""

from __future__ import annotations

import numpy as np

from headwater.cluster.storage.artifact import Artifact, Manifest
from headwater.data_pipeline.tokens.packing import pack
from headwater.data_pipeline.tokens.shards import TokenRows, write_shard

LENGTH = 16


def write_sharded(artifact: Artifact, shards: int) -> TokenRows:
    """Its training rows: random ids, so that no two rows are equal."""
    random = np.random.default_rng(0)
    written = []
    for shard in range(shards):
        documents = [(f"{shard}-{n}", random.integers(4, 500, random.integers(5, 90))) for n in range(4)]
        packed = pack(documents, LENGTH, end_id=0, pad_id=3, vocab_size=500)
        with artifact.create(f"train/{shard:05d}.arrow") as stream:
            write_shard(stream, packed)
        written.append({"name": f"{shard:05d}.arrow", "rows": len(packed.ids)})
    summary = {"tokens": 1, "bytes": 1, "documents": 4 * shards, "shards": written}
    index = {"row_length": LENGTH, "vocab_size": 500, "pad_id": 3, "end_id": 0, "splits": {"train": summary}}
    artifact.write_json("rows.json", index)
    artifact.finish(Manifest(stage="tokenize", key="k", stage_version=1, config={}, inputs={}))
    return TokenRows(artifact, "train")
