"""A resumed worker reads what it keeps, from whichever workers wrote it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from headwater.llm.model.files import stored
from headwater.llm.model.origins import fresh
from headwater.llm.model.shape import hf_config
from headwater.llm.training.state import elements
from tests.llm.chat_tokenizer import chat_tokenizer
from tests.llm.ranks import on_ranks
from tests.llm.training.state.test_birth import SHAPE, engine_of


def engine(**settings: Any) -> Any:
    return engine_of(fresh(hf_config(SHAPE, 4_096, chat_tokenizer()), 5), **settings)


def saved(folder: Path) -> None:
    made = engine(zero={"stage": 3})
    for run in elements.runs(made):
        for kind in elements.MOMENTS:
            run.values[kind].copy_(run.values[elements.WEIGHTS]).mul_(2)
    elements.save(made, folder, {"step": 1})


def resumed(folder: Path) -> None:
    made, read, counted = engine(zero={"stage": 3}), stored.TensorFile.read, [0]

    def counts(file: stored.TensorFile, position: int, buffer: torch.Tensor) -> None:
        counted[0] += buffer.numel()
        read(file, position, buffer)

    stored.TensorFile.read = counts  # type: ignore[method-assign]
    fresh_ones = [
        run.values[elements.WEIGHTS].clone() for run in elements.runs(made)
    ]  # those that were saved
    assert elements.load(made, folder) == {"step": 1}
    kept = 0
    for run, weights in zip(elements.runs(made), fresh_ones, strict=True):
        assert torch.equal(run.values[elements.WEIGHTS], weights)
        for kind in elements.MOMENTS:
            assert torch.equal(run.values[kind], 2 * weights)
        kept += 4 * sum(values.numel() for values in run.values.values())
    assert counted[0] == kept


@pytest.mark.parametrize("ranks", [1, 3])
def test_a_worker_reads_the_bytes_that_it_keeps_and_no_others(tmp_path: Path, ranks: int) -> None:
    on_ranks(2, saved, tmp_path)
    on_ranks(ranks, resumed, tmp_path)
