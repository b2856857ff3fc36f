"""Every architecture trains, is exported, opens in transformers and decodes in the engine."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM

from headwater.cluster.storage.artifact import Folder
from headwater.llm.inference import Sampling
from headwater.llm.inference.forward.decoder import way_of
from headwater.llm.inference.torch_engine import TorchEngine
from headwater.llm.model.build import initialise
from headwater.llm.model.origins import fresh
from headwater.llm.model.shape import ModelConfig, hf_config
from headwater.llm.training.losses.objectives import NextToken
from tests.llm.chat_tokenizer import chat_tokenizer
from tests.llm.jobs import run_job
from tests.llm.models import save_model
from tests.llm.random_rows import Rows
from tests.llm.ranks import on_ranks

STEPS, WINDOW = 3, 6
SHAPES: dict[str, dict[str, Any]] = {
    "qwen3": {"sliding_window": WINDOW, "mlp_ratio": 2.5},
    "llama": {"architecture": "llama", "head_width": 32, "tie_embeddings": False},
    "gemma2": {"architecture": "gemma2", "head_width": 32, "sliding_window": WINDOW},
    "gemma3": {"architecture": "gemma3", "sliding_window": WINDOW, "logit_softcap": 20.0},
    "nanochat": {"architecture": "nanochat", "tie_embeddings": False},
}
OPTIMIZERS = {"nanochat": "muon"}
"""Of an architecture without vectors; AdamW trains the others."""
PROMPT = torch.arange(5, 45)[None]
PROMPTS = [
    list(range(start, start + length)) for start, length in ((10, 20), (7, 3), (100, 10), (50, 1), (140, 9))
]


def config_of(name: str) -> Any:
    model = ModelConfig.model_validate({"depth": 2, "width": 64, "context": 64} | SHAPES[name])
    return hf_config(model, len(chat_tokenizer()), chat_tokenizer())


def train(folder: Path, tokenizer: Folder) -> None:
    """On two ranks, from models without values. What ZeRO 3 trained is exported, beside its logits."""
    found: dict[str, list[float]] = {}
    for name in SHAPES:
        for stage, exported in ((0, None), (3, tokenizer)):
            worker = run_job(
                folder / f"{name}-{stage}",
                Rows(8),
                folder / "screen",
                model=functools.partial(fresh, config_of(name), 0),
                tokenizer=exported,
                steps=STEPS,
                optimizer=OPTIMIZERS.get(name, "adamw"),
                zero={"stage": stage},
            )
            found[f"{name}-{stage}"] = [record["loss"] for record in worker.history]
        worker.engine.module.eval()
        with torch.no_grad():
            logits = worker.engine(input_ids=PROMPT, use_cache=False).logits
        if worker.rank == 0:
            np.save(folder / f"{name}.npy", logits.numpy())
    if dist.get_rank() == 0:
        (folder / "losses.json").write_text(json.dumps(found))


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("architectures")
    on_ranks(2, train, folder, save_model(folder / "tokenizer"))
    return folder


def losses(ran: Path, name: str) -> list[float]:
    found: dict[str, list[float]] = json.loads((ran / "losses.json").read_text())
    return found[name]


@pytest.mark.parametrize("name", SHAPES)
def test_every_architecture_trains_the_same_whole_and_partitioned(ran: Path, name: str) -> None:
    whole, partitioned = losses(ran, f"{name}-0"), losses(ran, f"{name}-3")
    assert len(set(whole)) == STEPS
    np.testing.assert_allclose(partitioned, whole, rtol=1e-5)
    rows = Rows(8)
    first = {part: values[rows.plan.indices(0)] for part, values in (("ids", rows.ids), ("mask", rows.mask))}
    batch = {part: torch.from_numpy(values) for part, values in first.items()}
    with torch.no_grad():
        loss, _ = NextToken().loss_sum(initialise(config_of(name), 0), batch)
    assert whole[0] == pytest.approx(float(loss) / NextToken().weight(batch), rel=1e-5)


@pytest.mark.parametrize("name", SHAPES)
def test_transformers_opens_what_was_trained_and_generates_the_engines_ids(ran: Path, name: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(ran / f"{name}-3" / "model", dtype=torch.float32).eval()
    with torch.no_grad():
        np.testing.assert_allclose(
            model(input_ids=PROMPT).logits.numpy(), np.load(ran / f"{name}.npy"), atol=1e-5
        )
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)  # choices far apart
    way = way_of(model)
    assert way.layers is not None and way.lean == (name == "llama")
    assert {layer.window for layer in way.layers} == (
        {None, WINDOW} if "sliding_window" in SHAPES[name] else {None}
    )
    engine = TorchEngine(model, chat_tokenizer())
    completions, seen = engine.generate(PROMPTS, Sampling(max_tokens=16, temperature=0)), set[int]()
    for prompt, completion in zip(PROMPTS, completions, strict=True):
        expected = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=16,
            do_sample=False,
            pad_token_id=chat_tokenizer().pad_token_id,
        )[0, len(prompt) :].tolist()
        assert completion.ids == expected
        seen |= set(expected)
    assert len(seen) > 3
