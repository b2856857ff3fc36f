"""Time of a GRPO step compared with TRL's `GRPOTrainer`, two cores each.

    python -m benchmarks.alignment.grpo [--depth 6] [--prompts 8] [--group 8] [--max-tokens 64] [--steps 6]
    python -m benchmarks.alignment.grpo --precision bf16

Needs TRL (`pip install 'headwater[parity]'`). The same new model, prompts, number and length of answers,
reward and KL penalty, in fp32, or in bf16 as each has it: TRL by autocast, ours with bf16 weights and fp32
ones in the optimizer. TRL runs in this process with two threads; ours is the rl stage through Ray,
with two learners and two rollout workers. A step is sampling, rewards, the reference's and the learner's
passes, and the optimizer. The first two steps of each do not count. TRL runs before ours and after it.
CPU seconds are those of all threads and processes, Ray's included.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import logging
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch

from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import execute
from headwater.cluster.storage.artifact import Artifact
from headwater.cluster.storage.store import Store
from headwater.data_pipeline.tokens.tokenizer import save_tokenizer
from headwater.llm.model.build import initialise
from headwater.llm.model.shape import ModelConfig, hf_config
from headwater.llm.stages.rl import Rl, RlConfig
from headwater.llm.training.telemetry.records import HISTORY, read_history
from tests.llm.chat_tokenizer import chat_tokenizer

VOCABULARY, CONTEXT = 4096, 512
LEARNING_RATE, KL = 1e-4, 0.05
WARM_UP = 2
LETTERS = 40
"""Letters of an answer with the best score: both rewards are a function of its length."""
QUESTIONS = [f"Tell me in a few words what happened to the {n} old bridges near the town." for n in range(64)]


def write_base(folder: Path, depth: int) -> Artifact:
    """A base artifact with a new model."""
    tokenizer = chat_tokenizer()
    shape = ModelConfig(depth=depth, context=CONTEXT)
    model: Any = initialise(hf_config(shape, VOCABULARY, tokenizer), 0)
    model.save_pretrained(folder / "model")
    for name in ("model", "tokenizer"):
        (folder / name).mkdir(exist_ok=True)
        save_tokenizer(tokenizer, folder / name)
    return Artifact(str(folder), "base", "0123456789abcdef")


Times = tuple[list[float], float]
"""Seconds of each step by the clock, and CPU seconds of one after the warm-up."""


class Watch(threading.Thread):
    """CPU seconds of this process and all below it, whenever a file has another line."""

    def __init__(self, file: Path) -> None:
        super().__init__(daemon=True)
        self.file, self.used, self.over = file, [cpu_seconds()], False

    def run(self) -> None:
        while not self.over:
            lines = self.file.read_text().count("\n") if self.file.exists() else 0
            if lines >= len(self.used):
                self.used += [cpu_seconds()] * (lines + 1 - len(self.used))
            time.sleep(0.05)


def cpu_seconds() -> float:
    """Of this process and all below it that run."""
    import psutil

    here, used = psutil.Process(), 0.0
    for process in [here, *here.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            used += times.user + times.system
    return used


def ours(base: Artifact, folder: Path, options: argparse.Namespace) -> Times:
    prompts = folder / "prompts.jsonl"
    lines = [json.dumps({"messages": [{"role": "user", "content": text}]}) for text in QUESTIONS]
    prompts.write_text("\n".join(lines) + "\n")
    settings: dict[str, Any] = {
        "prompts": [str(prompts)],
        "verifier": "length",
        "batch": options.prompts * options.group,
        "group": options.group,
        "micro_batch": options.prompts * options.group // 2,
        "max_new_tokens": options.max_tokens,
        "steps": options.steps,
        "optimizer": "adamw",
        "learning_rate": LEARNING_RATE,
        "kl": KL,
        "workers": 2,
        "rollout_workers": 2,
        "heldout_prompts": 0,
        "precision": options.precision,
        "rollout_precision": options.precision,
    }
    with Session(Store(str(folder / "store")), num_cpus=2) as session:
        stage = Rl(RlConfig.model_validate(settings))
        watch = Watch(folder / "rl" / HISTORY)
        watch.start()
        made, _ = execute(stage, {"base": base}, session, output=Artifact(str(folder / "rl"), "rl", "key"))
        history = read_history(made)
        waited = statistics.mean(record["rollout_wait"] for record in history[WARM_UP:])
        print(f"ours waits for rollouts {waited:.0%} of a step")
        watch.over = True
        used = watch.used[WARM_UP : options.steps + 1]
        return [record["seconds"] for record in history], (used[-1] - used[0]) / (len(used) - 1)


def trl(base: Artifact, folder: Path, options: argparse.Namespace) -> Times:
    """The same by `GRPOTrainer`."""
    import datasets
    from transformers import AutoModelForCausalLM, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    times, used = [time.perf_counter()], [time.process_time()]

    class Clock(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            times.append(time.perf_counter())
            used.append(time.process_time())

    model = AutoModelForCausalLM.from_pretrained(base.path("model"), dtype=torch.float32)
    trainer = GRPOTrainer(
        model,
        reward_funcs=lambda completions, **_: [
            -abs(len(turns[0]["content"]) - LETTERS) / LETTERS for turns in completions
        ],
        args=GRPOConfig(
            str(folder),
            per_device_train_batch_size=options.prompts * options.group,
            num_generations=options.group,
            max_completion_length=options.max_tokens,
            max_steps=options.steps,
            learning_rate=LEARNING_RATE,
            beta=KL,
            temperature=1.0,
            use_cpu=True,
            bf16=options.precision == "bf16",
            gradient_checkpointing=False,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        ),
        train_dataset=datasets.Dataset.from_list(
            [{"prompt": [{"role": "user", "content": text}]} for text in QUESTIONS]
        ),
        processing_class=chat_tokenizer(),
        callbacks=[Clock()],
    )
    trainer.train()
    seconds = [after - before for before, after in itertools.pairwise(times)]
    return seconds, (used[-1] - used[WARM_UP]) / (len(used) - 1 - WARM_UP)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--prompts", type=int, default=8, help="per step")
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--only", choices=["trl", "ours"])
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(2)
    found: dict[str, list[float]] = {"trl": [], "ours": []}
    cpu: dict[str, list[float]] = {"trl": [], "ours": []}
    with tempfile.TemporaryDirectory() as folder:
        base = write_base(Path(folder) / "base", options.depth)
        chosen = {"trl": [trl], "ours": [ours], None: [trl, ours, trl]}[options.only]
        for number, run in enumerate(chosen):
            place = Path(folder) / str(number)
            place.mkdir()
            seconds, used = run(base, place, options)
            found[run.__name__] += seconds[WARM_UP:]
            cpu[run.__name__].append(used)
            median = statistics.median(seconds[WARM_UP:])
            print(f"{run.__name__:5} {median:6.2f} s per step (median), {used:6.2f} CPU seconds", flush=True)
    if options.only:
        return
    ratio = statistics.median(found["trl"]) / statistics.median(found["ours"])
    of_cpu = statistics.mean(cpu["trl"]) / statistics.mean(cpu["ours"])
    shape = f"{options.prompts} prompts x {options.group}, up to {options.max_tokens} tokens"
    print(f"{shape}: {ratio:.2f}x by the clock, {of_cpu:.2f}x in CPU seconds (goal 3)")


if __name__ == "__main__":
    main()
