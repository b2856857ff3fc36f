"""Memory of a worker at its peaks, by hand: a model of 60 B parameters in 60 layers, AdamW, bf16."""

from __future__ import annotations

from typing import Any

import pytest

from headwater.llm.hardware.machines import parse_machine, read_table
from headwater.llm.model.shape import ModelConfig, Weight
from headwater.llm.planning.activations import Activations
from headwater.llm.planning.layouts import Parts, Room, shortage
from headwater.llm.planning.peaks import building_bytes, exporting_bytes, saving_bytes
from headwater.llm.planning.plan import Work, plan_gpus
from headwater.llm.stages.pretrain import PretrainConfig
from headwater.llm.training.zero_config import ZeroConfig

GB = 10**9
WEIGHTS = [
    Weight(f"model.layers.{n}.{part}", shape)
    for n in range(60)
    for part, shape in (("attention", (10_000, 40_000)), ("mlp", (20_000, 30_000)))
]
PASSES = Activations(fixed=1 * GB, per_row=2 * GB)


def parts(*, on_gpus: bool = True, **settings: Any) -> Parts:
    return Parts(WEIGHTS, WEIGHTS, PASSES, "bf16", PretrainConfig(**settings), on_gpus)


def zero(stage: int, **settings: Any) -> ZeroConfig:
    as_the_model = {"grad_accum_dtype": "model", "communication_data_type": "model"}
    return ZeroConfig.model_validate({"stage": stage, "bucket_elements": GB // 4, **as_the_model, **settings})


def test_gradients_in_fp32_and_overlapped_exchange_take_their_memory() -> None:
    """60 B weights on 8 GPUs: a share of 7.5 B; buckets of a quarter of a billion elements."""
    room = Room(10**4 * GB, 10**4 * GB)
    plain, exact = (
        parts().memory(zero(3, **types), 8, 20, 0, room)
        for types in ({}, {"grad_accum_dtype": "auto", "communication_data_type": "auto"})
    )
    assert (plain.gradients, exact.gradients) == (15 * GB, 30 * GB)
    assert exact.total - plain.total == (15 + 1) * GB  # and a bucket in fp32
    apart, overlapped = (
        parts().memory(zero(2, overlap_comm=overlap), 8, 20, 0, room).total for overlap in (False, True)
    )
    assert overlapped - apart == GB // 2  # a second bucket in bf16
    with_copies = parts().memory(zero(3, hpz_partition_size=4), 8, 2, 0, room)
    assert with_copies.parameters == (15 + 30) * GB
    assert parts().memory(zero(3, persist_below=500_000_000), 8, 2, 0, room).parameters == (15 + 48) * GB


@pytest.mark.parametrize(
    ("stage", "workers", "gigabytes"), [(0, 8, 240), (2, 8, 240), (3, 8, 34), (3, 64, 7.75)]
)
def test_a_model_is_born_whole_on_each_worker_below_stage_three(
    stage: int, workers: int, gigabytes: float
) -> None:
    """60 B x 4 bytes; at stage 3 a share of them and the largest layer, 1 B x 4 bytes."""
    assert building_bytes(WEIGHTS, zero(stage), workers) == gigabytes * GB


def test_a_checkpoint_copies_weights_and_moments_of_a_share_and_an_export_a_layer() -> None:
    assert saving_bytes(WEIGHTS, "adamw", 8) == 60 * 12 // 8 * GB
    small = [Weight("model.layers.0.q", (100, 10)), Weight("model.embed_tokens.weight", (50, 10))]
    assert saving_bytes(small, "muon", 1) == 8 * 1000 + 12 * 500  # Muon keeps one moment of hidden matrices
    assert exporting_bytes(WEIGHTS) == 4 * GB
    assert exporting_bytes(small) == 4 * 1000


def test_a_gpu_holds_its_state_and_passes_and_its_host_the_rest() -> None:
    memory = parts().memory(zero(3), 8, 2, 6 * GB, Room(180 * GB, 256 * GB))
    # 60 B / 8 = 7.5 B: 2 + 2 + 12 bytes each; passes 1 + 2 x 2, two buckets of half a GB
    assert (memory.parameters, memory.gradients, memory.optimizer) == (15 * GB, 15 * GB, 90 * GB)
    # the optimizer's step, 4 bytes of each of 7.5 B, needs more than the passes
    assert memory.working == 30 * GB
    assert memory.total == (15 + 15 + 90 + 30 + 6) * GB and memory.fits
    assert memory.host_total == 90.5 * GB  # the copy of a checkpoint, and libraries
    assert not parts().memory(zero(3), 8, 2, 6 * GB, Room(155 * GB, 256 * GB)).fits
    assert not parts().memory(zero(3), 8, 2, 6 * GB, Room(180 * GB, 90 * GB)).fits
    assert parts(background_checkpoints=False).memory(zero(3), 8, 2, 6 * GB, Room(180 * GB, 90 * GB)).fits


def test_an_offloaded_optimizer_counts_in_the_hosts_memory() -> None:
    memory = parts().memory(zero(3, offload_optimizer=True), 8, 2, 6 * GB, Room(80 * GB, 256 * GB))
    # host: 12 bytes of state and 4 of gradients, and the copy of a checkpoint
    assert memory.host == 120 * GB
    assert memory.host_total == (120 + 90) * GB + GB // 2
    assert memory.total == (15 + 15 + 5 + 1 + 6) * GB and memory.fits


def test_the_host_must_hold_the_model_while_it_is_born() -> None:
    short = Room(10_000 * GB, 200 * GB)
    memory = parts().memory(zero(2), 8, 2, 6 * GB, short)
    assert memory.host_total == 240.5 * GB and not memory.fits
    assert shortage(memory, short, on_gpus=True) == (
        "a worker needs 240.5 GB of host memory while the model is built at ZeRO 2 and has 200.0 GB"
    )


def test_a_cpu_workers_peak_is_the_larger_of_birth_and_training() -> None:
    born = parts(on_gpus=False).memory(zero(2), 64, 2, GB, Room())
    # held are 120 of weights, 12 x 60 / 64 of state, and as much in the copy of a checkpoint
    assert born.parameters == 120 * GB and born.saving == 11.25 * GB
    assert born.total == born.host_total == (240 + 1) * GB
    few = parts(on_gpus=False).memory(zero(3), 2, 2, GB, Room())
    assert few.total == (60 + 60 + 360 + 120 + 360 + 1) * GB


def test_a_refusal_has_the_figures_and_what_would_fit() -> None:
    room = Room(200 * GB, 200 * GB)
    model = parts(on_gpus=False)
    memory = model.memory(zero(2), 16, 2, GB, room)
    assert shortage(memory, room, on_gpus=False) == (
        "a worker needs 241.0 GB while the model is built at ZeRO 2 and has 200.0 GB of memory"
    )
    # stage 3 on 16: 16 bytes of 3.75 B, the step's 15, the copy's 45
    assert model.memory(zero(3), 16, 2, GB, room).total == (60 + 15 + 45 + 1) * GB
    fitting = model.would_fit(zero(2), 16, 2, GB, room)
    assert fitting[0] == "`zero.stage: 3`"
    assert "32 such workers with `zero.stage: 3`" in fitting
    assert shortage(model.memory(zero(3), 16, 2, GB, room), room, on_gpus=False) == ""


def test_a_gpu_that_is_too_small_is_helped_by_offload_or_more_gpus() -> None:
    room = Room(80 * GB, 256 * GB)
    fitting = parts().would_fit(zero(2), 8, 1, 6 * GB, room)
    assert fitting == [
        "`zero.stage: 3` with `zero.offload_optimizer: cpu`",
        "32 such workers with `zero.stage: 3`",  # 16 bytes of 1.875 B, 7.5 for the step; 16 would need 81 GB
    ]
    assert parts().memory(zero(3), 16, 1, 6 * GB, room).total == 81 * GB


def test_nothing_that_cannot_help_is_suggested() -> None:
    assert parts().would_fit(zero(2), 4096, 1, 6 * GB, Room(6 * GB, 6 * GB)) == []


def test_four_rows_without_offload_rank_above_eight_with_it() -> None:
    model = ModelConfig(depth=42, context=2048)
    config = PretrainConfig(steps=10, batch=256, model=model, optimizer="adamw", zero=zero(2))
    machine = parse_machine("8xH200", read_table())
    plan = plan_gpus(Work("tight", config, 65_536, 2048), machine, None)
    rows = {(row.zero, row.offload): row for row in plan.memory}
    assert (rows[0, False].micro_batch, rows[2, True].micro_batch) == (4, 8)
    assert (plan.zero, plan.micro_batch) == (0, 4)
    assert plan.step_seconds == rows[0, False].step_seconds
    for layout, share in (((0, False), 0.3775), ((3, False), 0.3655), ((2, True), 0.2948)):
        assert rows[layout].mfu == pytest.approx(share, abs=5e-4), "each layout has its own share of the peak"
