"""A canary for new versions of DeepSpeed: what we read of its insides is there and as we know it."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import deepspeed
import pytest
import torch
from deepspeed.runtime.zero import partition_parameters
from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3
from deepspeed.utils import groups

from headwater.cluster.errors import HeadwaterError
from headwater.llm.training import engine as training_engine
from headwater.llm.training.config import FineTuneConfig
from headwater.llm.training.undocumented import deepspeed_internals as internals
from headwater.llm.training.undocumented import deepspeed_starts as starts
from headwater.llm.training.undocumented.reliances import READ_IN, RELIANCES
from tests.llm.models import small_model
from tests.llm.ranks import on_ranks

ROOT = Path(__file__).resolve().parents[4]
OF_DEEPSPEED = {
    "groups": groups,
    "ops": deepspeed.ops,
    "partition_parameters": partition_parameters,
    "Init": deepspeed.zero.Init,
    "Stage3": DeepSpeedZeroOptimizer_Stage3,
}


def opened(stage: int, precision: str = "bf16", optimizer: str = "adamw") -> Any:
    settings: dict[str, Any] = {"zero": {"stage": stage}, "precision": precision, "optimizer": optimizer}
    config = FineTuneConfig(workers=1, batch=4, micro_batch=2, **settings)
    return training_engine.build(copy.deepcopy(small_model()), config, 1)


def passed(engine: Any) -> None:
    """One micro-batch, forwards and backwards."""
    ids = torch.arange(16).view(2, 8)
    engine.backward(engine(input_ids=ids, labels=ids).loss)


def matrix(engine: Any) -> Any:
    return next(p for p in engine.module.parameters() if len(internals.whole_shape(p)) == 2)


def trained(engine: Any) -> int:
    return sum(parameter.numel() for parameter in small_model().parameters())


def missing(engine: Any) -> list[str]:
    """What functions rely on and an engine does not have, with what would break."""
    owners = OF_DEEPSPEED | {"engine": engine, "optimizer": engine.optimizer, "parameter": matrix(engine)}
    found = []
    for function, reliance in RELIANCES.items():
        for attribute in reliance.attributes:
            owner, *path = attribute.split(".")
            held: Any = owners[owner]
            for name in path if engine.zero_optimization_stage() in reliance.stages else ():
                if not hasattr(held, name):
                    found.append(f"{attribute}, which {function} reads: without it no {reliance.breaks}")
                    break
                held = getattr(held, name)
    return found


# The form of what each function returns, after one micro-batch, and the stages that have it.


def has_names(engine: Any) -> None:
    names = {internals.name_of(engine, parameter) for parameter in engine.module.parameters()}
    assert names == {name for name, _ in small_model().named_parameters()}


def has_groups(engine: Any) -> None:
    assert torch.distributed.get_world_size(internals.sharding_group(engine)) == 1
    assert [torch.distributed.get_world_size(group) for group in internals.own_groups(engine)] == [1]
    assert internals.tensor_parallel(engine) == (0, 1)
    assert internals.scatters_gradients(engine) is True
    assert deepspeed.ops.__compatible_ops__ == {"deepspeed_shm_comm": False}, "no kernel was probed"


def has_a_loss_scale(engine: Any) -> None:
    scale = internals.loss_scale(engine)
    assert engine.optimizer.overflow in (False, 0) and scale
    if engine.zero_optimization_stage():
        assert scale["cur_scale"] == 1.0


def has_moments_for_its_weights(engine: Any) -> None:
    inner, copies = internals.inner_optimizer(engine), internals.fp32_copies(engine)
    assert isinstance(inner, torch.optim.AdamW)
    if engine.zero_optimization_stage() < 3:  # ZeRO 3 gives it one vector after another
        trains = [parameter for group in inner.param_groups for parameter in group["params"]]
        assert sorted(map(id, trains)) == sorted(map(id, copies))
    assert {each.dtype for each in copies} == {torch.float32}
    assert sum(each.numel() for each in copies) == pytest.approx(trained(engine), rel=0.01)  # and padding


def has_gradients(engine: Any) -> None:
    held = [each for each in internals.held_gradients(engine) if each is not None]
    assert sum(each.numel() for each in held) >= trained(engine)


def is_replicated(engine: Any) -> None:
    for parameter, weights in internals.replicated(engine):
        assert weights.dtype == torch.float32 and parameter.dtype == torch.bfloat16
        torch.testing.assert_close(weights.bfloat16(), parameter)


def is_flat(engine: Any) -> None:
    for group, flat, touched in internals.flat_groups(engine):
        assert all(a is b for a, b in zip(group, touched, strict=True))  # one rank has them all
        for parameter in group:
            here = internals.fragment(parameter)
            assert here is not None and (here.in_parameter, here.size) == (0, parameter.numel())
            own = flat.narrow(0, here.in_stretch, here.size).detach().view(parameter.shape)
            assert torch.equal(own.bfloat16(), parameter)
            flat.data[here.in_stretch] = 7.0
        internals.copy_weights_to_model(engine)
        assert all(parameter.flatten()[0] == 7.0 for parameter in group)
    assert internals.whole_momenta(engine) is True


def is_partitioned(engine: Any) -> None:
    whole = dict(small_model().named_parameters())
    for index, group in enumerate(internals.partitioned_groups(engine)):
        with internals.partitioned_weights(engine, index) as flat:
            offset = 0
            for parameter in group:
                part, expected = internals.part(parameter), whole[internals.name_of(engine, parameter)]
                assert internals.whole_shape(parameter) == tuple(expected.shape)
                assert (
                    (part.start, part.inside) == (0, internals.whole_size(parameter)) == (0, expected.numel())
                )
                assert torch.equal(part.values[: part.inside], expected.flatten().bfloat16())
                torch.testing.assert_close(
                    flat[offset : offset + part.inside].bfloat16(), part.values[: part.inside]
                )
                assert internals.part_values(parameter).numel() == part.size
                offset += part.size
    assert internals.weights_on_disk(engine) is False


FORMS: dict[Callable[[Any], None], tuple[int, ...]] = {
    has_names: (0, 1, 2, 3),
    has_groups: (0, 1, 2, 3),
    has_a_loss_scale: (0, 1, 2, 3),
    has_moments_for_its_weights: (0, 1, 2, 3),
    has_gradients: (0, 1, 2, 3),
    is_replicated: (0,),
    is_flat: (1, 2),
    is_partitioned: (3,),
}


def engines_are_as_we_know_them() -> None:
    for stage in range(4):
        engine = opened(stage)
        faults = missing(engine)
        passed(engine)
        for form, stages in FORMS.items():
            try:
                if stage in stages:
                    form(engine)
            except Exception as error:  # noqa: BLE001  # the canary lists them all
                faults.append(f"{form.__name__}: {type(error).__name__}: {error}")
        assert not faults, f"DeepSpeed {deepspeed.__version__}, ZeRO {stage}:\n" + "\n".join(faults)
    with_muon = opened(1, optimizer="muon")
    assert {internals.uses_muon(group) for group in with_muon.optimizer.param_groups} == {True, False}
    assert internals.uses_muon(with_muon.module.model.layers[0].mlp.up_proj.weight)
    internals.set_momentum_of_stage_3(opened(3, optimizer="muon"), 0.5)
    assert DeepSpeedZeroOptimizer_Stage3.create_reduce_and_remove_grad_hooks.__module__ == starts.__name__


def test_engines_at_every_zero_stage_are_as_we_know_them() -> None:
    on_ranks(1, engines_are_as_we_know_them)


def what_is_gone_is_named() -> None:
    engine = opened(2)
    del engine.optimizer.single_partition_of_fp32_groups
    (fault,) = missing(engine)
    assert fault.startswith(
        "optimizer.single_partition_of_fp32_groups, which flat_groups reads: without it no"
    )
    with pytest.raises(HeadwaterError, match=f"has changed: .*single_partition.*no checkpoints.*=={READ_IN}"):
        internals.flat_groups(engine)
    bad = opened(0, "fp32")
    passed(bad)
    before = matrix(bad).detach().clone()
    internals.step_without_update(bad)
    assert torch.equal(matrix(bad), before) and bad.global_steps == 0 and bad.micro_steps == 1


def test_an_attribute_that_is_gone_is_named_with_what_it_breaks() -> None:
    on_ranks(1, what_is_gone_is_named)


INSIDE = re.compile(
    r"\.(ds_\w+|_hp_mapping|bit16_groups|fp16_groups|fp32_groups|fp32_partitioned\w+|single_partition\w+"
    r"|params_in_partition|averaged_gradients|seq_data_parallel_group|param_names|loss_scaler|swap_optimizer"
    r"|autotp_size\(|zero_reduce_scatter|cpu_offload|update_lp_params|invalidate_secondary_tensor)"
    r"|[\"'](ds_\w+|overflow)[\"']|deepspeed\.(ops|runtime|utils)\._|import groups"
)


def reaching_in() -> Iterator[str]:
    own = {ROOT / f"llm/training/undocumented/deepspeed_{name}.py" for name in ("internals", "starts")}
    for folder in ("cluster", "llm", "serving", "headwater", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            for number, line in enumerate(path.read_text().splitlines(), 1):
                if path not in own and INSIDE.search(line):
                    yield f"{path.relative_to(ROOT)}:{number}: {line.strip()}"


def test_no_other_file_reaches_into_an_engine() -> None:
    assert list(reaching_in()) == []
    line = "flat = optimizer.single_partition_of_fp32_groups[0]"
    assert INSIDE.search(line) and INSIDE.search('getattr(parameter, "ds_tensor", None)')
