"""Reward models of any base: where the score is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from headwater.cluster.storage.artifact import Folder
from headwater.data_pipeline.tokens.tokenizer import padding_id
from headwater.llm.model.build import reward_model
from headwater.llm.training.losses.shared_prompts import rewards
from tests.llm.examples.template_tokenizers import family
from tests.llm.models import foreign_model


def test_the_score_is_read_at_an_answers_end_though_the_base_pads_with_it(tmp_path: Path) -> None:
    tokenizer = family("smollm2")
    assert tokenizer.pad_token == tokenizer.eos_token == "<|im_end|>"
    model: Any = reward_model(Folder(foreign_model(tmp_path, "llama"), "model"), new_head_seed=0).eval()
    torch.nn.init.normal_(model.score.weight)
    end, pad = int(tokenizer.eos_token_id), padding_id(tokenizer)
    ids = torch.tensor([[50, 60, 70, end]])
    padded = torch.tensor([[50, 60, 70, end, pad, pad]])
    mask = torch.ones_like(ids), torch.tensor([[1, 1, 1, 1, 0, 0]])
    with torch.no_grad():
        hidden = model.model(input_ids=ids).last_hidden_state[:, -1]
        expected = model.score(hidden)[:, 0]
        for found in (rewards(model, ids, mask[0]), rewards(model, padded, mask[1])):
            torch.testing.assert_close(found, expected)
