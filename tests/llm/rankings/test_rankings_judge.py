"""The judge's scores of answers."""

from __future__ import annotations

import math

import pytest

from headwater.cluster.storage.artifact import Artifact, Folder
from headwater.data_pipeline.tokens.tokenizer import save_tokenizer
from headwater.llm.examples.chat import encode_answer, encode_prompt
from headwater.llm.examples.rankings import Kept, Ranking
from headwater.llm.model.build import reward_model
from headwater.llm.rankings import judge
from headwater.llm.training.losses.objectives import sequence_rewards
from tests.llm.chat_tokenizer import chat_tokenizer
from tests.llm.training.parallel.test_sharding import small_reward_model

ASK = [{"role": "user", "content": "What about the bridge? " * 8}]
SHORT, LONG = "It was rebuilt.", "It was rebuilt, in the end, after many years and three councils. " * 8


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    folder = tmp_path_factory.mktemp("judge")
    small_reward_model().save_pretrained(folder / "model")
    save_tokenizer(chat_tokenizer(), folder / "model")
    return Folder(Artifact(str(folder)), "model")


def test_an_answer_is_scored_at_its_end_or_not_at_all(model: Folder) -> None:
    room = len(encode_answer(chat_tokenizer(), SHORT)) + 30
    short, long = judge.scores(model, [judge.Judged(ASK, SHORT), judge.Judged(ASK, LONG)], room)
    assert math.isfinite(short) and long == -math.inf


def test_an_answer_that_was_cut_is_scored_without_an_end_of_its_turn(model: Folder) -> None:
    answers = [{"text": SHORT}, {"text": "It was", "finish_reason": "length"}]
    people = {"rater": "anna", "source": "console", "model": "m"}
    ranking = Ranking.model_validate({"prompt": ASK, "answers": answers, "ranks": [1, 2]} | people)
    found = judge.margins(model, [Kept("1.json", ranking)], 200)
    prompt = encode_prompt(chat_tokenizer(), ASK)
    better, worse = (encode_answer(chat_tokenizer(), text) for text in (SHORT, "It was"))
    scores = sequence_rewards(reward_model(model), [prompt + better, prompt + worse[:-1], prompt + worse])
    assert found == {"anna": [pytest.approx(scores[0] - scores[1], abs=1e-6)]}
    assert scores[1] != pytest.approx(scores[2], abs=1e-6)
