"""Direct preference optimisation: formula, encoding, and the reference model."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from headwater.cluster.storage.artifact import Artifact
from headwater.llm.examples.encoded import write_examples
from headwater.llm.examples.preferences import Preference, encode_pair
from headwater.llm.rows.order import ShuffledOrder
from headwater.llm.stages.data.pair_batches import COLUMNS
from headwater.llm.stages.data.preference_pairs import write_pairs
from headwater.llm.stages.dpo import AnswerBatches, DpoConfig, ReferenceScorer, _units
from headwater.llm.training.losses.objectives import PreferenceOptimisation
from tests.llm.chat_tokenizer import chat_tokenizer
from tests.llm.models import save_model, small_model
from tests.llm.stages.data.test_pairs import PAD, Rank

ARTICLE = "The council voted on Tuesday to rebuild the old bridge. " * 4
PAIRS = [
    Preference([{"role": "user", "content": ARTICLE}], "Council rebuilds bridge", "Rain", "headline"),
    Preference([{"role": "user", "content": "What is the news?"}], "Rain again", "It's raining", "model"),
    Preference([{"role": "user", "content": "Write a headline."}], "Planet seen", "A planet", "console"),
]


def encoded(pair: Preference, max_length: int = 100) -> dict[str, list[int]]:
    return encode_pair(chat_tokenizer(), pair, max_length)


@pytest.fixture(scope="module")
def batches(tmp_path_factory: pytest.TempPathFactory) -> AnswerBatches:
    """Three pairs in two files, with the small model as the reference."""
    output = Artifact(str(tmp_path_factory.mktemp("dpo")))
    write_examples(output, "train/corpus.arrow", [encoded(pair) for pair in PAIRS[:2]], COLUMNS)
    write_examples(output, "train/people.arrow", [encoded(PAIRS[2])], COLUMNS)
    config, pad_id = DpoConfig(precision="fp32", micro_batch=2), int(chat_tokenizer().pad_token_id)
    score = ReferenceScorer(config, save_model(tmp_path_factory.mktemp("sft")), output, pad_id)
    for kind, count in (("corpus", 2), ("people", 1)):
        unit = {"unit": f"train-{kind}-000", "file": f"train/{kind}.arrow", "start": 0, "end": count}
        assert score(unit) == {"pairs": count}
    return AnswerBatches(output, "train", ShuffledOrder(3, 3, 0), pad_id, config)


def test_the_loss_of_a_known_pair() -> None:
    # Rafailov et al. 2023, equation 7: -log sigmoid(0.1 x ((-10 + 14) - (-12 + 13)))
    def model(input_ids: torch.Tensor, **_: object) -> SimpleNamespace:
        """Two tokens to choose from; 1 costs what the sequence's first token says, in nats."""
        wanted = -input_ids[:, :1].float()  # log-probability of token 1
        other = torch.log1p(-wanted.exp())
        return SimpleNamespace(logits=torch.stack([other, wanted], dim=-1))

    model.config = SimpleNamespace(_attn_implementation="eager")  # type: ignore[attr-defined]
    batch = {"chosen": torch.tensor([[10, 1]]), "rejected": torch.tensor([[14, 1]])}
    batch |= {f"{side}_mask": torch.tensor([[0, 1]]) for side in ("chosen", "rejected")}
    batch |= {"reference_chosen": torch.tensor([-12.0]), "reference_rejected": torch.tensor([-13.0])}
    loss, more = PreferenceOptimisation(0.1).loss_sum(model, batch)
    assert float(loss) == pytest.approx(0.554355, abs=1e-6)
    assert float(more["margin"]) == pytest.approx(0.3, abs=1e-6)
    assert float(more["chosen_reward"]) == pytest.approx(0.2, abs=1e-6)


def test_the_model_that_is_its_own_reference_has_no_preference_yet(batches: AnswerBatches) -> None:
    batch = {name: torch.from_numpy(array) for name, array in batches.arrays(np.arange(3)).items()}
    objective = PreferenceOptimisation(0.1)
    loss, more = objective.loss_sum(small_model(), batch)
    assert float(loss.detach()) / objective.weight(batch) == pytest.approx(math.log(2), abs=1e-5)
    assert float(more["margin"]) == pytest.approx(0, abs=1e-4)


def test_reference_log_probabilities_are_sums_over_the_answers_tokens(batches: AnswerBatches) -> None:
    for row, pair in enumerate(PAIRS):
        for side in ("chosen", "rejected"):
            example = encoded(pair)
            ids = torch.tensor([example["prompt"] + example[side]])
            logprobs = small_model()(input_ids=ids).logits.log_softmax(-1)[0, :-1]
            picked = logprobs.gather(-1, ids[0, 1:, None])[-len(example[side]) :, 0]
            stored = batches.arrays(np.array([row]))[f"reference_{side}"]
            np.testing.assert_allclose(stored, [float(picked.detach().sum())], rtol=1e-5)


class Engine(torch.nn.Module):
    """What a training engine is to an evaluation: the module, and calls to it."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, **inputs: Any) -> Any:
        return self.module(**inputs)


def test_the_reference_point_of_kto_is_of_the_answers_to_other_prompts(tmp_path: Path) -> None:
    output = Artifact(str(tmp_path))
    counts, _ = write_pairs(
        output, {"train/corpus": PAIRS[:2], "train/people": PAIRS[2:]}, chat_tokenizer(), 100
    )
    config = DpoConfig(precision="fp32", micro_batch=1, loss="kto", max_length=100)
    score = ReferenceScorer(config, save_model(tmp_path / "sft"), output, PAD)
    for unit in _units(counts):
        score(unit)
    policy, reference = small_model(1).eval(), small_model()
    ratios = []
    for number, pair in enumerate(PAIRS):
        prompt, answer = encoded(pair)["prompt"], encoded(PAIRS[(number + 1) % 3])["chosen"]
        answer = answer[: 100 - len(prompt)]
        ids, at = torch.tensor([prompt + answer]), torch.arange(len(prompt), len(prompt) + len(answer))
        with torch.no_grad():
            both = [
                m(input_ids=ids).logits[0].log_softmax(-1)[at - 1, ids[0, at]] for m in (policy, reference)
            ]
        ratios.append(float((both[0] - both[1]).sum()))
    batches = AnswerBatches(output, "train", ShuffledOrder(3, 3, 0), PAD, config)
    sums = 0.0
    for rank in range(2):
        worker = Rank(rank, 2, Engine(policy), torch.device("cpu"))
        batches.open(worker)
        array = batches.batch(0)["kl"]
        assert len(array) == rank + 1
        sums += worker.told[0]
    assert sums == pytest.approx(sum(ratios), rel=1e-4)
    batches.open(Rank(0, 1, Engine(policy), torch.device("cpu")))
    kl = max(0.0, sum(ratios) / 3)
    assert batches.batch(0)["kl"].tolist() == pytest.approx([kl] * 3, rel=1e-4)
