"""Speed of the training loop compared with a bare PyTorch loop and transformers' Trainer (one thread each).

    python -m benchmarks.training.speed [--depth 6] [--rows 8] [--steps 7]

Measures (a) a training step on one worker, compared with a bare PyTorch loop over the same model; (b) the
model's FLOP/s as a share of a bf16 matrix product's; (c) the step of transformers' Trainer with the same
DeepSpeed configuration; (d) the start of a training stage on a warm cluster. Values are medians, with the
precision that `precision: auto` selects and rows of 512 tokens. All three use the glibc settings of our
workers, which keep memory between steps.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from headwater.cluster.runtime.session import Session
from headwater.cluster.storage.artifact import Artifact, Folder
from headwater.cluster.storage.store import Store
from headwater.llm.hardware.peak import measured
from headwater.llm.hardware.precision import resolve_precision, torch_dtype
from headwater.llm.model.build import initialise, saved_model
from headwater.llm.model.shape import ModelConfig, flops_per_token, hf_config
from headwater.llm.training import engine as training_engine
from headwater.llm.training import zero
from headwater.llm.training.config import TrainConfig
from headwater.llm.training.loop import KEEP_MEMORY, TrainJob, Worker, train, train_step
from headwater.llm.training.losses.objectives import NextToken
from headwater.llm.training.zero_config import ZeroConfig
from tests.llm.chat_tokenizer import chat_tokenizer
from tests.llm.models import save_model
from tests.llm.ranks import on_ranks

VOCABULARY, LENGTH = 4096, 512


class RandomRows:
    """Returns the same rows of random ids for every step."""

    def __init__(self, rows: int, length: int, opened: str = "") -> None:
        self.rows, self.length, self.opened = rows, length, opened

    def open(self, worker: Worker) -> None:
        if self.opened and worker.rank == 0:
            Path(self.opened).write_text(str(time.time()))

    def batch(self, step: int) -> dict[str, np.ndarray]:
        ids = np.random.default_rng(step).integers(5, 300, (self.rows, self.length + 1))
        return {"ids": ids}

    def metrics(self) -> dict[str, float]:
        return {}


def fresh(depth: int) -> Any:
    return initialise(hf_config(ModelConfig(depth=depth), VOCABULARY, chat_tokenizer()), 0)


def settings(rows: int) -> TrainConfig:
    return TrainConfig(steps=1000, batch=rows, micro_batch=rows, workers=1, zero=ZeroConfig(stage=0))


def ours(depth: int, rows: int, steps: int) -> list[float]:
    """Step times of our training loop, in seconds."""
    config, nowhere = settings(rows), Artifact("/nowhere")
    engine = training_engine.build(fresh(depth), config, 1)
    source, worker = RandomRows(rows, LENGTH), Worker(0, 1, engine, engine.device)
    job = TrainJob("speed", config, NextToken(), source, lambda: None, Folder(nowhere, "model"), nowhere)  # type: ignore[arg-type, return-value]
    return timed(lambda step: train_step(job, worker, step), steps)


def bare(depth: int, rows: int, steps: int) -> list[float]:
    """Step times of a bare loop, in seconds: autocast where 16 bits are native, fused AdamW, eager."""
    model = fresh(depth).train()
    precision = torch_dtype(resolve_precision("auto"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    source = RandomRows(rows, LENGTH)

    def step(number: int) -> None:
        ids = torch.from_numpy(source.batch(number)["ids"])
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            logits = model(input_ids=ids[:, :-1], use_cache=False).logits.float()
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return timed(step, steps)


def trainers(depth: int, rows: int, steps: int) -> list[float]:
    """Step times of transformers' Trainer with our DeepSpeed configuration, in seconds."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    zero.start()
    precision = resolve_precision("auto")
    config = zero.deepspeed_config(settings(rows), precision, 1)
    config["optimizer"] = {"type": "AdamW", "params": {"lr": 1e-3, "torch_adam": True}}
    source = RandomRows(rows, LENGTH)
    examples = [
        {"input_ids": torch.from_numpy(ids[:-1]), "labels": torch.from_numpy(ids[:-1])}
        for step in range(steps + 2)
        for ids in source.batch(step)["ids"]
    ]
    seconds: list[float] = []

    class Watch(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *arguments: Any, **more: Any) -> None:
            torch.set_num_threads(1)  # accelerate uses all cores

        def on_step_begin(self, *arguments: Any, **more: Any) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, *arguments: Any, **more: Any) -> None:
            seconds.append(time.perf_counter() - self.started)

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            deepspeed=config,
            use_cpu=True,
            bf16=precision == "bf16",
            learning_rate=1e-3,
            max_grad_norm=1.0,
            per_device_train_batch_size=rows,
            max_steps=steps + 2,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            dataloader_num_workers=0,
        )
        Trainer(model=fresh(depth), args=arguments, train_dataset=examples, callbacks=[Watch()]).train()  # type: ignore[arg-type]
    return seconds[2:]


def timed(step: Callable[[int], object], steps: int) -> list[float]:
    seconds = []
    for number in range(steps + 2):
        started = time.perf_counter()
        step(number)
        seconds.append(time.perf_counter() - started)
    return seconds[2:]


def measure(name: str, depth: int, rows: int, steps: int, result: str) -> None:
    """Median seconds per step, and the peak FLOP/s measured in the same process."""
    peak = measured(torch_dtype(resolve_precision("auto")), torch.device("cpu"))
    seconds = {"ours": ours, "bare": bare, "Trainer": trainers}[name](depth, rows, steps)
    Path(result).write_text(json.dumps([statistics.median(seconds), peak]))


def start_of_a_stage(workers: int) -> tuple[float, float]:
    """Seconds until the first step, and of a whole one-step stage, on a running Ray cluster."""
    with tempfile.TemporaryDirectory() as scratch:
        model = save_model(Path(scratch) / "model")
        with Session(Store(f"{scratch}/store"), num_cpus=2) as session:
            session.ray()
            spent = []
            for number in range(2):  # the first run warms the disk cache
                opened = f"{scratch}/opened-{number}"
                job = TrainJob(
                    label="start",
                    config=TrainConfig(steps=1, batch=workers, micro_batch=1, workers=workers),
                    objective=NextToken(),
                    source=RandomRows(1, 24, opened),
                    load_model=functools.partial(saved_model, model),
                    tokenizer=model,
                    output=session.store.artifact("train", f"start-{number}"),
                )
                began = time.time()
                train(job, session)
                spent.append((float(Path(opened).read_text()) - began, time.time() - began))
    return spent[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--steps", type=int, default=7)
    options = parser.parse_args()
    flops = flops_per_token(hf_config(ModelConfig(depth=options.depth), VOCABULARY, chat_tokenizer()), LENGTH)
    tokens, found = options.rows * LENGTH, {}
    os.environ.update(KEEP_MEMORY)  # before the fork server starts
    print(f"depth {options.depth}, {options.rows} rows of {LENGTH} tokens, {resolve_precision('auto')}")
    for name in ("bare", "ours", "Trainer"):
        with tempfile.NamedTemporaryFile() as result:
            on_ranks(1, measure, name, options.depth, options.rows, options.steps, result.name)
            found[name], peak = json.loads(Path(result.name).read_text())
        speed = tokens / found[name]
        print(
            f"{name:8} {found[name]:6.3f} s per step  {speed:6,.0f} tokens/s  {speed * flops / 1e9:6.1f} of "
            f"{peak / 1e9:.0f} GFLOP/s: {speed * flops / peak:.2f}",
            flush=True,
        )
    print(f"speed relative to the bare loop: {found['bare'] / found['ours']:.2f}x (goal 0.95)")
    print(f"speed relative to transformers' Trainer: {found['Trainer'] / found['ours']:.2f}x (goal 1.1)")
    first, whole = start_of_a_stage(workers=2)
    print(
        f"two workers on a warm cluster: first step after {first:.1f} s (goal 15), done after {whole:.1f} s"
    )


if __name__ == "__main__":
    main()
