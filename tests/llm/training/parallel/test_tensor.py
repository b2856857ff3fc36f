"""Tensor parallelism: the same trajectory, checkpoints, average and export as with unsharded layers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from headwater.cluster.errors import HeadwaterError
from headwater.data_pipeline.tokens.shards import TokenRows
from headwater.llm.model.shape import ModelConfig, shape_of, weights_of
from headwater.llm.planning.calibrate import RandomRows
from headwater.llm.planning.memory import state_formula
from headwater.llm.stages.pretrain import PretrainConfig
from headwater.llm.training import zero
from headwater.llm.training.bits_per_byte import BitsPerByte
from headwater.llm.training.held_memory import state_bytes
from headwater.llm.training.loop import TrainJob, Worker
from headwater.llm.training.parallel import tensor
from headwater.llm.training.state import elements
from headwater.llm.training.state.elements import Place
from headwater.llm.training.zero_config import ZeroConfig
from tests.llm.ranks import on_ranks
from tests.llm.shared_rows import SAVED_AT, STEPS, followed, fresh, make

SHAPE = ModelConfig(depth=2, width=128, kv_groups=1, context=64)  # two heads
STAGES = {1: (1,), 2: (0, 1, 2, 3)}
"""Of ZeRO, by the number of groups; each group has two workers."""


def made(stage: int, tensor_parallel: int) -> tuple[TrainJob, Worker]:
    more: dict[str, Any] = {"ema_decay": 0.9, "activation_checkpointing": stage == 2}
    return make("adamw", stage, model=SHAPE, tensor_parallel=tensor_parallel, **more)


def figures_of(job: TrainJob, worker: Worker, first: int) -> dict[str, Any]:
    """Of the steps from `first` on, and of the average's evaluation after them."""
    steps = followed(job, worker, range(first, STEPS))
    worker.engine.average.swap()
    rows = cast("TokenRows", RandomRows(13, 24, 300))
    worker.engine.module.eval()
    return {"steps": steps, **BitsPerByte(rows, 2)(worker)}


def export(worker: Worker, path: Path) -> None:
    """The average's weights as the stage exports them."""
    with zero.gathered(worker.engine) as module:
        weights = tensor.whole_weights(worker.engine, module) or module.state_dict()
        if worker.rank == 0:
            save_file({n: w.contiguous() for n, w in weights.items() if n != "lm_head.weight"}, path)


def whole(folder: Path) -> None:
    """One worker with all of the model: the figures to come to, and a checkpoint to go on from."""
    job, worker = made(1, 1)
    steps = followed(job, worker, range(SAVED_AT))
    (folder / "whole").mkdir()
    elements.save(worker.engine, folder / "whole", {})
    figures = figures_of(job, worker, SAVED_AT)
    (folder / "whole.json").write_text(json.dumps(figures | {"steps": steps + figures["steps"]}))
    export(worker, folder / "whole.safetensors")


def shared(folder: Path, groups: int) -> None:
    """Two workers a layer, from the start and from the whole model's checkpoint."""
    for stage in STAGES[groups]:
        name = f"{groups}-{stage}"
        job, worker = made(stage, 2)
        steps = followed(job, worker, range(SAVED_AT))
        if worker.rank == 0:
            (folder / name).mkdir()
        dist.barrier()
        elements.save(worker.engine, folder / name, {})
        held, _ = state_bytes(worker.engine)
        figures = figures_of(job, worker, SAVED_AT)
        sizes = {"parameters": held.parameters, "optimizer": held.optimizer}
        if worker.rank == 0:
            (folder / f"{name}.json").write_text(
                json.dumps(figures | {"steps": steps + figures["steps"], **sizes})
            )
        export(worker, folder / f"{name}.safetensors")
        job, worker = made(stage, 2)
        elements.load(worker.engine, folder / "whole")
        figures = figures_of(job, worker, SAVED_AT)
        if worker.rank == 0:
            (folder / f"{name}-resumed.json").write_text(json.dumps(figures))


def whole_again(folder: Path) -> None:
    for groups, stages in STAGES.items():
        for stage in stages:
            job, worker = made(stage, 1)
            elements.load(worker.engine, folder / f"{groups}-{stage}")
            figures = figures_of(job, worker, SAVED_AT)
            (folder / f"{groups}-{stage}-whole.json").write_text(json.dumps(figures))
            export(worker, folder / f"{groups}-{stage}-whole.safetensors")


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("layers")
    on_ranks(1, whole, folder)
    for groups in STAGES:
        on_ranks(2 * groups, shared, folder, groups)
    on_ranks(1, whole_again, folder)
    return folder


def read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))


CASES = [(groups, stage) for groups, stages in STAGES.items() for stage in stages]


@pytest.mark.parametrize(("groups", "stage"), CASES)
def test_workers_that_share_layers_follow_the_trajectory_of_one(ran: Path, groups: int, stage: int) -> None:
    alone, found = read(ran / "whole.json"), read(ran / f"{groups}-{stage}.json")
    losses, norms = np.array(alone["steps"]).T
    assert len(set(losses)) == STEPS
    np.testing.assert_allclose(np.array(found["steps"])[:, 0], losses, rtol=1e-5)
    if stage:  # without ZeRO DeepSpeed tells no norm
        np.testing.assert_allclose(np.array(found["steps"])[:, 1], norms, rtol=1e-4)
    assert found["bits_per_byte"] == pytest.approx(alone["bits_per_byte"], rel=1e-5)


@pytest.mark.parametrize("turned", ["whole", "resumed"])
@pytest.mark.parametrize(("groups", "stage"), CASES)
def test_tensor_parallel_checkpoints_convert_to_unsharded_ones_and_back(
    ran: Path, groups: int, stage: int, turned: str
) -> None:
    alone, found = read(ran / "whole.json"), read(ran / f"{groups}-{stage}-{turned}.json")
    expected = np.array(alone["steps"])[SAVED_AT:, 0]
    np.testing.assert_allclose(np.array(found["steps"])[:, 0], expected, rtol=1e-5)
    assert found["bits_per_byte"] == pytest.approx(alone["bits_per_byte"], rel=1e-5)


@pytest.mark.parametrize("kind", ["", "-whole"])
@pytest.mark.parametrize(("groups", "stage"), CASES)
def test_what_is_exported_is_the_whole_model(ran: Path, groups: int, stage: int, kind: str) -> None:
    alone = load_file(ran / "whole.safetensors")
    found = load_file(ran / f"{groups}-{stage}{kind}.safetensors")
    assert found.keys() == alone.keys()
    for name, weights in alone.items():
        # AdamW divides a gradient of next to nothing by itself: a few elements lie further apart than losses.
        assert (found[name] - weights).norm() < 1e-4 * weights.norm(), name


@pytest.mark.parametrize(("groups", "stage"), CASES)
def test_a_worker_holds_its_part_as_planned(ran: Path, groups: int, stage: int) -> None:
    found = read(ran / f"{groups}-{stage}.json")
    parts = tensor.cut(weights_of(fresh(SHAPE)), 2)
    planned = state_formula(
        parts, ZeroConfig(stage=stage), world_size=groups, precision="fp32", optimizer="adamw"
    )
    assert found["parameters"] == pytest.approx(planned.parameters, rel=0.01)
    assert found["optimizer"] == pytest.approx(planned.optimizer, rel=0.01)


PLACES = [Place(0), Place(7), Place(3, 4, 4, 12), Place(0, 0, 6, 12), Place(9, 6, 6, 12)]


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_a_shard_place_names_its_elements(place: Place) -> None:
    whole = np.arange(60).reshape(5, 12)
    part = whole[:, place.first : place.first + place.width] if place.columns else whole
    run = part.reshape(-1)[place.start :][:17]
    assert Place.parse(str(place)) == place
    for block in place.blocks(len(run), 12):
        rows = whole[block.row : block.row + block.rows, block.column : block.column + block.columns]
        size = block.rows * block.columns
        np.testing.assert_array_equal(run[block.offset : block.offset + size], rows.reshape(-1))
    assert sum(b.rows * b.columns for b in place.blocks(len(run), 12)) == len(run)


def test_indivisible_sizes_are_refused_before_anything_starts() -> None:
    fits: dict[str, Any] = {
        "workers": 4,
        "elastic": False,
        "batch": 16,
        "micro_batch": 4,
        "optimizer": "adamw",
    }
    shape = shape_of(SHAPE, 400)
    tensor.check(2, shape, **fits)
    for changed, fault in (
        ({"workers": 3}, "3 workers cannot form groups of 2"),
        ({"elastic": True}, "must not change"),
        ({"optimizer": "muon"}, "Muon needs whole matrices"),
        ({"batch": 12}, "a batch of 12 is not a whole number of micro-batches of 4"),
    ):
        with pytest.raises(HeadwaterError, match=fault):
            tensor.check(2, shape, **(fits | changed))
    with pytest.raises(HeadwaterError, match="2 heads cannot be split evenly; 2 key/value heads"):
        tensor.check(4, shape, **fits)
    with pytest.raises(ValueError, match="cannot be combined"):
        PretrainConfig(sequence_parallel=2, tensor_parallel=2)
