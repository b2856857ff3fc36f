"""The training loop of all stages: Ray Train places and restarts workers, DeepSpeed shards the state.

Pretraining, fine-tuning, the reward model and the RL learner differ in an objective
(`llm/training/losses/objectives.py`) and a batch source. The batch of a step depends only on seed and step,
the learning rate only on the step. A checkpoint is therefore weights, optimizer state and a step number, and
a run resumes from it on any number of workers as if it had not stopped.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.logs import Context
from headwater.cluster.runtime.session import Session
from headwater.cluster.storage.artifact import SCRATCH
from headwater.cluster.storage.filesystem import filesystem
from headwater.llm.hardware.peak import peak
from headwater.llm.hardware.precision import resolve_precision
from headwater.llm.training import engine as training_engine
from headwater.llm.training import zero
from headwater.llm.training.config import check
from headwater.llm.training.exchange import MAXIMUM, Exchange
from headwater.llm.training.export import DONE
from headwater.llm.training.export import export as export
from headwater.llm.training.health import nan_guard
from headwater.llm.training.health.nan_guard import NotFinite
from headwater.llm.training.health.pauses import collected_every
from headwater.llm.training.health.preemption import Notice
from headwater.llm.training.health.stragglers import Pace, Stopwatch
from headwater.llm.training.health.watchdog import SHARE_OF_TIMEOUT, Watchdog
from headwater.llm.training.job import BatchSource as BatchSource
from headwater.llm.training.job import StopTraining, TrainJob, Worker, to_device
from headwater.llm.training.losses.objectives import Batch
from headwater.llm.training.schedule import muon_momentum, share_of_peak, weight_decay
from headwater.llm.training.state.average import averaged
from headwater.llm.training.state.manager import Checkpoints, due, score_of
from headwater.llm.training.telemetry.goodput import note_beginning
from headwater.llm.training.telemetry.profile import Profile
from headwater.llm.training.telemetry.records import Recorder, RunRecorder, read_history
from headwater.llm.training.telemetry.records import summary as summary

if TYPE_CHECKING:
    import numpy as np
    import torch
    from ray.train.torch import TorchTrainer

LOOK_EVERY = ("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
"""Poll interval of the Ray Train controller, in seconds; Ray's default is 2."""
KEEP_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
}
"""glibc settings for workers that keep a step's memory for the next step. By default it is returned to the
system and page-faulted in again: 25,000 faults in a step of 0.8 s, a twentieth of its time."""


def train(job: TrainJob, session: Session) -> list[dict[str, float]]:
    """Run a job to its end, resuming from its last checkpoint if there is one; returns one record per step.

    Writes `model/` (a Hugging Face folder) and `metrics.jsonl` to the job's output.
    Raises HeadwaterError if the cluster is too small or training fails for good.
    """
    if job.output.exists(DONE):
        return read_history(job.output)
    config = job.config
    check(config, session)
    if config.keep_best and job.judged_by is None:
        raise HeadwaterError(
            f"{job.label} has no evaluation that ranks checkpoints",
            where="keep_best",
            fix="remove `keep_best`",
        )
    note_beginning(job.output, 0 if job.start is None else job.start.step)
    os.environ.setdefault(*LOOK_EVERY)
    with session.remote_progress(job.label, config.steps, "steps") as job.board:
        result = _fit(job, session)
    reason = getattr(result, "return_value", None)  # the type annotation is that of Ray's old API
    if isinstance(reason, StopTraining):
        raise reason
    return read_history(job.output)


def _fit(job: TrainJob, session: Session) -> Any:
    """Ray Train's result. If a worker dies while its group starts, the start is retried."""
    import ray
    from ray.train import TrainingFailedError

    from headwater.llm.training.health.failures import final_error, lost_at_start

    lost = 0
    while True:
        try:
            return _trainer(job).fit()
        except SystemExit as error:  # Ray Train exits with 0 after Ctrl-C
            raise KeyboardInterrupt from error
        except TrainingFailedError as error:
            if lost_at_start(error) and lost < job.config.max_failures:
                lost += 1
                session.say(f"{job.label}: a worker died while its group started; retrying")
                continue
            said = ray.get(job.board.lines.remote())
            final = final_error(error, said[-1] if said else "", job.config)
            if final is error:
                raise
            raise final from None


def _trainer(job: TrainJob) -> TorchTrainer:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from headwater.llm.training.health.failures import FailureReporter
    from headwater.llm.training.process_group import ProcessGroupConfig

    config = job.config
    fs, path = filesystem(job.output.path(f"{SCRATCH}/train"))
    workers = config.workers if config.min_workers is None else (config.min_workers, config.workers)
    resources = {"CPU": config.cpus_per_worker}
    if config.gpus_per_worker:
        resources["GPU"] = config.gpus_per_worker
    return TorchTrainer(
        _worker_loop,  # type: ignore[arg-type]  # it may return something
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
        run_config=RunConfig(  # type: ignore[call-arg]  # typed as in the API before this one
            name="run",
            storage_path=path,
            storage_filesystem=fs,
            worker_runtime_env={"env_vars": KEEP_MEMORY},
            failure_config=FailureConfig(max_failures=config.max_failures),
            callbacks=[FailureReporter(job.label, config, job.board)],  # type: ignore[list-item]
        ),
    )


def _worker_loop(arguments: dict[str, Any]) -> StopTraining | None:
    """Runs on every worker. Returns the reason if it stopped for good before the last step."""
    import ray.train
    import torch

    from headwater.llm.training.health.failures import cause_first
    from headwater.llm.training.process_group import limit_waiting

    arguments["context"].enter()
    job: TrainJob = arguments["job"]
    config = job.config
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(max(1, int(config.cpus_per_worker)))
    torch.manual_seed(config.seed)
    engine = training_engine.build(job.load_model(), config, world_size, fill=False)
    limit_waiting(engine, config.collective_timeout_s)
    worker = Worker(rank, world_size, engine, engine.device, copies=config.tensor_parallel_size())
    worker.say = lambda line: job.board.say.remote(f"{job.label}: {line}")
    if rank == 0 and (skipped := training_engine.skipped_adapters(engine.module, config)):
        worker.say(skipped)
    (worker.peak,) = worker.total(
        [peak(resolve_precision(config.precision, config.gpus_per_worker), engine.device)]
    )
    checkpoints = Checkpoints(job, worker)
    start = checkpoints.restore()
    host = ray.util.get_node_ip_address()
    node = str(ray.get_runtime_context().get_node_id())
    ray.train.report({"joined": {"host": host, "node": node}, "step": start})
    # A second report waits until Ray Train has processed the first: by then it knows each rank's host.
    ray.train.report({"waited": True})
    if rank == 0:
        job.board.report.remote(start, resumed=start)
    job.source.open(worker)
    with (
        Watchdog(worker, job.output, SHARE_OF_TIMEOUT * config.collective_timeout_s) as watchdog,
        cause_first(),
    ):
        try:
            run_steps(job, worker, checkpoints, start, watchdog)
        except StopTraining as reason:
            return reason
    export(job, worker, checkpoints, lambda: ray.train.report({"exported": True}))
    checkpoints.close()
    return None


def run_steps(
    job: TrainJob, worker: Worker, checkpoints: Checkpoints, start: int, watchdog: Watchdog
) -> None:
    """Run all steps from `start` on, with evaluations, checkpoints and records. Same on every rank."""
    config, engine = job.config, worker.engine
    trouble, notice, pace = NotFinite(job, worker), Notice(), Pace()
    worker.tell = lambda: (notice.told(), checkpoints.landed())
    step, wanted, warning = start, False, ""
    recorder = Recorder()  # discards records
    if worker.rank == 0:
        recorder = RunRecorder(job.output, config.track, job.label, worker.history, job.board)
    profile = Profile(config.profile, job.output, worker.rank, worker.device)
    with recorder, collected_every(config.gc_every) as collect:
        watchdog.beat(step)
        while step < config.steps:
            collect(step)
            profile.at(step)
            if step in trouble.passed_over:
                record = trouble.passed_over[step]
            else:
                record = train_step(job, worker, step)
                own_seconds, told, landed = zip(*worker.heard, strict=True)
                checkpoints.note_landed(landed)
                name_slow(worker, pace.add(own_seconds))
                warning = notice.new(told) or warning
                if "skipped" not in record:
                    trouble.fine()
                elif not (engine.fp16_enabled() and math.isfinite(record["loss"])):  # not an fp16 overflow
                    back = checkpoints.newest() if config.on_nan == "rollback" else None
                    if trouble.met(record, back) and back is not None:
                        step = checkpoints.load(back)
                        watchdog.beat(step)
                        recorder.go_back(worker.history)
                        continue
            step += 1
            watchdog.beat(step)
            if job.evaluate and (step == config.steps or step % config.evaluate_every == 0):
                with averaged(engine) if step == config.steps else contextlib.nullcontext():
                    record |= evaluate(job.evaluate, worker)
                watchdog.beat(step)
            worker.history.append(record)
            recorder.add(record)
            score = score_of(record, job.judged_by)
            wanted = wanted or bool(warning) or due(job, step, worker.history)
            if wanted and (config.resumable(step) or step == config.steps):
                checkpoints.save(step, score=score)
                if warning:
                    checkpoints.settle()
                    if worker.rank == 0:
                        worker.say(f"{warning}: the checkpoint of step {step} is complete")
                wanted, warning = False, ""
        profile.close(step)
        checkpoints.settle()


def evaluate(function: Callable[[Worker], dict[str, float]], worker: Worker) -> dict[str, float]:
    worker.engine.module.eval()
    figures = function(worker)
    worker.engine.module.train()
    return figures


def name_slow(worker: Worker, slow: list[tuple[int, float]]) -> None:
    """Each rank that became slow reports it, with its own host name."""
    import ray

    for rank, times in slow:
        if rank == worker.rank:
            host = ray.util.get_node_ip_address()
            worker.say(f"rank {rank} ({host}) is slow: {times:.1f} × the others' compute time")


def train_step(job: TrainJob, worker: Worker, step: int) -> dict[str, float]:
    """One optimizer step on this rank's share of the global batch; returns the record, equal on all ranks.

    The process waits for its GPU once, when it reads what all ranks have sent. That is after the step, whose
    update a bad loss prevents on the device; with a `job.check` it is before.
    """
    import torch

    config, engine = job.config, worker.engine
    started = time.perf_counter()
    arrays = job.source.batch(step)
    waited = time.perf_counter() - started
    micro_batches = _split(arrays, config.accumulation(worker.world_size, step))
    own_weight = sum(job.objective.weight(micro) for micro, counts in micro_batches if counts)
    weight = worker.totalled([own_weight])[0]
    share = share_of_peak(config, step)
    lookup = config.embedding_learning_rate
    zero.set_learning_rate(
        engine,
        config.learning_rate * share,
        config.muon_learning_rate * share,
        None if lookup is None else lookup * share,
    )
    scheduled: dict[str, float] = {}
    if config.muon_momentum_schedule:
        scheduled["muon_momentum"] = muon_momentum(config, step)
        zero.set_momentum(engine, scheduled["muon_momentum"])
    if config.weight_decay_schedule != "constant":
        scheduled["weight_decay"] = weight_decay(config, step)
        zero.set_weight_decay(engine, scheduled["weight_decay"])
    sums: dict[str, torch.Tensor] = {}
    own = Stopwatch(worker.device, config.zero.stage)
    for number, (held, counts) in enumerate(micro_batches, 1):
        engine.set_gradient_accumulation_boundary(number == len(micro_batches))
        micro = {name: to_device(values, worker.device) for name, values in held.items()}
        with own:
            loss, extra = job.objective.loss_sum(engine, micro)
        for name, value in {"loss": loss, **extra}.items():
            own_value = counts * value.detach().double()
            join = torch.maximum if name.endswith(MAXIMUM) else torch.add
            sums[name] = join(sums[name], own_value) if name in sums else own_value
        scale = counts * engine.gradient_divisor * engine.gradient_accumulation_steps() / weight
        if number == len(micro_batches):
            sent = Exchange(worker, arrays, sums, waited, own_weight)
            if job.check:
                job.check(step, sent.means(step))
            # Poisons the gradient of a batch whose loss is not finite: all ranks refuse the update.
            scale = torch.where(sent.loss().isfinite(), scale, math.nan)
        # DeepSpeed averages over ranks and accumulation steps; this turns the mean back into sum / weight.
        engine.backward(loss * scale.to(loss.dtype))
        if number < len(micro_batches):
            engine.step()
    applied, norm = nan_guard.take_step(engine)
    if applied and config.ema_decay is not None:
        engine.average.update(step)
    means = sent.means(step, norm)
    worker.own_seconds = waited + own.seconds()
    seconds = time.perf_counter() - started
    record = {
        "step": step,
        **means,
        "learning_rate": config.learning_rate * share,
        **scheduled,
        "gradient_norm": sent.norm,
        "tokens_per_second": sent.totals["tokens"] / seconds,
        "seconds": seconds,
        "data_wait": sent.totals["data_wait"],
        "memory_mb": sent.totals["memory_mb"],
        **job.source.metrics(),
    }
    if sent.totals["flops"]:
        record["mfu"] = sent.totals["flops"] / seconds / worker.peak
    return record if applied else record | {"skipped": 1.0}


def _split(arrays: dict[str, np.ndarray], pieces: int) -> list[tuple[Batch, bool]]:
    """A worker's rows in as many even micro-batches as every rank has, and whether each of them counts.

    All ranks must make the same number of passes, because each pass exchanges parameters and gradients. A
    rank with too few rows repeats one of its rows in a pass that counts nothing.
    """
    import numpy as np
    import torch

    rows = np.arange(len(next(iter(arrays.values()))))
    micro_batches = []
    for part in np.array_split(rows, pieces):
        chosen = part if part.size else rows[:1]
        micro = {name: torch.from_numpy(array[chosen]) for name, array in arrays.items()}
        micro_batches.append((micro, bool(part.size)))
    return micro_batches
