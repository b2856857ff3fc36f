"""The settings that every training stage shares, and what they must be for a run to start."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import StageConfig
from headwater.llm.hardware.precision import Precision
from headwater.llm.model.adapters import LoraConfig
from headwater.llm.training.records import TrackConfig, check_packages
from headwater.llm.training.zero_config import Fp16Config, Optimizer, ZeroConfig

RUNTIME_FIELDS = frozenset(
    {
        "micro_batch",
        "workers",
        "min_workers",
        "resize_interval_s",
        "collective_timeout_s",
        "cpus_per_worker",
        "zero",
        "activation_checkpointing",
        "sequence_parallel",
        "tensor_parallel",
        "torch_compile",
        "checkpoint_every",
        "keep_checkpoints",
        "keep_best",
        "background_checkpoints",
        "on_nan",
        "nan_limit",
        "track",
        "max_failures",
    }
)
"""Settings of TrainConfig that do not change what is trained: a run may go on with others."""


OFF_FIELDS = frozenset(
    {"z_loss", "ema_decay", "lora", "fp16", "embedding_learning_rate", "muon_momentum", "final_share"}
)
"""Settings of training stages that do nothing at their default (`Stage.off_fields`)."""


class TrainConfig(StageConfig):
    """Settings that every training stage shares."""

    steps: int = 100
    batch: int = 16
    """Sequences of one step, over all workers."""
    micro_batch: int = 8
    """Most sequences that a worker passes through the model at once; the rest is gradient accumulation."""
    workers: int = 2
    min_workers: int | None = None
    """Elastic training: a run that loses hosts goes on with as few workers as this, and takes hosts back
    when they return. Without it a run waits until there is room for all `workers` again."""
    resize_interval_s: float = 60.0
    """Elastic training: seconds between two looks for hosts that have (re)joined the cluster. Taking
    them in costs a restart from the last checkpoint."""
    collective_timeout_s: int = 600
    """Seconds that a worker waits for the others in one exchange of gradients or parameters before it
    gives up and the group is restarted: how long a connection may be cut, or a worker stand still, while
    Ray still sees every host. Longer than the slowest step of a rank that others wait for."""
    cpus_per_worker: float = 1.0
    gpus_per_worker: float = 0.0
    """1 on GPU nodes: workers then train on CUDA over NCCL, else on the CPU over gloo."""
    zero: ZeroConfig = ZeroConfig()
    precision: Precision = "auto"
    fp16: Fp16Config = Fp16Config()
    activation_checkpointing: bool = False
    """Keep only the layers' inputs for the backward pass and compute the rest again: a third more work, and
    memory for activations that hardly grows with depth."""
    torch_compile: bool = False
    """Compile the model with torch's inductor (needs a C++ compiler on CPUs, Triton on GPUs): faster steps
    after a first one of a minute or more."""
    optimizer: Optimizer = "adamw"
    """`muon` for the hidden matrices with AdamW for the rest, or `adamw` for all."""
    learning_rate: float = 3e-3
    """AdamW's peak rate."""
    embedding_learning_rate: float | None = None
    """AdamW's peak rate for the input embeddings, `learning_rate` unless given. A row of them moves only when
    its token occurs, and is in no product of matrices: it bears a far higher rate (nanochat: 0.3)."""
    muon_learning_rate: float = 0.02
    """Muon's peak rate, in units of the spectral norm of an update."""
    muon_momentum: float = Field(default=0.95, ge=0, lt=1)
    """Share of Muon's momentum that a step leaves: it averages over some 1 / (1 - share) gradients. Runs of a
    few hundred steps learn faster with 0.85 (docs/log.md)."""
    warmup_share: float = 0.05
    decay_share: float = 0.4
    final_share: float = Field(default=0.1, ge=0, le=1)
    """What the rates have fallen to at the end, as a share of the peak."""
    schedule: Literal["wsd", "cosine", "constant"] = "wsd"
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    """Largest global gradient norm (AdamW; Muon's updates have a norm of their own)."""
    ema_decay: float | None = Field(None, gt=0, lt=1)
    """Export a moving average of the weights with this decay a step (0.999, say) instead of the last ones."""
    seed: int = 0
    checkpoint_every: int = 50
    """Steps between checkpoints: at most so many are lost when a process dies."""
    keep_checkpoints: int = Field(2, ge=1)
    """The newest so many are kept while training goes on; none once the stage has finished."""
    keep_best: bool = False
    """Keep the checkpoint with the best evaluation too, and export it as `best/` at the end beside the last
    one, which is `model/`."""
    background_checkpoints: bool = True
    """Write checkpoints beside training. Costs a second copy of this worker's training state in host memory
    while one is written; off, training stands still meanwhile."""
    on_nan: Literal["stop", "skip", "rollback"] = "stop"
    """What to do when a loss or gradient norm is not finite. No update is made with it in any case: `skip`
    goes on with the next step, `rollback` from the last checkpoint, leaving that step out on the way."""
    nan_limit: int = 5
    """Such steps in a row, or returns to one checkpoint, beyond which the run stops all the same."""
    track: TrackConfig = TrackConfig()
    evaluate_every: int = 50
    max_failures: int = 3
    """Losses of workers or hosts that are answered by a restart from the last checkpoint."""

    def fewest_workers(self) -> int:
        """What the cluster must have room for."""
        return self.workers if self.min_workers is None else self.min_workers

    def workers_per_row(self) -> int:
        """How many workers share every sequence."""
        return self.sequence_parallel_size() * self.tensor_parallel_size()

    def sequence_parallel_size(self) -> int:
        """Into how many stretches they cut it."""
        return 1

    def tensor_parallel_size(self) -> int:
        """How many of them have the same stretch, and share every layer."""
        return 1

    def accumulation(self, world_size: int) -> int:
        """Micro-batches of a step on every worker, set by the largest share of the batch."""
        largest_share = -(-self.batch // (world_size // self.workers_per_row()))
        return -(-largest_share // self.micro_batch)


class FineTuneConfig(TrainConfig):
    """Settings of a stage that goes on from a model which was trained before."""

    lora: LoraConfig | None = None
    """Train low-rank adapters beside the frozen weights; without this section all weights are trained."""


def check(config: TrainConfig, session: Session) -> None:
    """Raises HeadwaterError for settings that cannot run, before anything is started."""
    if not 1 <= config.fewest_workers() <= config.workers:
        raise HeadwaterError(
            f"min_workers {config.min_workers} with {config.workers} workers",
            fix="choose 1 ≤ `min_workers` ≤ `workers`",
        )
    if config.batch < config.workers:
        raise HeadwaterError(
            f"a batch of {config.batch} sequences leaves some of {config.workers} workers without one",
            fix="raise `batch` or lower `workers`",
        )
    check_packages(config.track)
    if session.grows:  # nodes come when they are asked for; what is missing is said while waiting
        return
    workers, cpus = config.fewest_workers(), session.cpus()
    if workers * config.cpus_per_worker > cpus:
        raise HeadwaterError(
            f"{workers} workers of {config.cpus_per_worker:g} CPUs do not fit {cpus} CPUs",
            fix="lower `workers` or `cpus_per_worker`",
        )
    if workers * config.gpus_per_worker > session.gpus():
        raise HeadwaterError(
            f"{workers} workers of {config.gpus_per_worker:g} GPUs do not fit {session.gpus()} GPUs",
            fix="lower `workers`, or set `gpus_per_worker` to 0 to train on CPUs",
        )
