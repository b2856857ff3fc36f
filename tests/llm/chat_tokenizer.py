"""A small chat tokenizer for tests, trained once per process."""

from __future__ import annotations

import functools

from transformers import PreTrainedTokenizerFast

from headwater.data_pipeline.tokens.tokenizer import train, wrap

TEXTS = [
    "Write a headline for this article: the council voted on Tuesday to rebuild the old bridge.",
    "What is the news about the farmers? It's raining again, and their fields are under water.",
    "Scientists said that the new telescope had seen a planet 40 light years away; naïve café \U0001f600.",
] * 20


@functools.cache
def chat_tokenizer() -> PreTrainedTokenizerFast:
    return wrap(train(TEXTS, 400, 2))
