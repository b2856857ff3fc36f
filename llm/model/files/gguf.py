"""Convert a Hugging Face folder to one GGUF file, for llama.cpp and the tools built on it.

Keys and tensor names follow https://github.com/ggml-org/ggml/blob/master/docs/gguf.md for the architectures
of ARCHITECTURES; llama.cpp's own `gguf` package writes them. transformers rotates halves of a head, as
llama.cpp does for Qwen; for `llama` it rotates neighbours, so the rows of queries and keys are reordered.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from headwater.cluster.errors import HeadwaterError
from headwater.data_pipeline.tokens.encoder import PRE_TOKENIZER as PRE_TOKENIZER_RULE
from headwater.data_pipeline.tokens.encoder import unlike_ours

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType, GGUFWriter

Precision = Literal["f32", "f16", "bf16", "q8_0"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
ARCHITECTURES = {"LlamaForCausalLM": "llama", "Qwen2ForCausalLM": "qwen2", "Qwen3ForCausalLM": "qwen3"}
PRE_TOKENIZER = "qwen2"
"""llama.cpp's name for the pre-tokenizer rule of `data_pipeline.tokens.tokenizer` (SPLIT_PATTERN)."""
DIGITS_APART = {
    "type": "Sequence",
    "pretokenizers": [
        {"type": "Digits", "individual_digits": True},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    ],
}
"""SmolLM2's pre-tokenizer, `smollm` in llama.cpp: GPT-2's with every digit apart."""
_GENERATION = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")
"""Markers that only transformers reads, for the loss mask; they print nothing."""


def write_gguf(folder: Path, path: Path, *, name: str, precision: Precision | None = None) -> Precision:
    """Write a folder's model and tokenizer to `path`; returns the precision written.

    `precision` None keeps that of the weights. Vectors stay in fp32, as in llama.cpp's own converter. One
    tensor at a time is in memory. Raises HeadwaterError for an architecture, rotary scaling or tokenizer that
    is not supported.
    """
    import gguf

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    _check(config, tokenizer, folder)
    precision = precision or _stored_precision(folder)
    writer = gguf.GGUFWriter(path, ARCHITECTURES[config["architectures"][0]])
    try:
        _add_shape(writer, config, name, precision)
        _add_tokenizer(writer, config, tokenizer, folder)
        _add_tensors(writer, folder, config, precision)
    finally:
        writer.close()
    return precision


def _check(config: dict[str, Any], tokenizer: dict[str, Any], folder: Path) -> None:
    architecture = (config.get("architectures") or ["none"])[0]
    if architecture not in ARCHITECTURES:
        raise HeadwaterError(
            f"the architecture {architecture} cannot be written to a GGUF file",
            where=str(folder),
            fix="export a language model (pretrain, sft or rl), or choose --format hf",
        )
    if has_windows(config):
        raise HeadwaterError(
            f"llama.cpp computes {architecture} without the sliding windows that this model was trained with",
            where=str(folder),
            fix="choose --format hf",
        )
    rope = config.get("rope_parameters") or {}
    if rope.get("rope_type", "default") != "default":
        raise HeadwaterError(
            f"rotary positions of type {rope['rope_type']} cannot be written to a GGUF file",
            where=str(folder),
            fix="choose --format hf and convert it with llama.cpp's convert_hf_to_gguf.py",
        )
    if other := unlike_ours(_as_ours(tokenizer)):
        raise HeadwaterError(
            f"llama.cpp does not know this tokenizer's pre-tokenizer rule: it has {other}",
            where=str(folder),
            fix="choose --format hf and convert it with llama.cpp's convert_hf_to_gguf.py",
        )


def has_windows(config: dict[str, Any]) -> bool:
    """Whether a config.json has layers that attend to a sliding window."""
    return "sliding_attention" in (config.get("layer_types") or ())


def _add_shape(writer: GGUFWriter, config: dict[str, Any], name: str, precision: Precision) -> None:
    import gguf

    types = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}
    writer.add_name(name)
    writer.add_file_type(gguf.LlamaFileType[types[precision]])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    width = _head_width(config)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    if config["model_type"] == "llama":
        writer.add_rope_dimension_count(width)
        writer.add_vocab_size(config["vocab_size"])


def _head_width(config: dict[str, Any]) -> int:
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def _as_ours(tokenizer: dict[str, Any]) -> dict[str, Any]:
    """The tokenizer with Headwater's pre-tokenizer in place of another that llama.cpp has a name for."""
    known = tokenizer.get("pre_tokenizer") == DIGITS_APART
    return tokenizer | {"pre_tokenizer": PRE_TOKENIZER_RULE} if known else tokenizer


def _add_tokenizer(
    writer: GGUFWriter, config: dict[str, Any], tokenizer: dict[str, Any], folder: Path
) -> None:
    """Name a token for every id of the embedding: ids that only pad its size are marked unused."""
    from gguf import TokenType
    from transformers import AutoTokenizer

    tokens = [f"[PAD{number}]" for number in range(config["vocab_size"])]
    types = [TokenType.UNUSED] * len(tokens)
    for token, number in tokenizer["model"]["vocab"].items():
        tokens[number], types[number] = token, TokenType.NORMAL
    for added in tokenizer["added_tokens"]:
        tokens[added["id"]], types[added["id"]] = added["content"], TokenType.CONTROL
    merges = tokenizer["model"]["merges"]
    opened: Any = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm" if tokenizer["pre_tokenizer"] == DIGITS_APART else PRE_TOKENIZER)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_eos_token_id(opened.eos_token_id)
    if opened.bos_token_id is not None:
        writer.add_bos_token_id(opened.bos_token_id)
    if opened.pad_token_id is not None:
        writer.add_pad_token_id(opened.pad_token_id)
    writer.add_add_bos_token(False)
    if opened.chat_template:
        writer.add_chat_template(_GENERATION.sub("", opened.chat_template))


def _add_tensors(writer: GGUFWriter, folder: Path, config: dict[str, Any], precision: Precision) -> None:
    import gguf

    architecture = gguf.MODEL_ARCH[ARCHITECTURES[config["architectures"][0]].upper()]
    names = gguf.get_tensor_name_map(architecture, config["num_hidden_layers"])
    tied = config["tie_word_embeddings"]
    written = []
    for name, shape in _shapes(folder):
        if tied and name == "lm_head.weight":
            continue
        known = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if known is None:
            raise HeadwaterError(f"the architecture has no weight {name}", where=str(folder))
        kind = _kind(shape, precision)
        plain = {"F32": np.float32, "F16": np.float16}.get(kind.name)
        if plain is not None:
            writer.add_tensor_info(known, shape, np.dtype(plain), _size(shape) * np.dtype(plain).itemsize)
        else:
            packed = gguf.quant_shape_to_byte_shape(shape, kind)
            writer.add_tensor_info(known, packed, np.dtype(np.uint8), _size(packed), raw_dtype=kind)
        written.append((name, kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, kind in written:
        writer.write_tensor_data(gguf.quantize(_for_llama_cpp(name, _tensor(folder, name), config), kind))


def _for_llama_cpp(name: str, values: np.ndarray, config: dict[str, Any]) -> np.ndarray:
    """The weight with its rows in llama.cpp's order: of a `llama` head's two halves in turn."""
    layer = name.rpartition(".")[0].rpartition(".")[2]
    heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}.get(layer)
    if config["model_type"] != "llama" or heads is None:
        return values
    halves = values.reshape(config[heads], 2, _head_width(config) // 2, *values.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(values.shape))


def _kind(shape: tuple[int, ...], precision: Precision) -> GGMLQuantizationType:
    """f32 for vectors (norms); f16 for matrices whose rows are not a whole number of quantisation blocks."""
    import gguf

    if len(shape) < 2:
        return gguf.GGMLQuantizationType.F32
    kind = gguf.GGMLQuantizationType[precision.upper()]
    block, _ = gguf.GGML_QUANT_SIZES[kind]
    return gguf.GGMLQuantizationType.F16 if shape[-1] % block else kind


def _size(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape))


def _files(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise HeadwaterError(
            "the folder has no weights",
            where=str(folder),
            fix="give the artifact of a finished training stage",
        )
    return files


def _shapes(folder: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    from safetensors import safe_open

    for path in _files(folder):
        with safe_open(path, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118 (not a dict)
                yield name, tuple(opened.get_slice(name).get_shape())


def _tensor(folder: Path, name: str) -> np.ndarray:
    """One weight in fp32, read by torch: numpy has no bf16."""
    from safetensors import safe_open

    for path in _files(folder):
        with safe_open(path, "pt") as opened:
            if name in opened.keys():  # noqa: SIM118 (not a dict)
                return np.ascontiguousarray(opened.get_tensor(name).float().numpy())
    raise HeadwaterError(f"the weight {name} is missing", where=str(folder))


def _stored_precision(folder: Path) -> Precision:
    """The precision of the matrices stored in the folder."""
    from safetensors import safe_open

    known: dict[str, Precision] = {"F32": "f32", "F16": "f16", "BF16": "bf16"}
    with safe_open(_files(folder)[0], "pt") as opened:
        found = {opened.get_slice(name).get_dtype() for name in opened.keys()}  # noqa: SIM118
    return known[next(kind for kind in ("F32", "BF16", "F16") if kind in found)]
