"""The judge's scores of answers."""

from __future__ import annotations

import math

import pytest

from headwater.cluster.storage.artifact import Artifact, Folder
from headwater.data_pipeline.tokens.tokenizer import save_tokenizer
from headwater.llm.examples.chat import encode_answer
from headwater.llm.rankings import judge
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
    short, long = judge.scores(model, [(ASK, SHORT), (ASK, LONG)], room)
    assert math.isfinite(short) and long == -math.inf
