"""Many prompts, completed by engines on as many CPUs or GPUs as the cluster has."""

from __future__ import annotations

from cluster.artifact import Folder
from cluster.session import Session
from llm.engine import load_engine
from llm.engine.base import Completion, Sampling

PROMPTS_PER_TASK = 64


def generate(
    session: Session, label: str, model: Folder, prompts: list[list[int]], sampling: Sampling
) -> list[Completion]:
    """Completions in the prompts' order. Deterministic for a seed whatever the cluster's size."""
    import ray

    session.ray()
    gpus = 1 if session.gpus() else 0
    complete = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=3)(_complete)
    starts = range(0, len(prompts), PROMPTS_PER_TASK)
    tasks = {
        complete.remote(model, prompts[start : start + PROMPTS_PER_TASK], sampling, start): start
        for start in starts
    }
    found: dict[int, list[Completion]] = {}
    waiting = list(tasks)
    with session.progress(label, len(prompts), "prompts") as shown:
        while waiting:
            (ready,), waiting = ray.wait(waiting, num_returns=1)
            found[tasks[ready]] = ray.get(ready)
            shown.advance(len(found[tasks[ready]]))
    return [completion for start in starts for completion in found[start]]


def _complete(model: Folder, prompts: list[list[int]], sampling: Sampling, start: int) -> list[Completion]:
    from dataclasses import replace

    engine = load_engine(model.local(), threads=1)
    seed = None if sampling.seed is None else sampling.seed + start  # no two tasks draw alike
    return engine.generate(prompts, replace(sampling, seed=seed))
