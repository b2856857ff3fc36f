"""Bits per byte: sums over ranks and corpora equal the total, however rows are distributed."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from headwater.cluster.storage.artifact import Artifact
from headwater.data_pipeline.tokens.packing import pack
from headwater.data_pipeline.tokens.shards import TokenRows, write_shard
from headwater.llm.training.bits_per_byte import BitsPerByte
from headwater.llm.training.loop import Worker
from tests.llm.models import small_model

BYTES = {"web": 700, "books": 400, "empty": 0}


@pytest.fixture
def rows(tmp_path: Path) -> TokenRows:
    random = np.random.default_rng(0)
    artifact = Artifact(str(tmp_path))
    shards = []
    for name, size in (("web", 170), ("books", 90)):
        packed = pack([("d", random.integers(4, 300, size))], 16, end_id=0, pad_id=3, vocab_size=300)
        with artifact.create(f"validation/{name}/0.arrow") as stream:
            write_shard(stream, packed)
        shards.append({"name": f"{name}/0.arrow", "rows": len(packed.ids), "corpus": name})
    split = {
        "tokens": 262,
        "bytes": sum(BYTES.values()),
        "documents": 2,
        "shards": shards,
        "corpora": {name: {"bytes": size} for name, size in BYTES.items()},
    }
    index = {"row_length": 16, "vocab_size": 300, "pad_id": 3, "end_id": 0, "splits": {"validation": split}}
    artifact.write_json("rows.json", index)
    return TokenRows(artifact, "validation")


class OneOf(Worker):
    """A rank whose sums are taken by hand."""

    def total(self, values: list[float]) -> list[float]:
        return values


@torch.no_grad()
def test_ranks_and_corpora_add_up_to_the_whole(rows: TokenRows) -> None:
    model, device = copy.deepcopy(small_model()).eval(), torch.device("cpu")
    evaluation = BitsPerByte(rows, 4)
    whole = evaluation.of_model(model, device)
    for world_size in (1, 2, 3):
        ranks = [evaluation(OneOf(rank, world_size, model, device)) for rank in range(world_size)]
        measured = {name: sum(rank[name] for rank in ranks) for name in ranks[0]}
        assert set(measured) == {"bits_per_byte", "bits_per_byte_web", "bits_per_byte_books"}
        assert measured["bits_per_byte"] == pytest.approx(whole, rel=1e-6)
        parts = sum(measured[f"bits_per_byte_{name}"] * BYTES[name] for name in ("web", "books"))
        assert parts / rows.bytes == pytest.approx(whole, rel=1e-6)
    ids = torch.from_numpy(rows.gather(np.array(rows.corpora["books"])))
    logits = model(input_ids=ids[:, :-1]).logits.log_softmax(-1)
    taken = logits.gather(-1, ids[:, 1:, None])[..., 0][ids[:, 1:] != 3]
    books = -float(taken.sum()) / math.log(2) / BYTES["books"]
    assert measured["bits_per_byte_books"] == pytest.approx(books, rel=1e-5)
