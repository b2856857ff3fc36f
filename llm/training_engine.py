"""A model made ready to be trained as a stage's settings say: adapters, memory savings, shards, average."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llm import zero
from llm.averaging import Average
from llm.lora import with_adapters
from llm.train_config import FineTuneConfig, TrainConfig

if TYPE_CHECKING:
    import torch


def build(model: torch.nn.Module, config: TrainConfig, world_size: int) -> Any:
    """The DeepSpeed engine around a model that is equal on every rank; all ranks must call it."""
    if isinstance(config, FineTuneConfig) and config.lora:
        model = with_adapters(model, config.lora, config.seed)
    model.train()  # a model that was read from a folder is not, and would ignore the next line
    if config.activation_checkpointing:
        checkpoint_activations(model)
    engine = zero.initialise_engine(
        model,
        zero.deepspeed_config(
            config.zero,
            zero.resolve_precision(config.precision),
            micro_batch=config.micro_batch,
            accumulation=config.accumulation(world_size),
            world_size=world_size,
            clip=config.clip if config.optimizer == "adamw" else 0.0,
            fp16=config.fp16,
        ),
        optimizer=config.optimizer,
        weight_decay=config.weight_decay,
        betas=config.betas,
        eager=not config.torch_compile,
    )
    if config.torch_compile:
        engine.compile()
    if config.ema_decay is not None:
        Average(engine, config.ema_decay)
    return engine


def checkpoint_activations(model: Any) -> None:
    """Keep each layer's input alone and compute the layer again in the backward pass (Chen et al. 2016)."""
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
