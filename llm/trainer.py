"""The one training loop: Ray Train places and restarts the workers, DeepSpeed shards the state.

What differs between pretraining, fine-tuning, the reward model and the RL learner is an
objective (`llm/objectives.py`) and a batch source. The batch of a step is a function of the seed
and the step alone, the learning rate of the step alone: a checkpoint is weights, optimizer state
and a step number, and a run goes on from it as if it had not stopped.
"""

from __future__ import annotations

import json
import logging
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from cluster.artifact import SCRATCH, Artifact, Folder
from cluster.errors import HeadwaterError, root_cause
from cluster.filesystem import filesystem
from cluster.session import Session
from cluster.stage import StageConfig
from data_pipeline.tokenizer import load_tokenizer, save_tokenizer
from llm import zero
from llm.objectives import Batch, Objective
from llm.schedule import learning_rate
from llm.zero import Optimizer, Precision, ZeroConfig

if TYPE_CHECKING:
    import numpy as np
    import torch

log = logging.getLogger(__name__)

HISTORY = "metrics.jsonl"
RUNTIME_FIELDS = frozenset({"checkpoint_every", "max_failures", "cpus_per_worker"})
"""Settings of TrainConfig that do not change what is trained."""


class TrainConfig(StageConfig):
    """Settings that every training stage shares."""

    steps: int = 100
    batch: int = 16
    """Sequences of one step, over all workers."""
    micro_batch: int = 8
    """Sequences a worker passes through the model at once; the rest is gradient accumulation."""
    workers: int = 2
    cpus_per_worker: float = 1.0
    gpus_per_worker: float = 0.0
    """1 on GPU nodes: workers then train on CUDA over NCCL, else on the CPU over gloo."""
    zero: ZeroConfig = ZeroConfig()
    precision: Precision = "auto"
    optimizer: Optimizer = "adamw"
    """`muon` for the hidden matrices with AdamW for the rest, or `adamw` for all."""
    learning_rate: float = 3e-3
    """AdamW's peak rate."""
    muon_learning_rate: float = 0.02
    """Muon's peak rate, in units of the spectral norm of an update."""
    warmup_share: float = 0.05
    decay_share: float = 0.4
    schedule: Literal["wsd", "cosine", "constant"] = "wsd"
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    """Largest global gradient norm (AdamW; Muon's updates have a norm of their own)."""
    seed: int = 0
    checkpoint_every: int = 50
    """Steps between checkpoints: at most so many are lost when a process dies."""
    evaluate_every: int = 50
    max_failures: int = 3
    """Worker failures that are answered by a restart from the last checkpoint."""


class BatchSource(Protocol):
    """Where batches come from. Pickled to every worker; `open` runs there once."""

    def open(self, worker: Worker) -> None: ...

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """This worker's share of the step's global batch, sequences along the first axis."""
        ...

    def metrics(self) -> dict[str, float]:
        """Sums or means that the source itself wants in the step's record (same on all ranks)."""
        ...


@dataclass
class TrainJob:
    """All that a worker needs to know, sent to it once."""

    label: str
    config: TrainConfig
    objective: Objective
    source: BatchSource
    load_model: Callable[[], torch.nn.Module]
    """Builds the starting model, equal on every rank."""
    tokenizer: Folder
    """Its tokenizer files are copied beside the exported model."""
    output: Artifact
    evaluate: Callable[[Worker], dict[str, float]] | None = None
    """Called on every rank every `evaluate_every` steps and at the end; same result on all ranks."""
    board: Any = None


@dataclass
class Worker:
    """One rank's view of a running job: what sources and evaluations may use."""

    rank: int
    world_size: int
    engine: Any
    device: torch.device
    history: list[dict[str, float]] = field(default_factory=list)

    def total(self, values: list[float]) -> list[float]:
        """Sums over all ranks."""
        import torch
        import torch.distributed as dist

        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor.tolist()

    def weights(self) -> dict[str, np.ndarray]:
        """Whole parameters as fp32 arrays, by name; every rank must call it."""
        with zero.gathered(self.engine) as module:
            return {name: p.detach().float().cpu().numpy().copy() for name, p in module.named_parameters()}


def train(job: TrainJob, session: Session) -> list[dict[str, float]]:
    """Run a job to its end, from its last checkpoint if there is one; returns the steps' records.

    Writes `model/` (a Hugging Face folder) and `metrics.jsonl` to the job's output.
    Raises HeadwaterError when the cluster is too small or training fails for good.
    """
    if job.output.exists("model/config.json") and job.output.exists(HISTORY):
        return read_history(job.output)
    config = job.config
    _check(config, session)
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    fs, path = filesystem(job.output.path(f"{SCRATCH}/train"))
    resources = {"CPU": config.cpus_per_worker}
    if config.gpus_per_worker:
        resources["GPU"] = config.gpus_per_worker
    with session.remote_progress(job.label, config.steps, "steps") as job.board:
        trainer = TorchTrainer(
            _worker_loop,
            train_loop_config={"job": job},
            torch_config=TorchConfig(backend="nccl" if config.gpus_per_worker else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=config.workers,
                use_gpu=bool(config.gpus_per_worker),
                resources_per_worker=resources,
            ),
            run_config=RunConfig(
                name="run",
                storage_path=path,
                storage_filesystem=fs,
                failure_config=FailureConfig(max_failures=config.max_failures),
                checkpoint_config=CheckpointConfig(num_to_keep=2),
            ),
        )
        try:
            trainer.fit()
        except Exception as error:
            cause = root_cause(error)
            if isinstance(cause, HeadwaterError):
                raise cause from None
            raise
    return read_history(job.output)


def read_history(output: Artifact) -> list[dict[str, float]]:
    """One record a step: loss, learning rate, gradient norm, tokens a second, evaluations."""
    return [json.loads(line) for line in output.read_bytes(HISTORY).splitlines()]


def _check(config: TrainConfig, session: Session) -> None:
    cpus, needed = session.cpus(), config.workers * config.cpus_per_worker
    if needed > cpus:
        raise HeadwaterError(
            f"{config.workers} workers of {config.cpus_per_worker:g} CPUs do not fit {cpus} CPUs",
            fix="lower `workers` or `cpus_per_worker`",
        )
    if config.workers * config.gpus_per_worker > session.gpus():
        raise HeadwaterError(
            f"{config.workers} workers of {config.gpus_per_worker:g} GPUs do not fit {session.gpus()} GPUs",
            fix="lower `workers`, or set `gpus_per_worker` to 0 to train on CPUs",
        )
    if config.batch % (config.workers * config.micro_batch):
        raise HeadwaterError(
            f"batch {config.batch} is not a multiple of workers x micro_batch "
            f"({config.workers} x {config.micro_batch})",
            fix="choose a batch that is",
        )


def _worker_loop(arguments: dict[str, Any]) -> None:
    """Runs on every worker."""
    import ray.train
    import torch

    job: TrainJob = arguments["job"]
    config = job.config
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(max(1, int(config.cpus_per_worker)))
    torch.manual_seed(config.seed)
    engine = zero.initialise_engine(
        job.load_model(),
        zero.deepspeed_config(
            config.zero,
            zero.resolve_precision(config.precision),
            micro_batch=config.micro_batch,
            accumulation=config.batch // (config.micro_batch * world_size),
            world_size=world_size,
            clip=config.clip if config.optimizer == "adamw" else 0.0,
        ),
        optimizer=config.optimizer,
        weight_decay=config.weight_decay,
        betas=config.betas,
    )
    worker = Worker(rank, world_size, engine, engine.device)
    start = _restore(worker)
    if rank == 0:
        job.board.report.remote(start, resumed=start)
    job.source.open(worker)
    for step in range(start, config.steps):
        record = _step(job, worker, step)
        last = step + 1 == config.steps
        if job.evaluate and (last or (step + 1) % config.evaluate_every == 0):
            engine.module.eval()
            record |= job.evaluate(worker)
            engine.module.train()
        worker.history.append(record)
        if rank == 0:
            job.board.report.remote(step + 1, f"loss {record['loss']:.3f}")
        if not last and (step + 1) % config.checkpoint_every == 0:
            _checkpoint(worker, record)
    _export(job, worker)


def _step(job: TrainJob, worker: Worker, step: int) -> dict[str, float]:
    """One optimizer step on this rank's share of the global batch; the record is equal on all ranks."""
    config, engine = job.config, worker.engine
    started = time.perf_counter()
    arrays = job.source.batch(step)
    waited = time.perf_counter() - started
    micro_batches = _split(arrays, config.micro_batch, worker.device)
    (weight,) = worker.total([sum(job.objective.weight(micro) for micro in micro_batches)])
    if weight == 0:
        raise HeadwaterError("no token or pair of this batch has a say in the loss", where=f"step {step}")
    share = learning_rate(
        step,
        config.steps,
        1.0,
        warmup_share=config.warmup_share,
        decay_share=config.decay_share,
        shape=config.schedule,
    )
    zero.set_learning_rate(engine, config.learning_rate * share, config.muon_learning_rate * share)
    sums: dict[str, float] = {"loss": 0.0}
    for micro in micro_batches:
        loss, extra = job.objective.loss_sum(engine, micro)
        # DeepSpeed averages over ranks and accumulation steps; this turns the mean back into sum / weight.
        engine.backward(loss * (worker.world_size * len(micro_batches) / weight))
        engine.step()
        for name, value in {"loss": loss, **extra}.items():
            sums[name] = sums.get(name, 0.0) + float(value.detach())
    names = sorted(sums)
    tokens = sum(arrays[name].size for name in ("ids", "chosen", "rejected") if name in arrays)
    *totals, all_tokens = worker.total([*(sums[name] for name in names), float(tokens)])
    record = {name: total / weight for name, total in zip(names, totals, strict=True)}
    if not math.isfinite(record["loss"]):
        raise HeadwaterError(
            f"the loss is {record['loss']}", where=f"{job.label} step {step}", fix="lower `learning_rate`"
        )
    seconds = time.perf_counter() - started
    return {
        "step": step,
        **record,
        "learning_rate": config.learning_rate * share,
        "gradient_norm": float(engine.get_global_grad_norm() or 0.0),
        "tokens_per_second": all_tokens / seconds,
        "seconds": seconds,
        "data_wait": waited,
        **job.source.metrics(),
    }


def _split(arrays: dict[str, np.ndarray], size: int, device: torch.device) -> list[Batch]:
    import torch

    rows = len(next(iter(arrays.values())))
    return [
        {name: torch.from_numpy(array[i : i + size]).to(device) for name, array in arrays.items()}
        for i in range(0, rows, size)
    ]


def _restore(worker: Worker) -> int:
    """Load the last checkpoint, if there is one; returns the step to go on with."""
    import ray.train

    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return 0
    with checkpoint.as_directory() as folder:
        state = zero.load_state(worker.engine, Path(folder))
    worker.history = state["history"]
    return int(state["step"])


def _checkpoint(worker: Worker, record: dict[str, float]) -> None:
    """Every rank adds its shard; Ray Train keeps the checkpoint only when all have arrived."""
    import ray.train

    with tempfile.TemporaryDirectory(prefix="headwater-checkpoint-") as folder:
        zero.save_state(
            worker.engine, Path(folder), {"step": int(record["step"]) + 1, "history": worker.history}
        )
        ray.train.report(dict(record), checkpoint=ray.train.Checkpoint.from_directory(folder))


def _export(job: TrainJob, worker: Worker) -> None:
    """Rank 0 writes the Hugging Face folder and the history; the others wait for the barrier inside."""
    import ray.train
    import torch.distributed as dist

    with zero.gathered(worker.engine) as module:
        if worker.rank == 0:
            with job.output.create_folder("model") as folder:
                module.save_pretrained(folder)
                save_tokenizer(load_tokenizer(job.tokenizer.local()), folder)
            lines = "".join(json.dumps(record) + "\n" for record in worker.history)
            job.output.write_bytes(HISTORY, lines.encode())
    if dist.is_initialized():
        dist.barrier()
    ray.train.report({"done": True})


def summary(history: list[dict[str, float]]) -> dict[str, float]:
    """What the manifest keeps of a history."""
    speeds = sorted(record["tokens_per_second"] for record in history)
    return {
        "steps": len(history),
        "first_loss": history[0]["loss"],
        "final_loss": history[-1]["loss"],
        "median_tokens_per_second": speeds[len(speeds) // 2],
    }
