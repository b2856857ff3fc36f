"""Direct preference optimisation: formula, encoding, and the reference model."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from headwater.cluster.storage.artifact import Artifact
from headwater.llm.examples.encoded import write_examples
from headwater.llm.examples.preferences import Preference
from headwater.llm.stages.dpo import COLUMNS, AnswerBatches, DpoConfig, ReferenceScorer, encode_answers
from headwater.llm.training.objectives import PreferenceOptimisation
from tests.llm.chat_tokenizer import chat_tokenizer
from tests.llm.models import save_model, small_model

ARTICLE = "The council voted on Tuesday to rebuild the old bridge. " * 4
PAIRS = [
    Preference([{"role": "user", "content": ARTICLE}], "Council rebuilds bridge", "Rain", "headline"),
    Preference([{"role": "user", "content": "What is the news?"}], "Rain again", "It's raining", "model"),
    Preference([{"role": "user", "content": "Write a headline."}], "Planet seen", "A planet", "console"),
]


def encoded(pair: Preference, max_length: int = 100) -> dict[str, list[int]]:
    made = encode_answers(chat_tokenizer(), pair, max_length)
    assert made is not None
    return made


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
    return AnswerBatches(output, "train", batch=3, seed=0, pad_id=pad_id)


def test_the_loss_of_a_known_pair() -> None:
    # Rafailov et al. 2023, equation 7: -log sigmoid(0.1 x ((-10 + 14) - (-12 + 13)))
    def model(input_ids: torch.Tensor, **_: object) -> SimpleNamespace:
        """Two tokens to choose from; 1 costs what the sequence's first token says, in nats."""
        wanted = -input_ids[:, :1].float()  # log-probability of token 1
        other = torch.log1p(-wanted.exp())
        return SimpleNamespace(logits=torch.stack([other, wanted], dim=-1))

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


def test_both_answers_follow_the_same_prompt_shortened_for_the_longer_one() -> None:
    tokenizer = chat_tokenizer()
    whole, short = encoded(PAIRS[0], 1000), encoded(PAIRS[0], 60)
    longer = max(len(short["chosen"]), len(short["rejected"]))
    assert len(short["prompt"]) + longer == 60 < len(whole["prompt"])
    assert tokenizer.decode(short["prompt"]).endswith("<|im_start|>assistant\n")
    assert tokenizer.decode(short["chosen"]) == "Council rebuilds bridge<|im_end|>"
    assert tokenizer.decode(short["rejected"]) == "Rain<|im_end|>"
    assert encode_answers(tokenizer, PAIRS[0], 20) is None  # not even the answers fit
