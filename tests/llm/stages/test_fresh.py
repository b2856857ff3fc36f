"""A model from nothing: `base.fresh`, and fine-tuning on a task's right answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import execute
from headwater.cluster.storage.artifact import Artifact, Folder
from headwater.llm.examples.encoded import EncodedExamples
from headwater.llm.rl.rewards.made_tasks import made_tasks
from headwater.llm.stages.base import Base, BaseConfig
from headwater.llm.stages.sft import ConversationEncoder, Sft, SftConfig
from headwater.recipe import parse
from tests.llm.chat_tokenizer import chat_tokenizer

FRESH: dict[str, Any] = {"task": "arithmetic", "vocab_size": 300, "depth": 1, "context": 64}
MINE = """
def problems():
    for number in range(60):
        yield f"Say {number}.", str(number)
"""


def made(session: Session, **changed: Any) -> Artifact:
    config = BaseConfig.model_validate({"fresh": FRESH | changed})
    return execute(Base(config), {}, session)[0]


def test_a_fresh_model_is_as_its_shape_and_seed_say(here: Session) -> None:
    first, other = made(here), made(here, seed=1)
    manifest = first.manifest()
    assert manifest is not None and manifest.metrics["fine_tuning"] == "yes"
    assert manifest.metrics["context"] == 64 and manifest.metrics["source"] == "a fresh model"
    assert first.key == made(here).key != other.key
    models = [AutoModelForCausalLM.from_pretrained(each.local("model")) for each in (first, other)]
    assert models[0].config.num_hidden_layers == 1
    embeddings = [model.get_input_embeddings().weight.detach() for model in models]
    assert float(embeddings[0].std()) == pytest.approx(0.02, rel=0.1) and not torch.equal(*embeddings)


def test_its_tokenizer_knows_the_tasks_words_and_takes_digits_one_by_one(here: Session) -> None:
    tokenizer = AutoTokenizer.from_pretrained(made(here).local("model"))
    assert len(tokenizer) <= 300
    talk = [{"role": "user", "content": "What is 35 + 77?"}]
    text = tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
    tokens = [tokenizer.decode([i]) for i in tokenizer(text)["input_ids"]]
    asked = ["What", " is", " ", "3", "5", " +", " ", "7", "7", "?"]
    assert tokens == [
        "<|im_start|>",
        "user",
        "\n",
        *asked,
        "<|im_end|>",
        "\n",
        "<|im_start|>",
        "assistant",
        "\n",
    ]


def test_fine_tuning_reads_the_tasks_that_rl_does_not_hold_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(MINE)
    tasks = made_tasks("mine.py:problems")
    chat_tokenizer().save_pretrained(tmp_path / "tokenizer")
    output = Artifact(str(tmp_path / "sft"))
    encoder = ConversationEncoder(
        SftConfig(make=(), task="mine.py:problems"),
        None,
        Folder(Artifact(str(tmp_path)), "tokenizer"),
        output,
        made=tasks,
    )
    counts = encoder({"unit": "task", "task": "mine.py:problems"})
    assert counts["heldout"] and counts["train"] + counts["heldout"] == 60
    for split in ("train", "heldout"):
        examples = EncodedExamples(output, split)
        rows = np.arange(len(examples))
        texts = [
            chat_tokenizer().decode(ids[mask.astype(bool)])
            for ids, mask in zip(examples.gather("ids", rows), examples.gather("mask", rows), strict=True)
        ]
        assert texts == [f"{task.reference}<|im_end|>" for task in tasks[split]]


def test_the_file_of_a_task_is_part_of_both_keys(
    here: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = "mine.py:problems"
    stages = (
        Sft(SftConfig(make=(), task=name)),
        Base(BaseConfig.model_validate({"fresh": FRESH | {"task": name}})),
    )
    with pytest.raises(HeadwaterError, match=r"sft\.task: mine\.py:problems: cannot read the file"):
        stages[0].check()
    with pytest.raises(HeadwaterError, match=r"base\.fresh\.task: mine\.py:problems: cannot read the file"):
        stages[1].check()
    Path("mine.py").write_text(MINE)
    before = [stage.fingerprint(here) for stage in stages]
    Path("mine.py").write_text(MINE.replace("60", "61"))
    assert all(stage.fingerprint(here) != old for stage, old in zip(stages, before, strict=True))


def test_a_recipe_with_a_task_makes_nothing_from_a_corpus_and_fits_the_models_context() -> None:
    raw: dict[str, Any] = {
        "name": "n",
        "base": {"fresh": FRESH},
        "sft": {"task": "arithmetic", "max_length": 48},
        "rl": {"task": "arithmetic", "max_new_tokens": 5},
    }
    recipe = parse(raw, "here")
    assert recipe.sft is not None and recipe.sft.make == ()
    with pytest.raises(HeadwaterError, match=r"sft\.max_length` \(320\) is above `base\.fresh\.context`"):
        parse(raw | {"sft": {"task": "arithmetic"}}, "here")
    with pytest.raises(HeadwaterError, match="no sums: one of arithmetic"):
        parse(raw | {"sft": {"task": "sums"}}, "here")
    with pytest.raises(HeadwaterError, match="give either `model`"):
        parse(raw | {"base": {"fresh": FRESH, "model": "there"}}, "here")
