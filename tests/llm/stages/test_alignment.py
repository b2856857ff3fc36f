"""What alignment teaches, on models of a moment and without Ray: answers, people's choices, rewards, a leash.

What comes out is judged from outside, by ids of the tokenizer's own chat template and plain passes.
"""

from __future__ import annotations

import copy
import functools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from headwater.cluster.runtime.session import Session
from headwater.cluster.storage.artifact import Artifact, Folder
from headwater.cluster.storage.store import Store
from headwater.data_pipeline.documents import Document, to_table
from headwater.llm.examples.encoded import EncodedExamples
from headwater.llm.examples.preferences import save_ranking
from headwater.llm.examples.tasks import Task
from headwater.llm.inference import Completion
from headwater.llm.inference.torch_engine import TorchEngine
from headwater.llm.model.critic import with_value_head
from headwater.llm.rl.losses import Policy
from headwater.llm.rl.rollouts.sampler import Sampler
from headwater.llm.rl.rollouts.worker import Rollouts, WeightBoard
from headwater.llm.stages import dpo
from headwater.llm.stages.data.pair_batches import HeldoutPairs, PairBatches
from headwater.llm.stages.data.preference_pairs import PairConfig, gather_pairs, pair_order, write_pairs
from headwater.llm.stages.rl import RlConfig, RolloutBatches
from headwater.llm.stages.sft import ConversationBatches, ConversationEncoder, SftConfig
from headwater.llm.training.losses.objectives import REFERENCE_FREE, BradleyTerry, NextToken
from tests.llm.actors import Handle, at_once
from tests.llm.chat_tokenizer import chat_tokenizer
from tests.llm.jobs import run_job
from tests.llm.models import save_model, small_model
from tests.llm.ranks import on_ranks
from tests.llm.training.parallel.test_sharding import small_reward_model

PAD = int(chat_tokenizer().pad_token_id)
QUESTION = "What is the news about the farmers?"
ANSWER = "It's raining again, and their fields are under water."
RANKED = {
    "When is the vote?": ("On Tuesday.", "Never."),
    "Who rebuilds the bridge?": ("The council.", "Rain"),
}
"""Prompt → what a person chose, and what they did not."""
HEADLINES = {"a": "Council rebuilds old bridge", "b": "Telescope sees new planet"}
DPO_LOSSES = ("dpo", "ipo", "kto", "simpo", "orpo")
SAMPLED = {"Write a headline.": ("The bridge", "A planet"), "Write another.": ("Their fields", "Years away")}
"""Prompt → a good and a bad answer. The bad one to the second earns more than the good one to the first."""


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def ids_of(prompt: str, answer: str) -> tuple[list[int], list[int]]:
    """Of the prompt up to where the answer begins, and of the answer with the end of its turn."""
    template = functools.partial(chat_tokenizer().apply_chat_template, return_dict=True)
    opening = template(user(prompt), add_generation_prompt=True)["input_ids"]
    whole = template([*user(prompt), {"role": "assistant", "content": answer}])["input_ids"]
    end = len(whole) - whole[::-1].index(chat_tokenizer().eos_token_id)
    return opening, whole[len(opening) : end]


def logprob(model: Any, prompt: str, answer: str) -> float:
    """Log-probability (nats) of an answer after its prompt."""
    before, after = ids_of(prompt, answer)
    with torch.no_grad():
        logprobs = model(input_ids=torch.tensor([before + after])).logits.log_softmax(-1)[
            0, len(before) - 1 :
        ]
    return float(logprobs[:-1].gather(-1, torch.tensor(after)[:, None]).sum())


def score(model: Any, prompt: str, answer: str) -> float:
    before, after = ids_of(prompt, answer)
    with torch.no_grad():
        return float(model(input_ids=torch.tensor([before + after])).logits)


def learnt(folder: Path) -> None:
    """On one rank: every kind of alignment, and what its model does before and after."""
    start = save_model(folder / "start")
    found = {
        "sft": sft(folder, start),
        "rl": rl(folder),
        "leash": leash(folder),
        "repeated": repeated(folder),
        "critic": critic(folder),
    }
    found |= pairs(folder, start)
    (folder / "found.json").write_text(json.dumps(found))


def sft(folder: Path, start: Folder) -> dict[str, float]:
    talk = [*user(QUESTION), {"role": "assistant", "content": ANSWER}]
    (folder / "talks.jsonl").write_text(json.dumps({"messages": talk}))
    output = Artifact(str(folder / "sft"))
    encode = ConversationEncoder(SftConfig(), Artifact("/nowhere"), start, output)
    encode({"unit": "talks", "file": str(folder / "talks.jsonl")})
    source = ConversationBatches(EncodedExamples(output, "train"), 2, 0, PAD)
    worker = trained(folder / "sft", source, NextToken(), batch=2)
    return {"first loss": worker.history[0]["loss"], "after": logprob(worker.engine.module, QUESTION, ANSWER)}


def pairs(folder: Path, start: Folder) -> dict[str, Any]:
    """DPO and a reward model, from a corpus of two articles and the rankings in a store."""
    store, clean, found = Store(str(folder / "store")), Artifact(str(folder / "clean")), {}
    for prompt, (chosen, rejected) in RANKED.items():
        save_ranking(store.location, user(prompt), chosen, rejected, model="m", source="console")
    (folder / "clean/kept").mkdir(parents=True)
    documents = [Document(id, "", title, f"The news: {title}.") for id, title in HEADLINES.items()]
    pq.write_table(to_table(documents), folder / "clean/kept/one.parquet")
    kinds = gather_pairs(PairConfig(model_pairs=0), {"clean": clean}, chat_tokenizer(), Session(store))
    found["kinds"] = {name: len(of_kind) for name, of_kind in kinds.items()}
    kinds["heldout/corpus"] = kinds["train/corpus"]
    found["heldout"] = {}
    for name in ("reward", *DPO_LOSSES):
        model = small_reward_model if name == "reward" else small_model
        output = Artifact(str(folder / name))
        counts, _ = write_pairs(output, kinds, chat_tokenizer(), 100)
        pairs, heldout = EncodedExamples(output, "train"), EncodedExamples(output, "heldout")
        source: Any
        objective: Any
        if name == "reward":
            order = pair_order(pairs, PairConfig(batch=4, rankings_weight=1))
            source, held = PairBatches(pairs, order, PAD), PairBatches(heldout, None, PAD)
            objective = BradleyTerry()
        else:
            config = dpo.DpoConfig.model_validate(
                {"precision": "fp32", "loss": name, "batch": 4, "max_length": 100, "rankings_weight": 1}
            )
            objective = config.objective()
            if name not in REFERENCE_FREE:
                scorer = dpo.ReferenceScorer(config, start, output, PAD)
                for unit in dpo._units(counts):
                    scorer(unit)
            order = pair_order(pairs, config)
            source = dpo.AnswerBatches(output, "train", order, PAD, config)
            held = dpo.AnswerBatches(output, "heldout", None, PAD, config)
        evaluate = HeldoutPairs(held, objective, micro_batch=1)
        worker = trained(
            folder / name, source, objective, model=model, batch=4, evaluate=evaluate, evaluate_every=4
        )
        found["heldout"][name] = [r["heldout_accuracy"] for r in worker.history if "heldout_loss" in r]
        articles = {pair.prompt[0]["content"]: (pair.chosen, pair.rejected) for pair in kinds["train/corpus"]}
        margins = {}
        for by, judged in (("people", RANKED), ("corpus", articles)):
            before, after = (margins_of(m, judged) for m in (model(), worker.engine.module))
            margins[by] = [late - early for early, late in zip(before, after, strict=True)]
        found[name] = margins
    return found


def margins_of(model: Any, judged: dict[str, tuple[str, str]]) -> list[float]:
    """By how much each better answer is preferred to the worse one."""
    value = score if hasattr(model, "score") else logprob
    return [value(model, p, better) - value(model, p, worse) for p, (better, worse) in judged.items()]


class Sampled:
    """A rollout worker whose answers are fixed: two good and two bad ones to every prompt."""

    def __init__(self, board: Handle, rewards: dict[str, tuple[float, float]]) -> None:
        self.board, self.rewards = board, rewards
        self.engine = TorchEngine(copy.deepcopy(small_model()), chat_tokenizer())
        self.reference = TorchEngine(small_model(), chat_tokenizer())

    def rollout(self, tasks: list[Task], group: int, seed: int, version: int, places: list[int]) -> Rollouts:
        _, (changes,) = self.board.fetch.remote(version)
        self.engine.load_weights(changes.whole)
        texts = [task.prompt[0]["content"] for task in tasks]
        answers = [(text, place) for text in texts for place in (0, 1, 0, 1)]
        prompts, ids = map(
            list, zip(*(ids_of(text, SAMPLED[text][place]) for text, place in answers), strict=True)
        )
        logprobs = self.engine.score(prompts, ids)
        return Rollouts(
            prompts=prompts,
            completions=[Completion(i, given, "stop") for i, given in zip(ids, logprobs, strict=True)],
            reference_logprobs=self.reference.score(prompts, ids),
            answers=[SAMPLED[text][place] for text, place in answers],
            model_rewards=np.array([self.rewards[text][place] for text, place in answers]),
            verified=np.zeros(len(answers)),
        )


def reinforced(
    folder: Path,
    rewards: list[tuple[float, float]],
    kl: float,
    model: Any,
    objective: Policy | None = None,
    tokenizer: Folder | None = None,
    more: dict[str, Any] | None = None,
    **settings: Any,
) -> Any:
    """The worker after a run with these rewards of the good and the bad answer to each prompt."""
    at_once()
    tasks = [Task(text, user(text), "", "") for text in SAMPLED]
    board = Handle(WeightBoard())
    worker = Handle(Sampled(board, dict(zip(SAMPLED, rewards, strict=True))))
    config = RlConfig(batch=8, group=4, **settings)
    source = RolloutBatches(config, tasks, [], Sampler(config, tasks, board, [worker]), PAD)
    more = {"model": model, "batch": 8, "tokenizer": tokenizer} | (more or {})
    return trained(folder, source, objective or Policy(kl=kl), **more)


def rl(folder: Path) -> dict[str, Any]:
    rewards = [(1.0, 0.0), (11.0, 10.0)]
    worker = reinforced(folder / "rl", rewards, kl=0.0, model=small_model)
    return {"gained": gains(worker.engine.module), "first": worker.history[0]}


def critic(folder: Path) -> dict[str, Any]:
    """The same as `rl`, with what a value head expected in the place of the group's mean."""
    start = save_model(folder / "of critic")
    settings = {"advantage": "gae", "value_clip": 20.0, "epochs": 2, "mini_batches": 2}
    worker = reinforced(
        folder / "critic",
        [(1.0, 0.0), (3.0, 2.0)],
        0.0,
        lambda: with_value_head(copy.deepcopy(small_model())),
        objective=RlConfig(batch=8, group=4, **settings).objective(),
        tokenizer=start,
        more={"steps": 40, "learning_rate": 3e-3},
        **settings,
    )
    exported = Folder(Artifact(str(folder / "critic")), "model")
    names = [sorted(load_file(each.local() / "model.safetensors")) for each in (start, exported)]
    return {
        "value losses": [record["value_loss"] for record in worker.history],
        "gained": gains(worker.engine.module),
        "names": names,
    }


def gains(after: Any) -> dict[str, list[float]]:
    """By how much each answer became likelier, good and bad ones."""
    before = small_model()
    return {
        quality: [
            logprob(after, prompt, answers[place]) - logprob(before, prompt, answers[place])
            for prompt, answers in SAMPLED.items()
        ]
        for place, quality in enumerate(("good", "bad"))
    }


def repeated(folder: Path) -> list[float]:
    """Share of the tokens that each of eight steps clips, four of them with the same answers."""
    worker = reinforced(folder / "repeated", [(1.0, 0.0)] * 2, kl=0.0, model=small_model, epochs=4)
    return [record["clipped"] for record in worker.history]


def leash(folder: Path) -> list[float]:
    """KL from the reference at each step, from another model on, with nothing to gain but closeness."""
    other = functools.partial(small_model, 1)
    return [
        record["kl"] for record in reinforced(folder / "leash", [(1.0, 1.0)] * 2, kl=1.0, model=other).history
    ]


def trained(folder: Path, source: Any, objective: Any, **settings: Any) -> Any:
    settings = {"steps": 8, "micro_batch": 4, "learning_rate": 1e-3, "checkpoint_every": 100} | settings
    return run_job(folder, source, folder.parent / "screen", objective=objective, **settings)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("alignment")
    on_ranks(1, learnt, folder)
    return dict(json.loads((folder / "found.json").read_text()))


def test_fine_tuning_learns_the_assistants_words_and_no_others(found: dict[str, Any]) -> None:
    before = logprob(small_model(), QUESTION, ANSWER)
    assert found["sft"]["first loss"] == pytest.approx(-before / len(ids_of(QUESTION, ANSWER)[1]), rel=1e-4)
    assert found["sft"]["after"] > before / 2


@pytest.mark.parametrize("stage", ["reward", *DPO_LOSSES])
def test_what_people_chose_and_the_true_headline_come_to_be_preferred(
    found: dict[str, Any], stage: str
) -> None:
    assert found["kinds"]["train/people"] == len(RANKED)
    for by, margins in found[stage].items():
        assert min(margins) > 0.1, by
    assert len(found["heldout"][stage]) == 2 and found["heldout"][stage][-1] == 1.0


def test_answers_that_earn_more_than_others_to_the_same_prompt_become_likelier(found: dict[str, Any]) -> None:
    gained = found["rl"]["gained"]
    assert min(gained["good"]) > 0.1 and max(gained["bad"]) < -0.1, gained


def test_the_first_step_of_the_policy_is_that_of_its_own_answers_tokens(found: dict[str, Any]) -> None:
    first = found["rl"]["first"]
    assert first["rollout_mismatch"] == pytest.approx(0, abs=1e-4)
    assert first["kl"] == pytest.approx(0, abs=1e-4)
    assert first["reward"] == pytest.approx(np.mean([1.0, 0.0, 11.0, 10.0]))


def test_a_critic_learns_what_to_expect_and_the_policy_what_is_better(found: dict[str, Any]) -> None:
    losses = found["critic"]["value losses"]
    assert np.mean(losses[-4:]) < np.mean(losses[:4]) / 2
    gained = found["critic"]["gained"]
    assert all(good > bad for good, bad in zip(gained["good"], gained["bad"], strict=True)), gained
    start, exported = found["critic"]["names"]
    assert exported == start, "the value head is not exported"


def test_the_clip_acts_from_the_second_step_with_the_same_answers_on(found: dict[str, Any]) -> None:
    clipped = found["repeated"]
    assert clipped[0] == clipped[4] == 0
    assert min(clipped[1:4]) > 0 and min(clipped[5:]) > 0


def test_the_penalty_draws_the_policy_back_to_the_model_it_started_from(found: dict[str, Any]) -> None:
    assert all(math.isfinite(kl) for kl in found["leash"])
    assert found["leash"][-1] < found["leash"][0] / 2
