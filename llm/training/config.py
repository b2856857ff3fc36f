"""Settings shared by all training stages, and the checks before a run starts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from headwater.cluster.runtime.needs import Actors, Need, nodes, refuse_too_large
from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import StageConfig, unkeyed
from headwater.llm.hardware.precision import Precision
from headwater.llm.model.adapters import LoraConfig
from headwater.llm.training.telemetry.profile import ProfileConfig
from headwater.llm.training.telemetry.records import TrackConfig, check_packages
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
        "gc_every",
        "profile",
        "max_failures",
    }
)
"""Settings of TrainConfig that do not change what is trained: a run may resume with other values."""


OFF_FIELDS = frozenset(
    {
        "z_loss",
        "ema_decay",
        "lora",
        "fp16",
        "embedding_learning_rate",
        "muon_momentum",
        "final_share",
    }
)
"""Settings of training stages that have no effect at their default (`Stage.off_fields`)."""


Decay = Annotated[float, Field(ge=0, lt=1)]


class MomentumSchedule(StageConfig):
    """Muon's momentum rises to `muon_momentum` in the first steps and falls in the last."""

    start: Decay = 0.85
    """Momentum of the first step."""
    warmup: int = Field(300, ge=0)
    """Steps of the linear rise; 0: none. A shorter run ends before the rise does."""
    end: Decay = 0.85
    """Momentum after the last step."""
    cooldown: int = Field(0, ge=0)
    """Steps of the linear fall, at the end; 0: none (modded-nanogpt: 50)."""


class TrainConfig(StageConfig):
    """Settings that every training stage shares."""

    steps: int = Field(100, ge=1)
    """Number of optimizer steps."""
    batch: int = Field(16, ge=1)
    """Sequences per step, over all workers."""
    micro_batch: int = Field(8, ge=1)
    """Maximum sequences per forward pass of a worker; the rest of its share is gradient accumulation. Lower
    it when memory runs out."""
    workers: int = Field(2, ge=1)
    """Number of training workers."""
    min_workers: int | None = Field(None, ge=1)
    """Elastic training: after losing hosts a run resumes with as few workers as this, and grows again when
    hosts return. Default: wait until there is room for all `workers`."""
    resize_interval_s: float = Field(60.0, gt=0)
    """Elastic training: seconds between checks for hosts that have (re)joined the cluster. Growing costs a
    restart from the last checkpoint."""
    collective_timeout_s: int = Field(600, ge=1)
    """Timeout in seconds of one exchange of gradients or parameters; after it the group restarts. Set it
    above the slowest step of any rank: shorter detects broken connections and hung workers sooner."""
    cpus_per_worker: float = Field(1.0, gt=0)
    """CPUs reserved per worker; also its number of compute threads."""
    gpus_per_worker: float = Field(0.0, ge=0)
    """GPUs reserved per worker: 1 trains on CUDA with NCCL, 0 on the CPU with gloo."""
    zero: ZeroConfig = ZeroConfig()
    """Sharding and offload of training state (DeepSpeed ZeRO)."""
    precision: Precision = "auto"
    """Number format of the model. `auto`: bf16 if native on the hardware, fp16 on older GPUs, else fp32."""
    fp16: Fp16Config = Fp16Config()
    """Loss scaling, with `precision: fp16` only."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass instead of storing them: about a third more compute for
    activation memory that hardly grows with depth."""
    torch_compile: bool = False
    """Compile the model with torch.compile (needs a C++ compiler on CPUs, Triton on GPUs): faster steps after
    a first one of a minute or more."""
    optimizer: Optimizer = "adamw"
    """`adamw` for all weights, or `muon` for the hidden matrices with AdamW for the rest."""
    learning_rate: float = Field(3e-3, gt=0)
    """Peak learning rate of AdamW."""
    embedding_learning_rate: float | None = Field(None, gt=0)
    """Peak learning rate of AdamW for the input embeddings. Default: `learning_rate`. Each row is updated
    only when its token occurs, so a much higher rate is stable (nanochat: 0.3)."""
    muon_learning_rate: float = Field(0.02, gt=0)
    """Peak learning rate of Muon, in units of an update's spectral norm."""
    muon_momentum: float = Field(default=0.95, ge=0, lt=1)
    """Momentum of Muon: averages over about 1 / (1 - momentum) gradients. Runs of a few hundred steps learn
    faster with 0.85 (docs/log.md)."""
    muon_momentum_schedule: MomentumSchedule | None = Field(None, exclude_if=unkeyed(None))
    """Lower momentum in the first and last steps. Default: the same at each step."""
    warmup_share: float = Field(0.05, ge=0, le=1)
    """Share of the steps in which the learning rate rises linearly to its peak."""
    decay_share: float = Field(0.4, ge=0, le=1)
    """Share of the steps, at the end, in which `wsd` lowers the learning rate."""
    final_share: float = Field(default=0.1, ge=0, le=1)
    """Final learning rate as a share of the peak."""
    schedule: Literal["wsd", "cosine", "constant"] = "wsd"
    """Learning rate after warmup: `wsd` stays at the peak, then decays linearly; `cosine` decays from the
    start; `constant` never decays."""
    weight_decay: float = Field(0.1, ge=0)
    """Decoupled weight decay of the matrices; vectors do not decay."""
    weight_decay_schedule: Literal["constant", "linear", "learning_rate"] = Field(
        "constant", exclude_if=unkeyed("constant")
    )
    """`linear` lowers the weight decay to 0 over all steps; `learning_rate` makes it proportional to the
    learning rate. A step shrinks a matrix by learning rate × weight decay in each case."""
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    """AdamW's decay rates of the first and second moment."""
    clip: float = Field(1.0, ge=0)
    """Maximum global gradient norm for AdamW; larger gradients are scaled down; 0 never clips.
    Muon does not clip."""
    ema_decay: float | None = Field(None, gt=0, lt=1)
    """Export an exponential moving average of the weights with this decay per step (such as 0.999) instead of
    the final weights."""
    seed: int = Field(0, ge=0)
    """Seed of initialisation, batch order and sampling."""
    checkpoint_every: int = Field(50, ge=1)
    """Steps between checkpoints: the most work that a failure can lose."""
    keep_checkpoints: int = Field(2, ge=1)
    """Number of newest checkpoints kept during training; all are deleted when the stage finishes."""
    keep_best: bool = False
    """Also keep the checkpoint with the best evaluation, and export it as `best/` next to `model/`."""
    background_checkpoints: bool = True
    """Write checkpoints while training continues. Needs host memory for a second copy of the worker's
    training state; without it training pauses while a checkpoint is written."""
    on_nan: Literal["stop", "skip", "rollback"] = "stop"
    """What to do when a loss or gradient norm is not finite; its update is never applied. `skip` continues
    with the next step; `rollback` resumes from the last checkpoint and omits the step."""
    nan_limit: int = Field(5, ge=0)
    """Stop the run after more such steps in a row, or more rollbacks to one checkpoint, than this."""
    track: TrackConfig = TrackConfig()
    """Where to send metrics: TensorBoard, Weights & Biases, MLflow."""
    gc_every: int = Field(50, ge=0)
    """Steps between runs of Python's garbage collector, which is off in between: left alone it stops each
    rank at another moment while the others wait (torchtitan's default). 0 leaves it alone."""
    profile: ProfileConfig | None = None
    """Steps to trace, such as `{first: 100, steps: 5}`: a Chrome trace for each rank in the artifact's folder
    `profile/`."""
    evaluate_every: int = Field(50, ge=1)
    """Steps between evaluations."""
    max_failures: int = Field(3, ge=0)
    """Restarts from the last checkpoint after lost workers or hosts, before the run fails."""

    @model_validator(mode="after")
    def _possible(self) -> TrainConfig:
        if self.fewest_workers() > self.workers:
            raise ValueError(
                f"`min_workers` is {self.min_workers} with {self.workers} workers: choose at most `workers`"
            )
        if self.batch < self.workers:
            raise ValueError(
                f"a `batch` of {self.batch} sequences is too small for {self.workers} workers: raise `batch` "
                "or lower `workers`"
            )
        fault = self.zero.fault_with(
            workers=self.workers,
            elastic=self.min_workers is not None,
            gpus=self.gpus_per_worker,
            optimizer=self.optimizer,
            sharing_layers=self.tensor_parallel_size() > 1,
        )
        if fault:
            raise ValueError(fault)
        if self.schedule == "wsd" and self.warmup_share + self.decay_share > 1 + 1e-9:
            raise ValueError(
                f"`warmup_share` ({self.warmup_share:g}) and `decay_share` ({self.decay_share:g}) add up to "
                "more than 1"
            )
        if self.muon_momentum_schedule and self.optimizer != "muon":
            raise ValueError(
                "`muon_momentum_schedule` has no effect with `optimizer: adamw`: choose `muon` or remove it"
            )
        return self

    def resumable(self, step: int) -> bool:
        """Whether training can go on from a checkpoint after so many steps; else it waits for a later one."""
        return True

    def learners(self) -> Actors:
        """The training workers of a stage; fewer if it is elastic."""
        keys = ("workers", "gpus_per_worker") if self.gpus_per_worker else ("workers", "cpus_per_worker")
        each = Need(self.cpus_per_worker, self.gpus_per_worker)
        return Actors("training workers", self.fewest_workers(), each, keys, self.workers)

    def fewest_workers(self) -> int:
        """The number of workers that the cluster must have room for."""
        return self.workers if self.min_workers is None else self.min_workers

    def workers_per_row(self) -> int:
        """Number of workers that share each sequence."""
        return self.sequence_parallel_size() * self.tensor_parallel_size()

    def sequence_parallel_size(self) -> int:
        """Number of stretches that a sequence is cut into, one per worker."""
        return 1

    def tensor_parallel_size(self) -> int:
        """Number of workers that share every layer, and compute the same stretch."""
        return 1

    def rows(self, step: int) -> int:
        """Sequences of a step, over all workers."""
        return self.batch

    def largest_batch(self) -> int:
        """Sequences of the largest step."""
        return self.batch

    def accumulation(self, world_size: int, step: int | None = None) -> int:
        """Micro-batches of a step on every worker, set by the largest share of the batch. Default: of the
        largest step."""
        rows = self.largest_batch() if step is None else self.rows(step)
        largest_share = -(-rows // (world_size // self.workers_per_row()))
        return -(-largest_share // self.micro_batch)


class FineTuneConfig(TrainConfig):
    """Settings of a stage that starts from a trained model."""

    lora: LoraConfig | None = None
    """Train low-rank adapters next to frozen weights. Default: train all weights."""


def check(config: TrainConfig, session: Session) -> None:
    """Raises HeadwaterError for settings that cannot run, before anything starts."""
    check_packages(config.track)
    refuse_too_large("", [config.learners()], *nodes(session, gpus=bool(config.gpus_per_worker)))
