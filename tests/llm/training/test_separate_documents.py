"""Separate documents in a row: the logits of one do not depend on the others."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headwater.cluster.storage.artifact import Artifact
from headwater.data_pipeline.tokens.packing import Packing, document_positions, pack
from headwater.data_pipeline.tokens.shards import TokenRows, write_shard
from headwater.llm.rows.order import ShuffledOrder
from headwater.llm.stages.pretrain import RowBatches
from headwater.llm.training.bits_per_byte import BitsPerByte
from headwater.llm.training.losses.objectives import NextToken
from headwater.llm.training.losses.token_losses import token_losses
from tests.llm.models import small_model

END, PAD, LENGTH = 0, 3, 64
SIZES = [20, 7, 30, 1, 0, 50, 12, 63, 5, 40, 33, 18]


def documents() -> list[tuple[str, np.ndarray]]:
    random = np.random.default_rng(0)
    return [(f"d{n}", random.integers(4, 300, size)) for n, size in enumerate(SIZES)]


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return copy.deepcopy(small_model()).eval()


def write_rows(folder: Path, packing: Packing) -> TokenRows:
    artifact = Artifact(str(folder))
    packed = pack(documents(), LENGTH, end_id=END, pad_id=PAD, vocab_size=300, packing=packing)
    with artifact.create("validation/0.arrow") as stream:
        write_shard(stream, packed)
    shards = [{"name": "0.arrow", "rows": len(packed.ids)}]
    split = {"tokens": sum(SIZES) + len(SIZES), "bytes": 1_000, "documents": len(SIZES), "shards": shards}
    index = {"row_length": LENGTH, "vocab_size": 300, "pad_id": PAD, "end_id": END}
    artifact.write_json("rows.json", index | {"splits": {"validation": split}})
    return TokenRows(artifact, "validation")


@given(st.lists(st.lists(st.sampled_from([END, 5, 6]), min_size=9, max_size=9), min_size=1, max_size=4))
def test_positions_count_from_the_last_end(rows: list[list[int]]) -> None:
    expected = []
    for row in rows:
        places, place = [], -1
        for token in row:
            place = 0 if token == END else place + 1
            places.append(place)
        expected.append(places)
    assert document_positions(np.array(rows), END).tolist() == expected


@torch.no_grad()
def test_logits_of_a_packed_document_are_those_of_the_document_alone(model: torch.nn.Module) -> None:
    packed = pack(documents(), LENGTH, end_id=END, pad_id=PAD, vocab_size=300, packing="best_fit")
    inputs = packed.ids[:, :-1].astype(np.int64)
    positions = torch.from_numpy(document_positions(inputs, END))
    apart = model(input_ids=torch.from_numpy(inputs), position_ids=positions, use_cache=False).logits
    together = model(input_ids=torch.from_numpy(inputs), use_cache=False).logits
    tokens = dict(documents())
    compared = 0
    for row, inside in enumerate(packed.documents):
        for number, (start, name) in enumerate(inside):
            alone_ids = torch.tensor([[END, *tokens[name].tolist()]])
            alone = model(input_ids=alone_ids, use_cache=False).logits[0]
            here = slice(start - 1, start + len(tokens[name]))
            torch.testing.assert_close(apart[row, here], alone, atol=1e-5, rtol=1e-5)
            if number and len(tokens[name]):
                assert not torch.allclose(together[row, here], alone, atol=1e-2)
            compared += 1
    assert compared == len(SIZES)


@torch.no_grad()
@pytest.mark.parametrize("packing", ["concatenate", "best_fit"])
def test_bits_per_byte_are_of_documents_kept_apart(
    model: torch.nn.Module, tmp_path: Path, packing: Packing
) -> None:
    rows = write_rows(tmp_path, packing)
    device = torch.device("cpu")
    apart = BitsPerByte(rows, 3, separate_documents=True).of_model(model, device)
    together = BitsPerByte(rows, 3).of_model(model, device)
    assert abs(apart - together) > 1e-3
    if packing == "best_fit":  # no document is longer than a row, so each is scored as if alone
        nats = 0.0
        for _, ids in documents():
            nats += float(token_losses(model, torch.tensor([[END, *ids.tolist(), END]])).sum())
        assert apart == pytest.approx(nats / math.log(2) / rows.bytes, rel=1e-5)


@torch.no_grad()
def test_the_loss_of_a_document_does_not_depend_on_those_before_it(
    model: torch.nn.Module, tmp_path: Path
) -> None:
    rows = write_rows(tmp_path, "concatenate")
    source = RowBatches(rows, ShuffledOrder(len(rows), 4, seed=0), separate_documents=True)
    source.rank, source.world_size = 0, 1
    arrays = source.batch(0)
    batch = {name: torch.from_numpy(array) for name, array in arrays.items()}
    row = int(np.argmax((arrays["ids"][:, 1:-1] == END).any(axis=1)))
    end = int(np.flatnonzero(arrays["ids"][row, :-1] == END)[-1])
    changed = dict(batch, ids=batch["ids"].clone())
    changed["ids"][row, :end] = 7
    for one in (batch, changed):
        one["mask"] = torch.zeros_like(batch["mask"])
        one["mask"][row, end + 1 :] = 1
    losses = [float(NextToken().loss_sum(model, one)[0]) for one in (batch, changed)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    for one in (batch, changed):
        del one["positions"]
    losses = [float(NextToken().loss_sum(model, one)[0]) for one in (batch, changed)]
    assert losses[0] != pytest.approx(losses[1], rel=1e-4)
