"""Read a GGUF file into a Hugging Face folder, with its tokenizer and chat template.

transformers reads weights and vocabulary. A GGUF file has no `tokenizer.json`: it only names llama.cpp's rule
for splitting text, so a file whose rule is unknown here is refused.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from headwater.cluster.errors import HeadwaterError, first_line
from headwater.data_pipeline.tokens.tokenizer import save_tokenizer

PLAIN_RULES = ("default", "gpt-2", "gpt2")
"""llama.cpp's names of GPT-2's rule, which transformers takes where it knows no other."""
DIGIT_RULES = ("smollm", "starcoder", "refact", "command-r", "codeshell")
"""Names of GPT-2's rule with every digit apart."""


def read_gguf(path: Path, folder: Path) -> None:
    """Write the model (fp32, the dequantised weights exactly), its config and its tokenizer.

    Raises HeadwaterError for an architecture or a tokenizer that is not supported.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig

    metadata = _metadata(path)
    _check_rule(metadata, path)
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
        config: Any = AutoConfig.from_pretrained(str(path.parent), gguf_file=path.name)
        width = metadata.get(f"{metadata['general.architecture']}.attention.key_length")
        if width and hasattr(config, "head_dim"):
            config.head_dim = int(width)
        loaded = AutoModelForCausalLM.from_pretrained(
            str(path.parent),
            gguf_file=path.name,
            config=config,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
        )
    except (ValueError, KeyError, NotImplementedError, OSError) as error:  # transformers raises all of them
        raise HeadwaterError(
            f"transformers cannot read this GGUF file ({first_line(error)})",
            where=str(path),
            fix="use the model's Hugging Face folder",
        ) from error
    _split_digits(tokenizer, metadata)
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(
        loaded.state_dict(), assign=True
    )  # transformers saves no model that it has unpacked
    model.tie_weights()
    ids = {name: getattr(tokenizer, f"{name}_id") for name in ("bos_token", "eos_token", "pad_token")}
    for settings in (model.config, model.generation_config):
        for name, number in ids.items():
            setattr(settings, f"{name}_id", number)
    model.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)


def _metadata(path: Path) -> dict[str, Any]:
    """The file's settings. Raises HeadwaterError if it is no GGUF file."""
    from transformers.integrations.gguf import read_gguf_metadata

    try:
        return dict(read_gguf_metadata(str(path))[0])
    except (ValueError, OSError, struct.error) as error:
        raise HeadwaterError(
            f"not a complete GGUF file ({error})",
            where=str(path),
            fix="give a .gguf file, or a Hugging Face folder",
        ) from error


def _check_rule(metadata: dict[str, Any], path: Path) -> None:
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    rule = metadata.get("tokenizer.ggml.pre", "default")
    known = (*GGUF_PRE_TOKENIZER_SPLITS, *PLAIN_RULES, *DIGIT_RULES)
    if metadata.get("tokenizer.ggml.model") == "gpt2" and rule not in known:
        raise HeadwaterError(
            f"the tokenizer's rule {rule} for splitting text is not known",
            where=str(path),
            fix="use the model's Hugging Face folder",
        )


def _split_digits(tokenizer: Any, metadata: dict[str, Any]) -> None:
    """transformers splits such text as GPT-2 does, which gives other ids for spaces before a number."""
    from tokenizers import pre_tokenizers

    if metadata.get("tokenizer.ggml.pre") in DIGIT_RULES:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
