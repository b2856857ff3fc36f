"""Adapters, weight averages and memory savings: one trajectory at every ZeRO stage and across checkpoints.

On ranks without Ray, as in `test_sharding.py`, whose jobs these are.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.artifact import Artifact, Folder
from headwater.llm.model import adapters
from headwater.llm.model.adapters import LoraConfig
from headwater.llm.model.build import initialise, saved_model
from headwater.llm.model.shape import ModelConfig, hf_config
from headwater.llm.training import engine as training_engine
from headwater.llm.training import zero
from headwater.llm.training.loop import TrainJob, Worker, train_step
from headwater.llm.training.state import elements
from headwater.llm.training.state.average import decay_at
from headwater.llm.training.zero_config import ZeroConfig
from tests.llm.chat_tokenizer import chat_tokenizer
from tests.llm.models import save_model, small_model
from tests.llm.ranks import on_ranks
from tests.llm.training.parallel.test_sharding import make, record, save, small_reward_model, whole

STEPS, SAVED_AT = 5, 3
DECAY = 0.5
ADAPTERS = LoraConfig(rank=4, alpha=8)
VARIANTS: dict[str, dict[str, Any]] = {
    "adapters and average": {"lora": ADAPTERS, "ema_decay": DECAY},
    "adapters of a reward model": {"lora": ADAPTERS, "objective": "pairs"},
    "activations computed twice": {"activation_checkpointing": True},
    "state in host memory": {},
    "plain": {},
}
STAGES: dict[str, tuple[int, ...]] = {
    "adapters and average": (0, 1, 2, 3),
    "adapters of a reward model": (1, 3),
    "activations computed twice": (1, 3),
    "state in host memory": (2, 3),
    "plain": (),
}


def made(variant: str, stage: int, micro_batch: int) -> tuple[TrainJob, Worker]:
    """This rank's worker with the settings of a variant."""
    settings = VARIANTS[variant]
    if variant == "state in host memory" and stage:
        parameters = "cpu" if stage == 3 else "none"
        settings = {
            "zero": {"stage": stage, "offload_optimizer": "cpu", "offload_parameters": parameters},
        }
    return make("adamw", stage, micro_batch=micro_batch, **settings)


def on_two(folder: Path) -> None:
    """Every variant at every stage from the start; those with state of their own leave a checkpoint."""
    for variant, settings in VARIANTS.items():
        for stage in STAGES[variant]:
            job, worker = made(variant, stage, micro_batch=2)
            name, losses = f"{variant}-{stage}", []
            for step in range(STEPS):
                losses.append(train_step(job, worker, step)["loss"])
                if step + 1 == SAVED_AT:
                    save(worker, folder / name, {"losses": losses, "step": SAVED_AT})
            record(folder / f"{name}.json", losses)
            keep_end(worker, folder / f"{name}.pt", average="ema_decay" in settings)


def on_one(folder: Path) -> None:
    """The same on a single rank: from the start, and from each checkpoint at another stage."""
    for variant, settings in VARIANTS.items():
        job, worker = made(variant, 0, micro_batch=8)
        visited, losses = [trained(worker)], []
        for step in range(STEPS):
            losses.append(train_step(job, worker, step)["loss"])
            visited.append(trained(worker))
        record(folder / f"{variant}.json", losses)
        torch.save(visited, folder / f"{variant}-visited.pt")
        keep_end(worker, folder / f"{variant}.pt", average="ema_decay" in settings)
        for stage in STAGES[variant]:
            job, worker = made(variant, (stage + 1) % 4, micro_batch=4)
            state = elements.load(worker.engine, folder / f"{variant}-{stage}")
            rest = [train_step(job, worker, step)["loss"] for step in range(state["step"], STEPS)]
            record(folder / f"{variant}-{stage}-resumed.json", state["losses"] + rest)
            keep_end(worker, folder / f"{variant}-{stage}-resumed.pt", average="ema_decay" in settings)
    for objective in ("next token", "pairs"):
        (folder / objective).mkdir()
        export(folder / objective, objective)
    count_passes(folder)


def count_passes(folder: Path) -> None:
    """How often a micro-batch goes through a layer's feed-forward part in a step."""
    passes = {}
    for variant in ("plain", "activations computed twice"):
        job, worker = made(variant, 0, micro_batch=8)
        calls: list[int] = []
        worker.engine.module.model.layers[0].mlp.register_forward_pre_hook(
            lambda *_, calls=calls: calls.append(1)
        )
        train_step(job, worker, 0)
        passes[variant] = len(calls)
    (folder / "passes.json").write_text(json.dumps(passes))


def export(folder: Path, objective: str) -> None:
    """On one rank: adapters merged into a plain folder, and the logits of the model they were trained in."""
    job, worker = make("adamw", 3, micro_batch=8, lora=ADAPTERS, objective=objective)
    for step in range(2):
        train_step(job, worker, step)
    rows = job.source.batch(0)
    ids = torch.from_numpy(rows["chosen"] if objective == "pairs" else rows["ids"])
    worker.engine.module.eval()
    with torch.no_grad():
        torch.save((ids, worker.engine(input_ids=ids, use_cache=False).logits), folder / "logits.pt")
    with zero.gathered(worker.engine) as module:
        (folder / "merged").mkdir()
        adapters.save_merged(module, folder / "merged")
        torch.save(adapters.whole_weights(module), folder / "weights.pt")


def trained(worker: Worker) -> dict[str, torch.Tensor]:
    with zero.gathered(worker.engine) as module:
        return {n: p.detach().clone() for n, p in module.named_parameters() if p.requires_grad}


def keep_end(worker: Worker, path: Path, *, average: bool) -> None:
    """The weights that would be exported."""
    if average:
        worker.engine.average.swap()
    weights = trained(worker)
    if worker.rank == 0:
        torch.save(weights, path)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("settings")
    on_ranks(2, on_two, folder)
    on_ranks(1, on_one, folder)
    return folder


def losses(path: Path) -> list[float]:
    return list(json.loads(path.read_text()))


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_trajectory_at_every_zero_stage_and_across_a_checkpoint(ran: Path, variant: str) -> None:
    alone, end = losses(ran / f"{variant}.json"), torch.load(ran / f"{variant}.pt")
    assert len(set(alone)) == STEPS
    for stage in STAGES[variant]:
        for name in (f"{variant}-{stage}", f"{variant}-{stage}-resumed"):
            np.testing.assert_allclose(losses(ran / f"{name}.json"), alone, rtol=1e-5, err_msg=name)
            found = torch.load(ran / f"{name}.pt")
            assert found.keys() == end.keys()
            for parameter, values in end.items():
                torch.testing.assert_close(found[parameter], values, rtol=1e-3, atol=3e-5)


def test_activation_checkpointing_does_not_change_the_loss(ran: Path) -> None:
    plain = losses(ran / "plain.json")
    np.testing.assert_allclose(losses(ran / "activations computed twice.json"), plain, rtol=1e-6)
    assert json.loads((ran / "passes.json").read_text()) == {"plain": 1, "activations computed twice": 2}
    assert losses(ran / "adapters and average.json")[1:] != plain[1:]


def test_the_averaged_model_is_the_mean_of_the_weights_of_every_step(ran: Path) -> None:
    start, *visited = torch.load(ran / "adapters and average-visited.pt")
    averages = start
    for step, weights in enumerate(visited):
        kept = decay_at(step, DECAY)
        assert kept == (0.1, 2 / 11, 0.25, 4 / 13, 5 / 14)[step]
        averages = {name: kept * averages[name] + (1 - kept) * values for name, values in weights.items()}
    assert decay_at(1_000_000, DECAY) == DECAY
    for name, values in torch.load(ran / "adapters and average.pt").items():
        torch.testing.assert_close(values, averages[name], rtol=1e-5, atol=1e-6)


def test_a_checkpoint_holds_the_adapters_and_nothing_that_is_frozen(ran: Path) -> None:
    for stage in range(4):
        stored = whole(ran / f"adapters and average-{stage}")
        assert stored and all(".lora_" in name for name in stored)
        kinds = {name.rsplit("/", 1)[1] for name in stored}
        assert kinds == {"weights", "average", "exp_avg", "exp_avg_sq"}


def test_the_checkpoint_of_an_adapted_reward_model_holds_its_head_too(ran: Path) -> None:
    for stage in STAGES["adapters of a reward model"]:
        stored = {name.rsplit("/", 1)[0] for name in whole(ran / f"adapters of a reward model-{stage}")}
        assert [name for name in stored if ".lora_" not in name] == ["base_model.model.score.weight"]


def test_an_adapted_reward_model_is_exported_merged_and_as_an_adapter_with_its_head(ran: Path) -> None:
    from peft import PeftModel

    folder = ran / "pairs"
    ids, expected = torch.load(folder / "logits.pt")
    merged: Any = AutoModelForSequenceClassification.from_pretrained(folder / "merged")
    start: Any = copy.deepcopy(small_reward_model())
    with torch.no_grad():
        torch.testing.assert_close(merged(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-4)
        assert (start.score.weight - merged.score.weight).abs().min() > 1e-4  # all of it was trained
        start.score.weight.zero_()
        again = PeftModel.from_pretrained(start, str(folder / "merged" / "adapter")).eval()
        torch.testing.assert_close(again(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-4)


def test_merged_adapters_give_the_logits_of_the_model_that_was_trained(ran: Path) -> None:
    ran = ran / "next token"
    ids, expected = torch.load(ran / "logits.pt")
    merged = AutoModelForCausalLM.from_pretrained(ran / "merged")
    assert type(merged) is type(small_model())
    with torch.no_grad():
        torch.testing.assert_close(merged(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-4)
    own = dict(merged.named_parameters())
    rollouts = torch.load(ran / "weights.pt", weights_only=False)
    assert rollouts.keys() == own.keys()  # what an engine's load_weights takes
    for name, values in rollouts.items():
        torch.testing.assert_close(values, own[name].detach())
    assert any((own[n] != p).any() for n, p in small_model().named_parameters() if "q_proj" in n)


def test_the_adapter_alone_can_be_put_on_the_model_again(ran: Path) -> None:
    from peft import PeftModel

    ran = ran / "next token"
    ids, expected = torch.load(ran / "logits.pt")
    again = PeftModel.from_pretrained(copy.deepcopy(small_model()), str(ran / "merged" / "adapter")).eval()
    with torch.no_grad():
        torch.testing.assert_close(again(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-4)


def quantised(folder: Path) -> None:
    """Adapters beside 4-bit matrices, at ZeRO 0 on one rank or 3 on two; one rank merges them."""
    config = LoraConfig(rank=4, quantise="nf4")
    model = saved_model(Folder(Artifact(str(folder)), "model"), config, "fp32")
    alone = dist.get_world_size() == 1
    job, worker = make("adamw", 0 if alone else 3, micro_batch=4, lora=config, model=lambda: model)
    found = [train_step(job, worker, step)["loss"] for step in range(3)]
    record(folder / f"on-{worker.world_size}.json", found)
    if alone:
        ids = torch.from_numpy(job.source.batch(0)["ids"])
        worker.engine.module.eval()
        with torch.no_grad():
            torch.save((ids, worker.engine(input_ids=ids, use_cache=False).logits), folder / "logits.pt")
        adapters.save_merged(worker.engine.module, folder / "merged")


def test_adapters_beside_matrices_of_4_bits_are_trained_and_merged_at_any_stage(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    tokenizer = chat_tokenizer()
    start = initialise(hf_config(ModelConfig(depth=2, width=128, context=64), len(tokenizer), tokenizer), 0)
    save_model(tmp_path, start)
    (tmp_path / "merged").mkdir()
    for ranks in (1, 2):
        on_ranks(ranks, quantised, tmp_path)
    alone = losses(tmp_path / "on-1.json")
    assert len(set(alone)) == 3
    np.testing.assert_allclose(losses(tmp_path / "on-2.json"), alone, rtol=1e-5)
    ids, expected = torch.load(tmp_path / "logits.pt")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    with torch.no_grad():
        torch.testing.assert_close(merged(input_ids=ids).logits, expected, rtol=1e-3, atol=1e-3)
        assert (start(input_ids=ids).logits - expected).abs().max() > 0.01  # they were in 4 bits


def test_settings_that_this_host_cannot_run_are_refused_by_name() -> None:
    assert adapters.quantisation(None, "fp32") is adapters.quantisation(ADAPTERS, "fp32") is None
    with pytest.raises(HeadwaterError, match="fp16 needs GPUs"):
        training_engine.check_means(ZeroConfig(), "fp16")
    on_disk = ZeroConfig(stage=3, offload_parameters="nvme", nvme_path="/nvme")
    with pytest.raises(HeadwaterError, match="cannot hold fp32"):
        training_engine.check_means(on_disk, "fp32")
    with pytest.raises(HeadwaterError, match=r"lora\.targets: the model \(qwen3\) has no query .*k_proj"):
        adapters.with_adapters(copy.deepcopy(small_model()), LoraConfig(targets=("q_proj", "query")), 0)


def test_adapters_of_the_last_layers_leave_the_others_without_gradients() -> None:
    model = adapters.with_adapters(copy.deepcopy(small_model()), LoraConfig(layers=1), 0)
    model(input_ids=torch.arange(8)[None]).logits.square().mean().backward()
    learnt = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert len(learnt) == 14 and all(".layers.1." in name and ".lora_" in name for name in learnt)
    assert adapters.untouched_layers(model) == 1


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"stage": 2, "offload_parameters": "cpu"}, "needs stage 3"),
        ({"stage": 0, "offload_optimizer": "cpu"}, "needs stage 1, 2 or 3"),
        ({"stage": 3, "offload_optimizer": "nvme"}, "`nvme_path`"),
        ({"stage": 2, "offload_optimizer": "nvme", "nvme_path": "/nvme"}, "needs stage 3"),
    ],
)
def test_offloading_that_no_stage_knows_is_refused(settings: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        ZeroConfig(**settings)


def test_offloading_as_a_switch_still_means_the_hosts_memory() -> None:
    assert ZeroConfig.model_validate({"offload_optimizer": True}).offload_optimizer == "cpu"
    assert ZeroConfig.model_validate({"offload_optimizer": False}).offload_optimizer == "none"
