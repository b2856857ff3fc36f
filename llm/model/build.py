"""Models to train: fresh ones from a shape, saved ones from an earlier stage, reward models.

A shape follows from one dial, depth: RMSNorm, RoPE, QK-norm, SwiGLU, grouped KV heads (Qwen3). The width is
64 × depth (nanochat), heads are 64 wide, and the feed-forward width is 3 × the model's: with SwiGLU's three
matrices about the cost of 4 × with two (Shazeer 2020 uses 8/3).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headwater.data_pipeline.tokens.tokenizer import load_tokenizer, padding_id
from headwater.llm.hardware.precision import Precision
from headwater.llm.model.adapters import LoraConfig, quantisation
from headwater.llm.model.critic import with_value_head
from headwater.llm.model.shape import ModelConfig, hf_config

if TYPE_CHECKING:
    import torch
    from transformers import Qwen3Config

    from headwater.cluster.storage.artifact import Folder


def initialise(config: Qwen3Config, seed: int, *, zero_outputs: bool = False) -> torch.nn.Module:
    """A model with fresh fp32 weights; the same seed gives the same weights on every rank.

    Weights are normal with standard deviation 0.02. Projections into the residual stream are scaled by
    1 / sqrt(2 × layers) (GPT-2, Radford et al. 2019), or zero with `zero_outputs`.
    """
    import torch
    from transformers import Qwen3ForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(config)
        scale = 0.0 if zero_outputs else (2 * config.num_hidden_layers) ** -0.5
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith(("o_proj.weight", "down_proj.weight")):
                    parameter.mul_(scale)
    return model.float()


def fresh_model(model: ModelConfig, tokenizer: Folder, seed: int) -> torch.nn.Module:
    """A new model sized for a tokenizer's vocabulary."""
    from transformers import AutoTokenizer

    opened: Any = AutoTokenizer.from_pretrained(str(tokenizer.local()), local_files_only=True)
    return initialise(hf_config(model, len(opened), opened), seed, zero_outputs=model.zero_outputs)


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


def critic(
    folder: Folder, adapters: LoraConfig | None = None, precision: Precision = "fp32", gpus: float = 0.0
) -> torch.nn.Module:
    """A saved model with a new value head."""
    return with_value_head(saved_model(folder, adapters, precision, gpus))  # type: ignore[no-any-return]


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
