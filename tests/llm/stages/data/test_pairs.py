"""Pairs of the reward and dpo stages: what is held out, how often each is seen, what judges in training."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from headwater.cluster.runtime.session import Session
from headwater.cluster.storage.artifact import Artifact
from headwater.llm.examples.encoded import EncodedExamples
from headwater.llm.examples.preferences import Preference, read_rankings, save_ranking, split_of_prompt
from headwater.llm.stages.data.pair_batches import HeldoutPairs, PairBatches, even_share, pair_arrays
from headwater.llm.stages.data.preference_pairs import PairConfig, gather_pairs, pair_order, write_pairs
from headwater.llm.stages.trace import reading
from headwater.llm.training.job import Worker
from headwater.llm.training.losses.objectives import BradleyTerry
from headwater.llm.training.losses.shared_prompts import rewards
from tests.llm.chat_tokenizer import chat_tokenizer
from tests.llm.training.parallel.test_sharding import small_reward_model

PAD = int(chat_tokenizer().pad_token_id)
ONLY_PEOPLE = {"corpus_pairs": 0, "model_pairs": 0}


def asked(number: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"Question {number}?"}]


def pairs(count: int, source: str = "console") -> list[Preference]:
    return [Preference(asked(n), f"Answer {n}.", "No.", source, (f"{source} {n}",)) for n in range(count)]


def test_all_rankings_of_a_held_out_prompt_are_held_out(here: Session) -> None:
    for number, answer in itertools.product(range(40), ("Good", "Better")):
        save_ranking(here.store.location, asked(number), answer, "Bad", model="m", source="console")
    kinds = gather_pairs(PairConfig.model_validate(ONLY_PEOPLE), {}, chat_tokenizer(), here)
    assert set(kinds) == {"train/people", "heldout/people"}
    for split in ("train", "heldout"):
        found = kinds[f"{split}/people"]
        assert found == [r for r in read_rankings(here.store) if split_of_prompt(r.prompt) == split]
    assert 0 < len(kinds["heldout/people"]) < 16 and len(kinds["heldout/people"]) % 2 == 0


def test_a_ranking_is_seen_as_often_as_its_weight_says(tmp_path: Path) -> None:
    output = Artifact(str(tmp_path))
    kinds = {"train/corpus": pairs(200, "headline"), "train/people": pairs(4)}
    assert write_pairs(output, kinds, chat_tokenizer(), 100) == ({"train/corpus": 200, "train/people": 4}, {})
    examples = EncodedExamples(output, "train")
    for weight in (1.0, 10.0):
        config = PairConfig(batch=16, rankings_weight=weight)
        order = pair_order(examples, config)
        rows = np.concatenate([order.indices(step) for step in range(1500)])
        seen = np.bincount(rows, minlength=204)
        assert seen[200:].mean() / seen[:200].mean() == pytest.approx(weight, rel=0.05)
        traced = reading("reward", config, {}, output).parts(7)
        named = PairBatches(examples, order, PAD).describe(7)
        assert [part.origin for part in traced] == [line.split(" (")[0] for line in named]


def test_pairs_left_out_are_counted_by_reason_and_told(tmp_path: Path) -> None:
    long = Preference(asked(1), "It's raining again. " * 60, "No.", "console")
    equal = Preference(asked(2), "Yes.", "Yes. ", "model")
    told: list[Any] = []
    counts, left_out = write_pairs(
        Artifact(str(tmp_path)),
        {"train/people": [long, *pairs(3)], "heldout/model": [equal]},
        chat_tokenizer(),
        100,
        lambda pair, why: told.append((pair.prompt, why.reason)),
    )
    assert counts == {"train/people": 3, "heldout/model": 0}
    assert left_out == {"too_long": 1, "equal_answers": 1}
    assert told == [(asked(1), "too_long"), (asked(2), "equal_answers")]


def test_held_out_pairs_are_shared_evenly_between_kinds_and_not_the_first_of_a_file() -> None:
    chosen = even_share([range(1000), range(1000, 1010), range(1010, 1010), range(1010, 3000)], 256)
    assert len(chosen) == len(set(chosen.tolist())) == 256
    counts = np.histogram(chosen, [0, 1000, 1010, 3000])[0]
    assert counts.tolist() == [123, 10, 123]
    assert chosen[:123].mean() == pytest.approx(500, abs=100)
    assert even_share([range(5), range(5, 8)], 256).tolist() == list(range(8))
    assert even_share([], 256).size == 0


class Rank(Worker):
    """One of several ranks, without the others: keeps what it would have added to the sums of all."""

    def total(self, values: list[float]) -> list[float]:
        self.told = values
        return values


@pytest.mark.parametrize("ranks", [1, 3])
def test_the_held_out_accuracy_is_that_of_the_chosen_pairs_on_any_number_of_ranks(
    ranks: int, tmp_path: Path
) -> None:
    output, model = Artifact(str(tmp_path)), small_reward_model().eval()
    kinds = {"heldout/corpus": pairs(30, "headline"), "heldout/people": pairs(5)}
    write_pairs(output, kinds, chat_tokenizer(), 100)
    batches = PairBatches(EncodedExamples(output, "heldout"), None, PAD)
    judge = HeldoutPairs(batches, BradleyTerry(), micro_batch=2, limit=13)
    sums = np.zeros(3)
    for rank in range(ranks):
        worker = Rank(rank, ranks, model, torch.device("cpu"))
        judge(worker)
        sums += worker.told
    rows = even_share([range(30), range(30, 35)], 13)
    batch = {k: torch.from_numpy(v) for k, v in pair_arrays(batches.pairs, rows, PAD).items()}
    with torch.no_grad():
        better, worse = (rewards(model, batch[s], batch[f"{s}_mask"]) for s in ("chosen", "rejected"))
    assert sums[2] == 13 and sums[1] == int((better > worse).sum())
    assert sums[0] == pytest.approx(float(torch.log1p((worse - better).exp()).sum()), rel=1e-5)


def test_without_a_file_there_are_no_examples(tmp_path: Path) -> None:
    assert len(EncodedExamples(Artifact(str(tmp_path)), "heldout")) == 0
    assert EncodedExamples(Artifact(str(tmp_path)), "heldout").files() == []
