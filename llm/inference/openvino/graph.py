"""A Llama-shaped model as an OpenVINO graph over a paged cache, made from its Hugging Face folder.

Ids of all sequences lie one after the other [T]. OpenVINO's PagedAttention is told where each sequence begins
and in which blocks its keys and values are. Logits are computed at the places `wanted` alone.

OpenVINO writes PagedAttention into a file and does not read it again. A graph is therefore made in two steps:
`outline` has each layer's queries, keys and values as results and the mixed values as an input, and can be
kept; `joined` puts attention between them.
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


def outline(folder: Path, *, int8: bool = False) -> Any:
    """The `openvino.Model` of a folder that has no `fault`, without attention; `int8`: matrices in 8 bits."""
    return _Builder(folder, int8).model()


def joined(outline: Any) -> Any:
    """The whole `openvino.Model` of an outline, which is of no use afterwards."""
    openvino = runtime()
    op = openvino.opset13
    results = {each.get_friendly_name(): each for each in outline.get_results()}
    inputs = {each.get_friendly_name(): each for each in outline.get_parameters()}
    mixed = {name: inputs.pop(name) for name in list(inputs) if name.startswith("mixed.")}
    for name in PER_SEQUENCE:
        inputs[name] = op.parameter([-1], openvino.Type.i32, name=name)
    inputs["max_context_len"] = op.parameter([], openvino.Type.i32, name="max_context_len")
    for number in range(len(mixed)):
        rows = [results[f"{part}.{number}"].input_value(0) for part in ("queries", "keys", "values")]
        shared, width = (int(each) for each in results["heads"].input_value(0).get_node().data)
        cache = [-1, shared, BLOCK, width]
        for part in ("keys", "values"):
            name = f"{part}.{number}"
            inputs[name] = op.parameter(cache, openvino.Type.f32, name=name)
        given = [
            *(rows + [inputs[f"{part}.{number}"].output(0) for part in ("keys", "values")]),
            *(inputs[name].output(0) for name in PER_SEQUENCE),
            *(each.output(0) for each in _settings(width, inputs["max_context_len"])),
        ]
        attention = openvino.op._PagedAttentionExtension(given)
        for part in "kv":  # read by the CPU plugin
            attention.get_rt_info()[f"{part}_head_size"] = width
            attention.get_rt_info()[f"num_{part}_heads"] = shared
        for target in mixed[f"mixed.{number}"].output(0).get_target_inputs():
            target.replace_source_output(attention.output(0))
    return openvino.Model([results["logits"]], list(inputs.values()), "causal")


def _settings(width: int, context: Any) -> list[Any]:
    """PagedAttention's inputs from the tenth on, in its order: scale, window, ALiBi, longest context. Then
    what is off here: scores, rotation of evicted blocks, sparsity, sinks, eviction, types and bias."""
    op = runtime().opset13

    def zero() -> Any:
        return op.constant(np.int32(0))

    def none(kind: Any) -> Any:
        return op.constant(np.empty(0, kind))

    return [
        *(op.constant(np.float32(width**-0.5)), zero(), none(np.float32), context),
        *(none(np.int32), none(np.int32), none(np.int32), none(np.float32)),
        *(none(np.float32), zero(), zero()),
        *(none(np.float32), zero(), none(np.int32), none(np.int32), none(np.int32)),
        *(none(np.int32), none(np.uint8), none(np.int32)),
    ]


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
        self._results: dict[str, Any] = {}

    def model(self) -> Any:
        op = self._op
        ids, wanted = self._input("ids", [-1], "i64"), self._input("wanted", [-1], "i64")
        cos_T1D, sin_T1D = self._rotation(self._input("positions", [-1], "i64"))
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
        self._results["logits"] = op.matmul(x_RE, embedding if tied else self._matrix("lm_head"), False, True)
        self._results["heads"] = self._ints([self._shared, self._width])
        results = [op.result(value, name=name) for name, value in self._results.items()]
        return self._openvino.Model(results, list(self._inputs.values()), "outline")

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
        for part, heads, told in (("q", self._heads, "queries"), ("k", self._shared, "keys")):
            split = self._ints([-1, heads, self._width])
            x_THD = self._op.reshape(self._linear(x_TE, f"{name}.{part}_proj"), split, False)
            if f"{name}.{part}_norm.weight" in self._weights:
                x_THD = self._norm(x_THD, f"{name}.{part}_norm")
            turned = self._rotated(x_THD, cos_T1D, sin_T1D)
            together = self._ints([-1, heads * self._width])
            self._results[f"{told}.{number}"] = self._op.reshape(turned, together, False)
        self._results[f"values.{number}"] = self._linear(x_TE, f"{name}.v_proj")
        mixed = self._input(f"mixed.{number}", [-1, self._heads * self._width], "f32")
        return self._linear(mixed, f"{name}.o_proj")
