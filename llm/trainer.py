"""The one training loop: Ray Train places and restarts the workers, DeepSpeed shards the state.

What differs between pretraining, fine-tuning, the reward model and the RL learner is an
objective (`llm/objectives.py`) and a batch source. The batch of a step is a function of the seed
and the step alone, the learning rate of the step alone: a checkpoint is weights, optimizer state
and a step number, and a run goes on from it, on as many workers as there are, as if it had not stopped.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cluster.artifact import SCRATCH, Artifact, Folder
from cluster.errors import HeadwaterError
from cluster.filesystem import filesystem
from cluster.logs import Context
from cluster.session import Session
from data_pipeline.tokenizer import load_tokenizer, save_tokenizer
from llm import checkpoint, lora, training_engine, zero
from llm.objectives import Batch, Objective
from llm.schedule import learning_rate
from llm.train_config import TrainConfig, check

if TYPE_CHECKING:
    import numpy as np
    import torch

HISTORY = "metrics.jsonl"


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
            return {name: p.cpu().numpy().copy() for name, p in lora.whole_weights(module).items()}


def train(job: TrainJob, session: Session) -> list[dict[str, float]]:
    """Run a job to its end, from its last checkpoint if there is one; returns the steps' records.

    Writes `model/` (a Hugging Face folder) and `metrics.jsonl` to the job's output.
    Raises HeadwaterError when the cluster is too small or training fails for good.
    """
    if job.output.exists("model/config.json") and job.output.exists(HISTORY):
        return read_history(job.output)
    config = job.config
    check(config, session)
    import ray
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    from llm.failures import Witness, final_error
    from llm.process_group import ProcessGroupConfig

    fs, path = filesystem(job.output.path(f"{SCRATCH}/train"))
    workers = config.workers if config.min_workers is None else (config.min_workers, config.workers)
    resources = {"CPU": config.cpus_per_worker}
    if config.gpus_per_worker:
        resources["GPU"] = config.gpus_per_worker
    with session.remote_progress(job.label, config.steps, "steps") as job.board:
        trainer = TorchTrainer(
            _worker_loop,
            train_loop_config={"job": job, "context": Context.here()},
            torch_config=ProcessGroupConfig(
                backend="nccl" if config.gpus_per_worker else "gloo", timeout_s=config.collective_timeout_s
            ),
            scaling_config=ScalingConfig(  # type: ignore[call-arg]  # typed as in the API before this one
                num_workers=workers,  # type: ignore[arg-type]
                elastic_resize_monitor_interval_s=config.resize_interval_s,
                use_gpu=bool(config.gpus_per_worker),
                resources_per_worker=resources,
            ),
            run_config=RunConfig(
                name="run",
                storage_path=path,
                storage_filesystem=fs,
                failure_config=FailureConfig(max_failures=config.max_failures),
                checkpoint_config=CheckpointConfig(num_to_keep=2),
                callbacks=[Witness(job.label, config, job.board)],  # type: ignore[list-item]
            ),
        )
        try:
            trainer.fit()
        except SystemExit as error:  # how Ray Train leaves after Ctrl-C, with 0
            raise KeyboardInterrupt from error
        except TrainingFailedError as error:
            said = ray.get(job.board.lines.remote())
            final = final_error(error, said[-1] if said else "", config)
            if final is error:
                raise
            raise final from None
    return read_history(job.output)


def read_history(output: Artifact) -> list[dict[str, float]]:
    """One record a step: loss, learning rate, gradient norm, tokens a second, evaluations."""
    return [json.loads(line) for line in output.read_bytes(HISTORY).splitlines()]


def _worker_loop(arguments: dict[str, Any]) -> None:
    """Runs on every worker."""
    import ray.train
    import torch

    from llm.process_group import limit_waiting

    arguments["context"].enter()
    job: TrainJob = arguments["job"]
    config = job.config
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(max(1, int(config.cpus_per_worker)))
    torch.manual_seed(config.seed)
    engine = training_engine.build(job.load_model(), config, world_size)
    limit_waiting(engine, config.collective_timeout_s)
    worker = Worker(rank, world_size, engine, engine.device)
    start = _restore(worker)
    ray.train.report({"joined": {"host": ray.util.get_node_ip_address(), "node": _node_id()}, "step": start})
    if rank == 0:
        job.board.report.remote(start, resumed=start)
    job.source.open(worker)
    for step in range(start, config.steps):
        record = train_step(job, worker, step)
        last = step + 1 == config.steps
        if last and config.ema_decay is not None:
            engine.average.install()
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


def train_step(job: TrainJob, worker: Worker, step: int) -> dict[str, float]:
    """One optimizer step on this rank's share of the global batch; the record is equal on all ranks."""
    config, engine = job.config, worker.engine
    started = time.perf_counter()
    arrays = job.source.batch(step)
    waited = time.perf_counter() - started
    micro_batches = _split(arrays, config.accumulation(worker.world_size), worker.device)
    (weight,) = worker.total([sum(job.objective.weight(micro) for micro, counts in micro_batches if counts)])
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
    for micro, counts in micro_batches:
        loss, extra = job.objective.loss_sum(engine, micro)
        # DeepSpeed averages over ranks and accumulation steps; this turns the mean back into sum / weight.
        engine.backward(loss * (counts * engine.gradient_divisor * len(micro_batches) / weight))
        engine.step()
        for name, value in {"loss": loss, **extra}.items():
            sums[name] = sums.get(name, 0.0) + counts * float(value.detach())
    if config.ema_decay is not None:
        engine.average.update(step)
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


def _split(arrays: dict[str, np.ndarray], pieces: int, device: torch.device) -> list[tuple[Batch, bool]]:
    """A worker's rows in as many even micro-batches as every rank has, and whether each of them counts.

    All ranks must make the same number of passes (they exchange parameters and gradients in each). One
    that has a row fewer than it has passes makes one over a row that it has had, which counts nothing.
    """
    import numpy as np
    import torch

    rows = np.arange(len(next(iter(arrays.values()))))
    micro_batches = []
    for part in np.array_split(rows, pieces):
        chosen = part if part.size else rows[:1]
        micro = {name: torch.from_numpy(array[chosen]).to(device) for name, array in arrays.items()}
        micro_batches.append((micro, bool(part.size)))
    return micro_batches


def _node_id() -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id())


def _restore(worker: Worker) -> int:
    """Load the last checkpoint, if there is one; returns the step to go on with."""
    import ray.train

    stored = ray.train.get_checkpoint()
    if stored is None:
        return 0
    with stored.as_directory() as folder:
        state = checkpoint.load(worker.engine, Path(folder))
    worker.history = state["history"]
    return int(state["step"])


def _checkpoint(worker: Worker, record: dict[str, float]) -> None:
    """Every rank adds its shard; Ray Train keeps the checkpoint only when all have arrived."""
    import ray.train

    with tempfile.TemporaryDirectory(prefix="headwater-checkpoint-") as folder:
        state = {"step": int(record["step"]) + 1, "history": worker.history}
        checkpoint.save(worker.engine, Path(folder), state)
        ray.train.report(dict(record), checkpoint=ray.train.Checkpoint.from_directory(folder))


def _export(job: TrainJob, worker: Worker) -> None:
    """Rank 0 writes the Hugging Face folder and the history; the others wait in Ray Train's report.

    That may last longer than an exchange between ranks: there is no time limit on it.
    """
    import ray.train

    with zero.gathered(worker.engine) as module:
        if worker.rank == 0:
            with job.output.create_folder("model") as folder:
                if lora.is_adapted(module):
                    lora.save_merged(module, Path(folder))
                else:
                    module.save_pretrained(folder)
                save_tokenizer(load_tokenizer(job.tokenizer.local()), folder)
            lines = "".join(json.dumps(record) + "\n" for record in worker.history)
            job.output.write_bytes(HISTORY, lines.encode())
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
