"""One dial, depth, to a Hugging Face config: RMSNorm, RoPE, QK-norm, SwiGLU, grouped KV heads (Qwen3).

The aspect ratio (width = 64 × depth) is nanochat's; heads are 64 wide; the feed-forward width is
3 × the model's, which for SwiGLU's three matrices costs about what 4 × costs with two
(Shazeer 2020 gives 8/3).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headwater.llm.hardware.precision import Precision
from headwater.llm.model.adapters import LoraConfig, quantisation
from headwater.llm.model.shape import ModelConfig, hf_config

if TYPE_CHECKING:
    import torch
    from transformers import Qwen3Config

    from headwater.cluster.storage.artifact import Folder


def initialise(config: Qwen3Config, seed: int, *, zero_outputs: bool = False) -> torch.nn.Module:
    """A model with fresh weights in fp32, the same for a seed on every rank.

    Weights are normal with deviation 0.02; the projections that write into the residual stream are
    scaled down by sqrt(2 × layers) (GPT-2, Radford et al. 2019), or zero with `zero_outputs`.
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
    """A new model for a tokenizer's vocabulary."""
    from transformers import AutoTokenizer

    opened: Any = AutoTokenizer.from_pretrained(str(tokenizer.local()), local_files_only=True)
    return initialise(hf_config(model, len(opened), opened), seed, zero_outputs=model.zero_outputs)


def saved_model(
    folder: Folder, adapters: LoraConfig | None = None, precision: Precision = "fp32", gpus: float = 0.0
) -> torch.nn.Module:
    """A model that an earlier stage exported, in fp32.

    Where the settings of its `adapters` say so, with 4-bit matrices for training in a `precision`; they lie
    on a GPU where a worker has `gpus`.
    """
    import torch
    from transformers import AutoModelForCausalLM

    quantised = quantisation(adapters, precision, gpus)
    return AutoModelForCausalLM.from_pretrained(
        str(folder.local()),
        dtype=torch.float32,
        local_files_only=True,
        quantization_config=quantised,
        device_map="cpu" if quantised and not gpus else None,  # left to itself it takes any GPU in sight
    )


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
        torch.nn.init.zeros_(model.score.weight)  # start with no preference at all
    return model
