"""Small tokenizers built as those of five model families are, with the families' published chat templates."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from headwater.data_pipeline.tokens.tokenizer import SPLIT_PATTERN
from tests.llm.chat_tokenizer import TEXTS, chat_tokenizer

FOLDER = Path(__file__).parent / "templates"
LLAMA_PATTERN = SPLIT_PATTERN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
# Turns, blank lines and words after a space, so that merges over the edges of contents are learned.
SEEN = [*TEXTS, *["user\nWhy?\n\nmodel\nassistant\n\nsystem\nBe brief. What? Why? To What? Why?"] * 40]


def _byte_level(split: Any, special: Sequence[str], normalizer: Any = None) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(SEEN, trainer)
    return tokenizer


def _regex(pattern: str) -> list[Any]:
    return [
        pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]


def _digits() -> list[Any]:
    return [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]


def sentencepiece(special: Sequence[str], *, dummy_prefix: bool = False) -> Tokenizer:
    """BPE on characters with ▁ for a space and bytes for what is unknown; with a ▁ before every text if
    `dummy_prefix`."""
    spaces: list[Any] = [normalizers.Replace(" ", "▁")]
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.normalizer = normalizers.Sequence(spaces)
    words = pre_tokenizers.Split(
        Regex(r"▁?[^▁\n]+|\n"), behavior="isolated"
    )  # the real one is trained on lines
    trained.pre_tokenizer = words
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=[*special, *(f"<0x{b:02X}>" for b in range(256))], show_progress=False
    )
    trainer.vocab_size += 256
    trained.train_from_iterator(SEEN, trainer)
    model = json.loads(trained.to_str())["model"]
    tokenizer = Tokenizer(
        models.BPE(
            vocab=model["vocab"],
            merges=[tuple(merge) for merge in model["merges"]],
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), *spaces] if dummy_prefix else spaces
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens(list(special))
    return tokenizer


def with_template(tokenizer: Tokenizer, template: str, **tokens: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, chat_template=template, clean_up_tokenization_spaces=False, **tokens
    )


def _template(name: str) -> str:
    return (FOLDER / f"{name}.jinja").read_text(encoding="utf-8").removesuffix("\n")


def _llama3() -> PreTrainedTokenizerFast:
    special = [
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
    ]
    return with_template(
        _byte_level(_regex(LLAMA_PATTERN), [*special, "<|reserved_special_token_0|>"]),
        _template("llama3"),
        bos_token="<|begin_of_text|>",
        eos_token="<|eot_id|>",
    )


def _gemma() -> PreTrainedTokenizerFast:
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    named = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
    return with_template(sentencepiece(special), _template("gemma"), **named)


def _qwen(version: str) -> PreTrainedTokenizerFast:
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|video_pad|>"]
    tokenizer = _byte_level(_regex(SPLIT_PATTERN), special, normalizers.NFC())
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in ("<think>", "</think>")])
    named = {"pad_token": "<|endoftext|>", "eos_token": "<|im_end|>"}
    return with_template(tokenizer, _template(f"qwen{version}"), **named)


def _smollm2() -> PreTrainedTokenizerFast:
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>"]
    named = {
        "pad_token": "<|im_end|>",
        "eos_token": "<|im_end|>",
        "bos_token": "<|im_start|>",
        "unk_token": "<|endoftext|>",
    }
    return with_template(_byte_level(_digits(), special), _template("smollm2"), **named)


FAMILIES = ("chatml", "llama3", "gemma", "qwen2.5", "qwen3", "smollm2")


@functools.cache
def family(name: str) -> PreTrainedTokenizerFast:
    """The tokenizer of one of FAMILIES."""
    makers = {
        "chatml": chat_tokenizer,
        "llama3": _llama3,
        "gemma": _gemma,
        "qwen2.5": functools.partial(_qwen, "2.5"),
        "qwen3": functools.partial(_qwen, "3"),
        "smollm2": _smollm2,
    }
    return makers[name]()
