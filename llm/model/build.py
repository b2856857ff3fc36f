"""Models to train: fresh ones from a shape, saved ones from an earlier stage, reward models.

A shape follows from one dial, depth: by default RMSNorm, RoPE, QK-norm, SwiGLU, grouped KV heads (Qwen3;
others are in `architecture.py`). The width is 64 × depth (nanochat), heads are 64 wide, and the feed-forward
width is 3 × the model's: with SwiGLU's three matrices about the cost of 4 × with two (Shazeer 2020 uses 8/3).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headwater.data_pipeline.tokens.tokenizer import load_tokenizer, padding_id
from headwater.llm.hardware.precision import Precision
from headwater.llm.model.adapters import HEAD, LoraConfig, quantisation
from headwater.llm.model.critic import with_value_head
from headwater.llm.model.shape import ModelConfig, hf_config

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

    from headwater.cluster.storage.artifact import Folder


def initialise(config: PreTrainedConfig, seed: int, *, zero_outputs: bool = False) -> torch.nn.Module:
    """A whole model with fresh fp32 weights (`origins.fresh`)."""
    from headwater.llm.model.origins import filled, fresh

    return filled(fresh(config, seed, zero_outputs=zero_outputs))


def fresh_model(model: ModelConfig, tokenizer: Folder, seed: int) -> torch.nn.Module:
    """A new model sized for a tokenizer's vocabulary, without values."""
    from transformers import AutoTokenizer

    from headwater.llm.model.origins import fresh

    opened: Any = AutoTokenizer.from_pretrained(str(tokenizer.local()), local_files_only=True)
    return fresh(hf_config(model, len(opened), opened), seed, zero_outputs=model.zero_outputs)


def saved_model(
    folder: Folder, adapters: LoraConfig | None = None, precision: Precision = "fp32", gpus: float = 0.0
) -> torch.nn.Module:
    """A model exported by an earlier stage, in fp32.

    With `adapters` that quantise, its matrices are 4-bit and compute in `precision`. Loaded onto a GPU if the
    worker has `gpus`.
    """
    import torch
    from transformers import AutoModelForCausalLM

    quantised = quantisation(adapters, precision, gpus)
    return AutoModelForCausalLM.from_pretrained(
        str(folder.local()),
        dtype=torch.float32,
        local_files_only=True,
        quantization_config=quantised,
        device_map="cpu" if quantised and not gpus else None,  # by default it takes any visible GPU
    )


def stored_model(
    folder: Folder, adapters: LoraConfig | None = None, precision: Precision = "fp32", gpus: float = 0.0
) -> torch.nn.Module:
    """Like `saved_model`, but without values if each worker can read its own (`stored.origins_in`)."""
    if adapters is None or adapters.quantise == "none":
        from transformers import AutoModelForCausalLM

        if (model := _unread(folder, AutoModelForCausalLM)) is not None:
            return model
    return saved_model(folder, adapters, precision, gpus)


def critic(
    folder: Folder, adapters: LoraConfig | None = None, precision: Precision = "fp32", gpus: float = 0.0
) -> torch.nn.Module:
    """A stored model with a new value head."""
    return with_value_head(stored_model(folder, adapters, precision, gpus))  # type: ignore[no-any-return]


def new_reward_model(folder: Folder) -> torch.nn.Module:
    """A sequence classifier with one label around a stored language model; its scores are 0 at first. Without
    values if each worker can read its own."""
    from transformers import AutoModelForSequenceClassification

    model: Any = _unread(folder, AutoModelForSequenceClassification, new=(f"{HEAD}.weight",), num_labels=1)
    if model is None:
        return reward_model(folder, new_head_seed=0)
    model.config.pad_token_id = padding_id(load_tokenizer(folder.local()))
    return model  # type: ignore[no-any-return]


def empty_model(folder: Folder, kind: Any = None, **settings: Any) -> Any:
    """A stored model of a class (default: causal) without values or origins; None if it is quantised or of a
    kind that transformers does not know. Reads its configuration alone."""
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    from headwater.llm.model.origins import blank

    written = folder.artifact.read_json(f"{folder.name}/config.json")
    if "quantization_config" in written or written.get("model_type") not in CONFIG_MAPPING:
        return None
    config = CONFIG_MAPPING[written["model_type"]].from_dict(written | settings)
    config.dtype = torch.float32
    make = (kind or AutoModelForCausalLM).from_config
    return blank(lambda: make(config, dtype=torch.float32)).eval()


def _unread(folder: Folder, kind: Any, *, new: tuple[str, ...] = (), **settings: Any) -> Any:
    """A stored model without values, those in `new` to be 0; None if it must be read as a whole."""
    from transformers import GenerationConfig

    from headwater.llm.model.files.stored import origins_in
    from headwater.llm.model.origins import Constant, set_origins

    if (model := empty_model(folder, kind, **settings)) is None:
        return None
    origins = {name: Constant(0.0) for name in new} | origins_in(folder, model)
    if origins.keys() != dict(model.named_parameters()).keys():
        return None
    set_origins(model, lambda name, _: origins[name])
    if folder.artifact.exists(f"{folder.name}/generation_config.json"):
        told = folder.artifact.read_json(f"{folder.name}/generation_config.json")
        model.generation_config = GenerationConfig.from_dict(told)
    return model


def reward_model(folder: Folder, *, new_head_seed: int | None = None) -> torch.nn.Module:
    """A sequence classifier with one label: a saved reward model, or a language model with a new head."""
    import torch
    from transformers import AutoModelForSequenceClassification

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(new_head_seed or 0)
        model = AutoModelForSequenceClassification.from_pretrained(
            str(folder.local()), num_labels=1, dtype=torch.float32, local_files_only=True
        )
    if new_head_seed is not None:
        torch.nn.init.zeros_(model.score.weight)  # start with equal scores
        # The score is read at the last token that is not padding, which must not be one that ends a turn.
        model.config.pad_token_id = padding_id(load_tokenizer(folder.local()))
    return model
