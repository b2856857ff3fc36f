"""From rankings to a served model: a better one is promoted, poison and what is not better are refused.

The long form trains tiny models on people who follow a hidden rule.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from headwater import promotion
from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.store import Store
from headwater.improve import FOLDER, _judging, _learning, improve
from headwater.llm.examples import rankings
from headwater.llm.examples.chat import decode_answer, encode_prompt
from headwater.llm.inference import Sampling, load_engine
from headwater.llm.model.build import initialise
from headwater.llm.model.shape import hf_config
from headwater.llm.rankings import judge
from headwater.llm.rankings.aside import ASIDE
from headwater.llm.stages.data import ranked_prompts
from headwater.llm.stages.dpo import DpoConfig
from tests.data_pipeline.corpora import article
from tests.headwater.command import HERE, headwater
from tests.headwater.test_newest_model import finish, recipe
from tests.headwater.test_promotion import Made
from tests.llm.chat_tokenizer import chat_tokenizer
from tests.llm.models import SMALL, save_model

GOOD, BAD = "It is all good.", "No, it is bad."
"""The hidden rule: the first is better."""
WORDS = ["river", "bridge", "council", "harvest", "planet", "nurse", "chess", "bakery", "rain", "vote"]


def question(number: int) -> str:
    return f"What about the {WORDS[number // 10 % 10]} and the {WORDS[number % 10]}?"


def ranked(store: Store, rater: str, numbers: range, right: int = 9, minute: int = 0) -> None:
    """Rankings of a rater, who follows the rule in `right` of 10."""
    for number in numbers:
        follows = number * 7 % 10 < right
        rankings.save(
            store,
            rankings.Ranking(
                prompt=[{"role": "user", "content": question(number)}],
                answers=[{"text": BAD}, {"text": GOOD}] if number % 2 else [{"text": GOOD}, {"text": BAD}],
                ranks=[1, 2] if follows != bool(number % 2) else [2, 1],
                rater=rater,
                time=f"2030-01-{1 + minute:02}T{number // 60:02}:{number % 60:02}:00+00:00",
                source="console",
                blind=True,
            ),
        )


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(str(tmp_path / "store"), tmp_path)


def test_without_a_served_model_or_new_rankings_nothing_is_trained(made: Made) -> None:
    with pytest.raises(HeadwaterError, match="no model is served that a better one could be compared with"):
        improve(made.recipe, made.session)
    made.promote(made.run()["rl"])
    outcome = improve(made.recipe, made.session)
    assert (outcome.verdict, outcome.new, outcome.trusted) == ("waiting", 1, 0)
    code, said = headwater("improve", made.file)
    assert code == 0 and "1 new rankings: too few to learn from (improve.min_rankings: 50)" in said
    assert not made.store.folder(FOLDER).files()


@pytest.mark.parametrize("sections", [{"reward": {"rankings": False}}, {"rl": None}])
def test_a_recipe_that_learns_nothing_from_rankings_is_refused(
    sections: dict[str, object], made: Made, tmp_path: Path
) -> None:
    opened = recipe(made.store.location, tmp_path, **sections)
    with pytest.raises(HeadwaterError, match="learns nothing from rankings"):
        improve(opened, made.session)


def test_a_flood_is_refused_before_anything_is_trained_and_set_aside(made: Made) -> None:
    made.promote(finish(made.recipe, made.session, 1)["rl"])
    ranked(made.store, "anna", range(10))
    ranked(made.store, "flood", range(60), minute=1)
    code, said = headwater("improve", made.file, "--json")
    found = json.loads(said)
    assert (code, found["verdict"], found["set_aside"]) == (1, "refused", 60)
    assert found["reasons"] == ["flood floods: 86% of all rankings are this rater's"]
    assert {kept.ranking.rater for kept in rankings.read(made.store)} == {"anna"}
    assert len(made.store.folder(ASIDE).files()) == 60
    (record,) = made.store.folder(f"{FOLDER}/ranked").files(suffix=".json")
    assert made.store.folder(f"{FOLDER}/ranked").read_json(record)["verdict"] == "refused"
    assert len(promotion.promotions(made.store, "ranked")) == 1


def test_stages_before_are_not_made_again(made: Made, tmp_path: Path) -> None:
    made.promote(finish(made.recipe, made.session, 1)["rl"])
    ranked(made.store, "anna", range(60))
    (tmp_path / "a.jsonl").write_text('{"text": "another corpus"}\n')
    with pytest.raises(HeadwaterError, match="stage acquire has not finished"):
        improve(made.recipe, made.session)


def test_the_candidate_and_its_judge_learn_from_files_of_their_own_side(made: Made) -> None:
    chain = _learning(made.recipe, "mine.jsonl")
    assert chain.reward.data[-1].files == ("mine.jsonl",) and not chain.reward.rankings
    assert chain.reward.corpus_pairs == made.recipe.reward.corpus_pairs and chain.evaluate is None
    judge = _judging(made.recipe, "judges.jsonl")
    assert [each.files for each in judge.data] == [("judges.jsonl",)] and not judge.rankings
    assert (judge.corpus_pairs, judge.model_pairs, judge.steps) == (0, 0, made.recipe.reward.steps)
    alone = made.recipe.model_copy(update={"reward": None, "dpo": DpoConfig(steps=7), "rl": None})
    assert _judging(alone, "judges.jsonl").steps == 7 and _learning(alone, "mine.jsonl").dpo.data


TRAINING = {"workers": 1, "cpus_per_worker": 0.5, "batch": 16, "micro_batch": 16, "precision": "fp32"}
NO_CORPUS = {"corpus_pairs": 0, "model_pairs": 0}


def promoted_start(folder: Path, **sections: object) -> tuple[Path, Store]:
    """A recipe whose promoted model gives both answers, the bad one more often."""
    save_model(folder / "base", initialise(hf_config(SMALL, len(chat_tokenizer()), chat_tokenizer()), 0))
    answers = [GOOD if number % 3 == 0 else BAD for number in range(100)]
    talks = [
        [{"role": "user", "content": question(number)}, {"role": "assistant", "content": answer}]
        for number, answer in enumerate(answers)
    ]
    (folder / "talks.jsonl").write_text("".join(json.dumps({"messages": talk}) + "\n" for talk in talks))
    raw = {
        "name": "tiny",
        "store": str(folder / "store"),
        "base": {"model": str(folder / "base/model")},
        "sft": TRAINING | {"data": [str(folder / "talks.jsonl")], "steps": 60, "learning_rate": 0.01},
        "improve": {"min_rankings": 60, "max_new_tokens": 12},
    }
    file = folder / "tiny.yaml"
    file.write_text(json.dumps(raw | sections))  # YAML contains JSON
    for command in (("run", file, "--until", "sft", *HERE), ("promote", file)):
        code, said = headwater(*command)
        assert code == 0, said
    return file, Store(str(raw["store"]))


def improved(file: Path) -> tuple[int, dict[str, Any]]:
    code, said = headwater("improve", file, "--json", *HERE)
    assert "{" in said, said
    return code, json.loads(said[said.index("{") :])


def said_by(store: Store, served: promotion.Promotion) -> list[str]:
    """The likeliest answers of a promoted model to questions that nobody has asked."""
    stage, _, key = served.model.partition("/")
    engine = load_engine(store.artifact(stage, key).local("model"))
    asked = [[{"role": "user", "content": question(number)}] for number in (85, 90, 97)]
    prompts = [encode_prompt(engine.tokenizer, messages) for messages in asked]
    return [decode_answer(engine.tokenizer, each.ids) for each in engine.generate(prompts, Sampling(12, 0.0))]


@pytest.mark.ray
@pytest.mark.soak
def test_dpo_on_rankings_by_a_rule_makes_a_better_model_and_poison_does_not(
    tmp_path: Path, ray_cluster: None
) -> None:
    # Plain DPO takes so small a model to letters that nobody has judged, which the gate refuses.
    orpo = {"loss": "orpo", "beta": 1.0, "steps": 40, "learning_rate": 0.002}
    file, store = promoted_start(tmp_path, dpo=TRAINING | NO_CORPUS | orpo)
    ranked(store, "anna", range(0, 40))
    ranked(store, "ben", range(40, 80))
    code, found = improved(file)
    assert (code, found["verdict"]) == (0, "promoted"), found
    served = promotion.current(store, "tiny")
    assert served.kind == "improve" and served.model == found["model"] and served.number == 2
    assert said_by(store, served) == [GOOD] * 3
    assert 0 < served.gate["surprise"]["candidate"] < served.gate["surprise"]["served"] + 0.3
    assert served.gate["win rate"]["low"] > 0.5 and served.rankings["rankings"] == 80
    assert served.rankings["judge"].startswith("reward/") and served.lineage["dpo"]

    for rater, right in (("random", 5), ("inverts", 1)):
        ranked(store, rater, range(0, 60), right, minute=2)
        code, found = improved(file)
        assert (code, found["verdict"], found["model"]) == (1, "refused", ""), found
        assert any(rater in reason for reason in found["reasons"]) and found["set_aside"] == 60
    assert promotion.current(store, "tiny") == served
    assert {kept.ranking.rater for kept in rankings.read(store)} == {"anna", "ben"}

    code, said = headwater("rollback", file)
    assert code == 0 and promotion.current(store, "tiny").restores == 1
    code, said = headwater("improve", file, *HERE)  # what a person took back is not promoted again by itself
    assert code == 1 and "the same model was promoted before, as number 2" in said


@pytest.mark.ray
@pytest.mark.soak
def test_reward_and_rl_on_rankings_are_measured_on_text_too(tmp_path: Path, ray_cluster: None) -> None:
    rows = [{"text": article(n), "url": f"https://example.org/{n}", "title": f"Page {n}"} for n in range(60)]
    (tmp_path / "pages.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rl = {"steps": 12, "batch": 64, "group": 8, "max_new_tokens": 12, "kl": 0.1, "learning_rate": 0.0005}
    workers = {"rollout_workers": 1, "heldout_prompts": 8, "prompts": [str(tmp_path / "talks.jsonl")]}
    workers |= {"rankings": True}
    file, store = promoted_start(
        tmp_path,
        acquire={"sources": [{"kind": "jsonl", "paths": [str(tmp_path / "pages.jsonl")]}]},
        clean={},
        tokenize={"row_length": 32, "validation_share": 0.1},
        reward=TRAINING | NO_CORPUS | {"steps": 30, "learning_rate": 0.003},
        rl=TRAINING | rl | workers,
        improve={"min_rankings": 60, "max_new_tokens": 12, "max_bits_per_byte": 0.5},
    )
    ranked(store, "anna", range(0, 40))
    ranked(store, "ben", range(40, 80))
    code, found = improved(file)
    assert (code, found["verdict"]) == (0, "promoted"), found
    served = promotion.current(store, "tiny")
    assert served.model.startswith("rl/") and {"reward", "rl", "sft"} <= served.lineage.keys()
    assert said_by(store, served) == [GOOD] * 3
    bits = served.gate["bits per byte"]
    assert bits["served"] > 0 and 0 < bits["candidate"] < 1.5 * bits["served"]
    assert served.gate["win rate"]["prompts"] > 40  # those of the judge's rankings, and rl's held-out ones
    stage, _, key = served.model.partition("/")
    trained = ranked_prompts.kept_tasks(store.artifact(stage, key))
    judges = {repr(each.ranking.prompt) for each in judge.split(rankings.read(store), 0.5)[0]}
    assert trained["train"] and not judges & {repr(task.prompt) for task in trained["train"]}
