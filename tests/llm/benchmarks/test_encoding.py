"""Context and continuation are encoded by the rules of lm-eval's `TemplateLM._encode_pair`."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from headwater.cluster.errors import HeadwaterError
from headwater.llm.benchmarks.encoding import encode_pair, fitted

LETTERS = ["<s>", "a", "b", " ", "ab"]


def tokenizer(*, begins: bool = False) -> PreTrainedTokenizerFast:
    """Letters, a space, and the pair `ab` as one token; with `begins`, every text begins with `<s>`."""
    made = Tokenizer(BPE({token: i for i, token in enumerate(LETTERS)}, [("a", "b")]))
    made.add_special_tokens(["<s>"])
    if begins:
        made.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="<s>")


def test_a_context_and_what_follows_are_encoded_as_one_text() -> None:
    assert encode_pair(tokenizer(), "b", " ab") == ([2], [3, 4])
    # `ba` + `bb` is b, ab, b: the continuation is what is left beyond the two ids of `ba`
    assert encode_pair(tokenizer(), "ba", "bb") == ([2, 1], [2])


def test_spaces_at_the_end_of_a_context_go_to_the_continuation() -> None:
    assert encode_pair(tokenizer(), "b  ", " ab") == ([2], [3, 3, 3, 4])


def test_a_first_token_of_every_text_stands_before_the_context_once() -> None:
    assert encode_pair(tokenizer(begins=True), "b", " a") == ([0, 2], [3, 1])
    assert encode_pair(tokenizer(begins=True), "<s>b", " a") == ([0, 2], [3, 1])


def test_without_a_context_the_first_token_takes_its_place() -> None:
    for begins in (False, True):
        assert encode_pair(tokenizer(begins=begins), "", "ab") == ([0], [4])


def test_a_continuation_that_merges_into_the_context_is_an_error() -> None:
    with pytest.raises(HeadwaterError, match="no token for what follows the context"):
        encode_pair(tokenizer(), "a", "b")


def test_a_long_context_keeps_its_end() -> None:
    assert fitted([1, 2, 3, 4], 2, 5) == [2, 3, 4]
    assert fitted([1, 2], 2, 5) == [1, 2]
    with pytest.raises(HeadwaterError, match="5 tokens does not fit into the model's context of 5"):
        fitted([1, 2], 5, 5)
