"""A Llama-shaped model as an OpenVINO graph over a paged cache, made from its Hugging Face folder.

Ids of all sequences lie one after the other [T]. OpenVINO's PagedAttention is told where each sequence begins
and in which blocks its keys and values are. Logits are computed at the places `wanted` alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from headwater.cluster.errors import HeadwaterError
from headwater.llm.inference.openvino import runtime
from headwater.llm.model.coverage import KERNELS

BLOCK = 32
"""Positions of a block: the one size that OpenVINO's CPU kernel takes."""
QUANTIZED = 127
PER_SEQUENCE = ("past_lens", "subsequence_begins", "block_indices", "block_indices_begins")
ROTATIONS = ("default", "linear", "llama3")


def fault(config: dict[str, Any]) -> str:
    """Why this backend cannot run a model of this `config.json`; empty if it can."""
    kind = config.get("model_type")
    if kind not in KERNELS:
        return f"it knows {', '.join(KERNELS)}, not {kind}"
    if not (config.get("architectures") or [""])[0].endswith("ForCausalLM"):
        return "the model is not a causal language model"
    if any(layer != "full_attention" for layer in config.get("layer_types") or ()):
        return "it has no sliding windows"
    if config.get("sliding_window") and (kind == "mistral" or config.get("use_sliding_window")):
        return "it has no sliding windows"
    rotation = (config.get("rope_parameters") or config.get("rope_scaling") or {}).get("rope_type", "default")
    if rotation not in ROTATIONS:
        return f"it knows the rotations {', '.join(ROTATIONS)}, not {rotation}"
    if config.get("hidden_act", "silu") != "silu":
        return f"it knows the activation silu, not {config['hidden_act']}"
    return ""


class Weights:
    """The tensors of a model folder, read one by one."""

    def __init__(self, folder: Path) -> None:
        from safetensors import safe_open

        files = [safe_open(path, "pt") for path in sorted(folder.glob("*.safetensors"))]
        self._files = {name: file for file in files for name in file.keys()}  # noqa: SIM118 (not a dict)
        self._folder = folder

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def read(self, name: str) -> np.ndarray:
        """In fp32. Raises HeadwaterError if it is missing."""
        if name not in self:
            raise HeadwaterError(f"the weight {name} is missing", where=str(self._folder))
        values: np.ndarray = self._files[name].get_tensor(name).float().numpy()
        return values


def quantize(values_OI: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int8 weights and the scale [O, 1] of each row: rounded to the nearest of 255 steps, symmetric."""
    scale_O1 = np.abs(values_OI).max(axis=1, keepdims=True) / QUANTIZED
    scale_O1[scale_O1 == 0] = 1
    return np.rint(values_OI / scale_O1).astype(np.int8), scale_O1.astype(np.float32)


def build(folder: Path, *, int8: bool = False) -> Any:
    """The `openvino.Model` of a folder that has no `fault`; `int8`: matrices in 8 bits."""
    return _Builder(folder, int8).model()


class _Builder:
    def __init__(self, folder: Path, int8: bool) -> None:
        from transformers import AutoConfig
        from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

        self._openvino = runtime()
        self._op = self._openvino.opset13
        self._weights, self._int8 = Weights(folder), int8
        self._config: Any = AutoConfig.from_pretrained(str(folder), local_files_only=True)
        rotation = LlamaRotaryEmbedding(self._config)  # of all the architectures here
        self._frequencies, self._scaling = rotation.inv_freq.numpy(), float(rotation.attention_scaling)
        self._heads = int(self._config.num_attention_heads)
        self._shared = int(self._config.num_key_value_heads)
        self._width = int(getattr(self._config, "head_dim", None) or self._config.hidden_size // self._heads)
        self._inputs: dict[str, Any] = {}

    def model(self) -> Any:
        op = self._op
        ids, wanted = self._input("ids", [-1], "i64"), self._input("wanted", [-1], "i64")
        cos_T1D, sin_T1D = self._rotation(self._input("positions", [-1], "i64"))
        for name in PER_SEQUENCE:
            self._input(name, [-1], "i32")
        self._input("max_context_len", [], "i32")
        embedding = self._matrix("model.embed_tokens")
        x_TE = op.gather(embedding, ids, self._ints(0))
        for number in range(self._config.num_hidden_layers):
            layer = f"model.layers.{number}"
            normed_TE = self._norm(x_TE, f"{layer}.input_layernorm")
            mixed = self._attention(normed_TE, f"{layer}.self_attn", number, cos_T1D, sin_T1D)
            x_TE = op.add(x_TE, mixed)
            normed_TE = self._norm(x_TE, f"{layer}.post_attention_layernorm")
            gate = op.swish(self._linear(normed_TE, f"{layer}.mlp.gate_proj"))
            up = self._linear(normed_TE, f"{layer}.mlp.up_proj")
            x_TE = op.add(x_TE, self._linear(op.multiply(gate, up), f"{layer}.mlp.down_proj"))
        x_RE = op.gather(self._norm(x_TE, "model.norm"), wanted, self._ints(0))
        tied = self._config.tie_word_embeddings
        logits_RV = op.matmul(x_RE, embedding if tied else self._matrix("lm_head"), False, True)
        return self._openvino.Model([op.result(logits_RV)], list(self._inputs.values()), "causal")

    def _input(self, name: str, shape: Sequence[int], kind: str) -> Any:
        type_ = getattr(self._openvino.Type, kind)
        self._inputs[name] = self._op.parameter(list(shape), type_, name=name)
        return self._inputs[name]

    def _ints(self, values: int | Sequence[int]) -> Any:
        return self._op.constant(np.asarray(values, np.int64))

    def _floats(self, values: Any) -> Any:
        return self._op.constant(np.asarray(values, np.float32))

    def _matrix(self, name: str) -> Any:
        values_OI = self._weights.read(f"{name}.weight")
        if not self._int8:
            return self._floats(values_OI)
        rounded_OI, scale_O1 = quantize(values_OI)
        op = self._op
        return op.multiply(op.convert(op.constant(rounded_OI), "f32"), self._floats(scale_O1))

    def _linear(self, x: Any, name: str) -> Any:
        y = self._op.matmul(x, self._matrix(name), False, True)
        if f"{name}.bias" in self._weights:
            y = self._op.add(y, self._floats(self._weights.read(f"{name}.bias")))
        return y

    def _norm(self, x: Any, name: str) -> Any:
        """RMSNorm (Zhang and Sennrich 2019) over the last axis."""
        op = self._op
        square = op.reduce_mean(op.multiply(x, x), self._ints([-1]), True)
        root = op.sqrt(op.add(square, self._floats(self._config.rms_norm_eps)))
        scale = op.divide(self._floats(1), root)
        return op.multiply(op.multiply(x, scale), self._floats(self._weights.read(f"{name}.weight")))

    def _rotation(self, positions_T: Any) -> tuple[Any, Any]:
        """Cosines and sines [T, 1, D], the same for all layers."""
        op = self._op
        places_T1 = op.unsqueeze(op.convert(positions_T, "f32"), self._ints(1))
        half = op.multiply(places_T1, self._floats(self._frequencies[None]))
        angles_T1D = op.unsqueeze(op.concat([half, half], 1), self._ints(1))
        scaling = self._floats(self._scaling)
        return op.multiply(op.cos(angles_T1D), scaling), op.multiply(op.sin(angles_T1D), scaling)

    def _rotated(self, x_THD: Any, cos_T1D: Any, sin_T1D: Any) -> Any:
        """RoPE (Su et al. 2021) on halves."""
        op = self._op
        first, second = op.split(x_THD, self._ints(2), 2).outputs()
        turned = op.concat([op.negative(second), first], 2)
        return op.add(op.multiply(x_THD, cos_T1D), op.multiply(turned, sin_T1D))

    def _attention(self, x_TE: Any, name: str, number: int, cos_T1D: Any, sin_T1D: Any) -> Any:
        rows = []
        for part, heads in (("q", self._heads), ("k", self._shared)):
            split = self._ints([-1, heads, self._width])
            x_THD = self._op.reshape(self._linear(x_TE, f"{name}.{part}_proj"), split, False)
            if f"{name}.{part}_norm.weight" in self._weights:
                x_THD = self._norm(x_THD, f"{name}.{part}_norm")
            joined = self._ints([-1, heads * self._width])
            rows.append(self._op.reshape(self._rotated(x_THD, cos_T1D, sin_T1D), joined, False))
        shape = [-1, self._shared, BLOCK, self._width]
        inputs = [
            *rows,
            self._linear(x_TE, f"{name}.v_proj"),
            *(self._input(f"{part}.{number}", shape, "f32") for part in ("keys", "values")),
            *(self._inputs[each] for each in PER_SEQUENCE),
            *self._settings(),
        ]
        mixed = self._openvino.op._PagedAttentionExtension([each.output(0) for each in inputs])
        for part in "kv":  # read by the CPU plugin
            mixed.get_rt_info()[f"{part}_head_size"] = self._width
            mixed.get_rt_info()[f"num_{part}_heads"] = self._shared
        return self._linear(mixed.output(0), f"{name}.o_proj")

    def _settings(self) -> list[Any]:
        """The operation's inputs from the tenth on, in its order: scale, window, ALiBi, longest context. Then
        what is off here: scores, rotation of evicted blocks, sparsity, sinks, eviction, types and bias."""

        def zero() -> Any:
            return self._op.constant(np.int32(0))

        def none(kind: Any) -> Any:
            return self._op.constant(np.empty(0, kind))

        scale, context = self._floats(self._width**-0.5), self._inputs["max_context_len"]
        return [
            *(scale, zero(), none(np.float32), context),
            *(none(np.int32), none(np.int32), none(np.int32), none(np.float32)),
            *(none(np.float32), zero(), zero()),
            *(none(np.float32), zero(), none(np.int32), none(np.int32), none(np.int32)),
            *(none(np.int32), none(np.uint8), none(np.int32)),
        ]
