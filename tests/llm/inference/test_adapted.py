"""Sequences of several adapters in one batch get what each adapter gives alone, by peft's own forward."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from headwater.cluster.errors import HeadwaterError
from headwater.llm.inference.adapted import AdaptedEngine
from headwater.llm.inference.base import Limits, Sampling
from headwater.llm.inference.forward.low_rank import load_adapter
from headwater.llm.inference.shared import SharedEngine
from headwater.llm.inference.torch_engine import TorchEngine
from headwater.llm.model.adapter_files import SETTINGS, TENSORS, linear_shapes, read_adapter
from tests.llm.chat_tokenizer import chat_tokenizer
from tests.llm.models import foreign_model, small_model

PROMPTS = [list(range(5, 25)), list(range(5, 25)), list(range(5, 25)), [60, 61, 62]]


def peft_folder(folder: Path, seed: int, model: Any = None, **settings: Any) -> Path:
    """An adapter that peft saves, with effects as large as the model's own."""
    asked = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "down_proj"]} | settings
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapted = peft.get_peft_model(copy.deepcopy(model or small_model()), peft.LoraConfig(**asked))
        for name, parameter in adapted.named_parameters():
            if ".lora_B" in name:
                parameter.data.normal_(std=0.5)
    adapted.save_pretrained(folder)
    return folder


def pefts(folder: Path, prompt: list[int], tokens: int, model: Any = None) -> list[int]:
    """Greedy ids by peft and transformers."""
    adapted: Any = peft.PeftModel.from_pretrained(copy.deepcopy(model or small_model()), str(folder)).eval()
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(tokens):
            ids.append(int(adapted(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.fixture
def engine() -> TorchEngine:
    return TorchEngine(copy.deepcopy(small_model()), chat_tokenizer())


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.self_attn.v_proj": 32}},
        {"target_modules": "all-linear"},
    ],
    ids=["plain", "rank-stabilised", "patterns", "all layers"],
)
def test_rows_of_two_adapters_and_of_none_share_a_batch(
    engine: TorchEngine, tmp_path: Path, settings: dict[str, Any]
) -> None:
    folders = [peft_folder(tmp_path / str(seed), seed, **settings) for seed in (1, 2)]
    before = engine.generate(PROMPTS[:1], Sampling(12, temperature=0))[0].ids
    one, two = (engine.adapter(folder) for folder in folders)
    batch = engine.batch(Limits(prefixes=1 << 20))
    said: dict[int, list[int]] = {}
    for _ in range(2):  # the second time from kept prefixes
        owners = [one, two, None, one]
        given = Sampling(12, temperature=0, ignore_eos=True)
        handles = [
            batch.submit(prompt, given, adapter=own) for prompt, own in zip(PROMPTS, owners, strict=True)
        ]
        said |= {handle: [] for handle in handles}
        while not batch.idle:
            for event in batch.step():
                said[event.handle].append(event.id)
    rows = list(said.values())
    wanted = [pefts(folders[0], PROMPTS[0], 12), pefts(folders[1], PROMPTS[1], 12), rows[2]]
    wanted.append(pefts(folders[0], PROMPTS[3], 12))
    assert rows == wanted * 2
    assert wanted[0] != wanted[1] and rows[2][: len(before)] == before
    assert batch.prefixes.found > 0


def test_scores_and_streams_of_an_adapter_are_those_of_its_merged_model(
    engine: TorchEngine, tmp_path: Path
) -> None:
    folder = peft_folder(tmp_path / "a", 3)
    loaded: Any = peft.PeftModel.from_pretrained(copy.deepcopy(small_model()), str(folder))
    merged = TorchEngine(loaded.merge_and_unload(), chat_tokenizer())
    shared = SharedEngine(engine)
    mine = AdaptedEngine(shared, engine.adapter(folder))
    prompts, completions = PROMPTS[2:], [[7, 8, 9], [10, 11]]
    for found, wanted in zip(
        mine.score(prompts, completions), merged.score(prompts, completions), strict=True
    ):
        assert found == pytest.approx(wanted, abs=1e-4)
    read = [token.logprob for token in mine.read(PROMPTS[0], 3)]
    assert read == pytest.approx([token.logprob for token in merged.read(PROMPTS[0], 3)], abs=1e-4)
    given = Sampling(16, seed=5)
    streams = [shared.stream(PROMPTS[0], given), mine.stream(PROMPTS[0], given)]
    base, own = ([token.id for token in stream] for stream in streams)
    assert own == [token.id for token in merged.stream(PROMPTS[0], given)]
    assert base == [
        token.id for token in TorchEngine(small_model(), chat_tokenizer()).stream(PROMPTS[0], given)
    ]
    assert own == mine.generate([PROMPTS[0]], given)[0].ids != base


def test_a_model_that_is_read_one_sequence_at_a_time_has_adapters_too(
    engine: TorchEngine, tmp_path: Path
) -> None:
    from headwater.llm.inference.batching import Batch
    from headwater.llm.inference.forward.decoder import ApartDecoder

    folder = peft_folder(tmp_path / "a", 4)
    adapter = engine.adapter(folder)
    batch = Batch(ApartDecoder(engine.model), 256)
    given = Sampling(8, temperature=0, ignore_eos=True)
    handles = [batch.submit(PROMPTS[0], given, adapter=own) for own in (None, adapter)]
    said: dict[int, list[int]] = {handle: [] for handle in handles}
    while not batch.idle:
        for event in batch.step():
            said[event.handle].append(event.id)
    assert said[handles[1]] == pefts(folder, PROMPTS[0], 8) != said[handles[0]]


def test_what_is_more_than_low_rank_products_is_refused_by_name(tmp_path: Path) -> None:
    for number, (settings, named) in enumerate(
        [
            ({"use_dora": True}, "use_dora"),
            ({"bias": "lora_only"}, "bias"),
            ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ]
    ):
        with pytest.raises(HeadwaterError, match=f"{named}.*merge it"):
            read_adapter(str(peft_folder(tmp_path / str(number), 1, **settings)))
    folder = peft_folder(tmp_path / "whole", 1)
    written = json.loads((folder / SETTINGS).read_text())
    for changed, named in (
        ({"peft_type": "IA3"}, "IA3"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa"),
        ({"r": 8}, "has rank 4, and the settings say 8"),
    ):
        (folder / SETTINGS).write_text(json.dumps(written | changed))
        with pytest.raises(HeadwaterError, match=named):
            read_adapter(str(folder))


def test_an_adapter_of_another_base_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    folder = tmp_path / "base"
    small_model().save_pretrained(folder)  # type: ignore[operator]
    found = read_adapter(str(peft_folder(tmp_path / "a", 1)))
    found.check_fits("base", linear_shapes(str(folder)))
    foreign = foreign_model(tmp_path / "llama", "llama").path("model")
    with pytest.raises(
        HeadwaterError, match=r"does not fit its base.*down_proj.* as 64 × \d+, which is 64 × 96"
    ):
        found.check_fits("llama", linear_shapes(foreign))
    with pytest.raises(HeadwaterError, match=r"no matrix `model\.layers\.0"):
        found.check_fits("none", {})


def test_broken_adapters_are_refused(engine: TorchEngine, tmp_path: Path) -> None:
    folder = peft_folder(tmp_path / "a", 1)
    tensors = load_file(folder / TENSORS)
    name = next(iter(tensors))
    save_file(tensors | {name: torch.full_like(tensors[name], torch.nan)}, folder / TENSORS)
    with pytest.raises(HeadwaterError, match="not finite"):
        load_adapter(engine.model, folder)
    save_file(tensors | {"lm_head.weight": tensors[name].clone()}, folder / TENSORS)
    with pytest.raises(HeadwaterError, match=r"`lm_head\.weight` is no part"):
        load_adapter(engine.model, folder)
    (folder / TENSORS).unlink()
    with pytest.raises(HeadwaterError, match=f"has no {TENSORS}"):
        load_adapter(engine.model, folder)


def test_layers_that_see_rows_in_another_order_are_refused(engine: TorchEngine, tmp_path: Path) -> None:
    folder = peft_folder(tmp_path / "a", 1, target_modules=["down_proj"])
    layer = engine.model.model.layers[0].mlp.down_proj
    layer.register_forward_pre_hook(lambda module, args: (args[0].flip(0),))
    layer.register_forward_hook(lambda module, args, out: out.flip(0))
    with pytest.raises(HeadwaterError, match="cannot share a batch"):
        load_adapter(engine.model, folder)
