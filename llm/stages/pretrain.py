"""The pretrain stage: next-token prediction on packed rows, sharded by ZeRO.

It starts from fresh weights, from the recipe's base model (continued pretraining), or from the training state
of an earlier pretrain artifact (`start_from`): a longer run, a branch, or a change of data on the way.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Protocol

from pydantic import Field, model_validator

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.needs import Moments
from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import Input, Stage, StageConfig, unkeyed
from headwater.cluster.storage.artifact import SCRATCH, Artifact, Folder
from headwater.cluster.storage.store import Store
from headwater.data_pipeline.tokens.shard_files import MOST_OPEN
from headwater.data_pipeline.tokens.shards import TokenRows
from headwater.data_pipeline.tokens.tokenizer import TOKENIZER, tokenizer_of
from headwater.llm.model.build import fresh_model, stored_model
from headwater.llm.model.shape import ModelConfig, shape_of, weights_of
from headwater.llm.rows.mixture import MixtureOrder
from headwater.llm.rows.order import ShuffledOrder
from headwater.llm.rows.sizes import BatchStage, Sizes, Span
from headwater.llm.rows.windows import Windows
from headwater.llm.stages.data.row_batches import RowBatches as RowBatches
from headwater.llm.training import loop
from headwater.llm.training.bits_per_byte import BitsPerByte
from headwater.llm.training.config import OFF_FIELDS, RUNTIME_FIELDS, TrainConfig
from headwater.llm.training.held_memory import WithMemory
from headwater.llm.training.job import Start
from headwater.llm.training.loop import TrainJob
from headwater.llm.training.losses.objectives import NextToken
from headwater.llm.training.parallel import sequence, tensor
from headwater.llm.training.state.manager import kept

START = re.compile(r"(?P<key>[0-9a-f]{16})(@(?P<step>[0-9]+))?")


class PretrainConfig(TrainConfig):
    """Settings of pretraining."""

    model: ModelConfig = ModelConfig()
    """Shape of the transformer. A base model brings its own."""
    separate_documents: bool = False
    """Restrict attention to each document of a row, and restart positions at its start; also in evaluation.
    Off: the model attends to everything earlier in the row."""
    z_loss: float = Field(0.0, ge=0)
    """Weight of log²Z added to the cross-entropy (PaLM: 1e-4), which keeps logits small; 0 turns it off."""
    mixture: dict[str, Annotated[float, Field(gt=0)]] = {}
    """Relative weight of each corpus of `tokenize.corpora` in the batches; corpora without a weight are
    omitted. Empty: every row counts the same."""
    batch_stages: tuple[BatchStage, ...] = Field((), exclude_if=unkeyed(()))
    """Smaller batches and shorter sequences before the usual ones, such as `[{until: 200, batch: 8,
    row_length: 256}]`. The order of rows stays; learning rates are not scaled. Validation has whole rows."""

    window_shards: int = Field(1024, ge=1, le=MOST_OPEN)
    """Rows are shuffled within windows of so many shuffled shards (per corpus of a mixture): only these must
    be on a host's disk. A corpus with no more shards than this is shuffled as a whole."""
    shard_cache_gb: float = Field(64.0, ge=0)
    """Disk of each host for shards of an object store that are fetched before they are read, in 10⁹ bytes:
    the current window, then the next. Shards beyond it are fetched when they are read."""

    sequence_parallel: int = Field(1, ge=1)
    """Workers that share each row: for rows too long for one worker's memory."""

    tensor_parallel: int = Field(1, ge=1)
    """Workers that share every layer: for models too wide for one worker's memory."""

    start_from: str = Field("", pattern=r"^([0-9a-f]{16}(@[0-9]+)?)?$")
    """Go on from the training state of a finished pretrain artifact of this store: its `KEY` after its last
    step, or `KEY@STEP` after another step that it keeps. `steps` and the shares of the schedule count from
    that run's beginning. The model's shape and the optimizer are those of that run; data, `batch` and
    learning rates may be others."""
    keep_steps: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Steps whose training state stays with the artifact, besides that of the last, for `start_from`. Each
    takes about 12 bytes per parameter with AdamW, and 8 for weights that Muon trains."""

    @model_validator(mode="after")
    def _rows_are_shared_whole(self) -> PretrainConfig:
        if self.sequence_parallel > 1 and self.tensor_parallel > 1:
            raise ValueError("sequence_parallel and tensor_parallel cannot be combined")
        if self.sequence_parallel > 1 and self.separate_documents:
            raise ValueError("sequence_parallel cannot separate documents: remove separate_documents")
        return self

    @model_validator(mode="after")
    def _stages_follow_each_other(self) -> PretrainConfig:
        ends = [stage.until for stage in self.batch_stages]
        if ends != sorted(set(ends)):
            raise ValueError(f"`until` must rise from stage to stage in `batch_stages`, not {ends}")
        for stage in self.batch_stages:
            if stage.batch is None and stage.row_length is None:
                raise ValueError(
                    f"the stage until {stage.until} of `batch_stages` changes nothing: give it `batch` or "
                    "`row_length`"
                )
            if stage.batch is not None and stage.batch < self.workers:
                raise ValueError(
                    f"a `batch` of {stage.batch} sequences in `batch_stages` is too small for {self.workers} "
                    "workers"
                )
        if self.batch_stages and self.workers_per_row() > 1:
            raise ValueError(
                "`batch_stages` cannot be combined with `sequence_parallel` or `tensor_parallel`: remove one"
            )
        return self

    def sizes(self) -> Sizes:
        """Rows of each step."""
        return Sizes.of(self.batch, self.batch_stages)

    def rows(self, step: int) -> int:
        return self.sizes().rows(step)

    def largest_batch(self) -> int:
        return max(self.batch, *(stage.batch or 0 for stage in self.batch_stages), 0)

    def whole_steps(self) -> float:
        """Steps of `batch` rows that have as many rows as all steps."""
        return self.sizes().before(self.steps) / self.batch

    def spans(self) -> list[Span]:
        """The steps of each stage of batches, then those of the usual batch."""
        first, found = 0, []
        for stage in (*self.batch_stages, BatchStage(until=self.steps)):
            last = max(first, min(stage.until, self.steps))
            found.append(Span(last - first, stage.batch or self.batch, stage.row_length))
            first = last
        return found

    def cut(self, step: int) -> int | None:
        """Length that rows are cut to in a step; None: they are whole."""
        return next((stage.row_length for stage in self.batch_stages if step < stage.until), None)

    def sequence_parallel_size(self) -> int:
        return self.sequence_parallel

    def tensor_parallel_size(self) -> int:
        return self.tensor_parallel


def check_cuts(config: PretrainConfig, row_length: int) -> None:
    """Raises HeadwaterError if rows cannot be cut into equal parts as configured."""
    for stage in config.batch_stages:
        if stage.row_length is not None and row_length % stage.row_length:
            raise HeadwaterError(
                f"rows of {row_length} tokens cannot be cut into equal parts of {stage.row_length}",
                where="pretrain.batch_stages",
                fix="choose a `row_length` that divides `tokenize.row_length`",
            )


def check_sharing(config: PretrainConfig, *, vocab_size: int, row_length: int) -> None:
    """Raises HeadwaterError if workers cannot share rows or layers as configured."""
    shape = shape_of(config.model, vocab_size)
    sizes: dict[str, Any] = {"workers": config.workers, "elastic": config.min_workers is not None}
    sizes |= {"batch": config.batch, "micro_batch": config.micro_batch}
    sequence.check(config.sequence_parallel, shape, row_length=row_length, **sizes)
    tensor.check(config.tensor_parallel, shape, optimizer=config.optimizer, **sizes)


def batch_order(rows: TokenRows, config: PretrainConfig) -> ShuffledOrder | MixtureOrder:
    """The order of rows: shuffled, or mixed by `mixture`. Raises HeadwaterError for an unknown corpus."""
    if not config.mixture:
        windows = Windows(rows.shard_rows, config.window_shards)
        return ShuffledOrder(len(rows), config.batch, config.seed, windows, config.sizes().early)
    unknown = config.mixture.keys() - rows.corpora.keys()
    if unknown:
        raise HeadwaterError(
            f"there is no corpus named {', '.join(sorted(unknown))}",
            where=rows.artifact.location,
            fix=f"choose from `tokenize.corpora`: {', '.join(rows.corpora) or 'none'}",
        )
    chosen = [name for name in rows.corpora if name in config.mixture]
    shards = [rows.shards_of(rows.corpora[name]) for name in chosen]
    return MixtureOrder(
        tuple(rows.corpora[name] for name in chosen),
        tuple(config.mixture[name] for name in chosen),
        config.batch,
        config.seed,
        tuple(Windows(rows.shard_rows[s.start : s.stop], config.window_shards, s.start) for s in shards),
        config.sizes().early,
    )


def epochs(
    plan: ShuffledOrder | MixtureOrder, rows: TokenRows, config: PretrainConfig, read: int
) -> dict[str, float]:
    """Metrics: passes over all rows, and over each corpus of a mixture, that so many rows of batches make."""
    passes = {"epochs": read / len(rows)}
    if isinstance(plan, MixtureOrder):
        chosen = [name for name in rows.corpora if name in config.mixture]
        passes |= {f"epochs_{n}": e for n, e in zip(chosen, plan.epochs(read), strict=True)}
    return passes


def starting_point(config: PretrainConfig, parent: Artifact) -> Start:
    """The checkpoint that `start_from` names.

    Raises HeadwaterError if the artifact is missing, does not keep that step, or trained another model.
    """
    where = "pretrain.start_from"
    manifest = parent.manifest()
    if manifest is None:
        raise HeadwaterError(
            f"no finished pretrain artifact {parent.key} is in this store",
            where=where,
            fix="headwater show lists the artifacts",
        )
    before = PretrainConfig.model_validate(manifest.config)
    for name in ("model", "optimizer", "ema_decay"):
        if getattr(config, name) != getattr(before, name):
            raise HeadwaterError(
                f"`{name}` is not that of pretrain/{parent.key}",
                where=f"pretrain.{name}",
                fix="training goes on with the same model and optimizer: take the settings of that run",
            )
    step = first_step(config, before)
    if step not in (has := kept(parent)):
        steps = ", ".join(map(str, has)) or "none: it was made before training state was kept"
        raise HeadwaterError(
            f"pretrain/{parent.key} does not keep the training state of step {step}",
            where=where,
            fix=f"choose from those it keeps ({steps}), or train it again with `keep_steps`",
        )
    if step >= config.steps:
        raise HeadwaterError(
            f"`steps` ({config.steps}) count from the beginning, and that run has made {step}",
            where="pretrain.steps",
            fix=f"raise `steps` above {step}",
        )
    return Start(parent, step)


def first_step(config: PretrainConfig, before: PretrainConfig) -> int:
    """The first step of a run that goes on from the run with the settings `before`."""
    found = START.fullmatch(config.start_from)
    return int(found["step"]) if found and found["step"] else before.steps


def tokens_before(start: Start | None) -> int:
    """Tokens that were trained on before a run began, by the rows of that run's steps."""
    if start is None:
        return 0
    made = start.artifact.finished()
    settings = PretrainConfig.model_validate(made.config)
    whole, part = (settings.sizes().before(step) for step in (settings.steps, start.step))
    return round(made.metrics["tokens"] * part / whole)


class Comparison(Protocol):
    """A plan to compare with the finished run."""

    def beside(self, history: Sequence[dict[str, float]], seconds: float | None) -> list[dict[str, Any]]:
        """Rows for the report. `seconds` is the stage's wall-clock time, None for a resumed run."""
        ...


class Pretrain(Stage[PretrainConfig]):
    name = "pretrain"
    version = 2
    inputs = (TOKENIZER, "tokenize", Input(("base",), required=False))
    runtime_fields = RUNTIME_FIELDS | {"keep_steps", "shard_cache_gb"}
    off_fields = OFF_FIELDS | {"start_from", "window_shards"}
    compare_with_plan: Callable[..., Comparison] | None = None
    """Makes a plan during the run; the front door sets `planning.plan_report.PlanAhead`."""

    def resources(self, settings: Mapping[str, StageConfig]) -> Moments:
        return [[self.config.learners()]]

    def check(self) -> None:
        if late := [step for step in self.config.keep_steps if step > self.config.steps]:
            raise HeadwaterError(
                f"there is no step {late[0]} to keep",
                where="pretrain.keep_steps",
                fix=f"the last is {self.config.steps}",
            )

    def check_store(self, store: Store) -> None:
        if found := START.fullmatch(self.config.start_from):
            starting_point(self.config, store.artifact(self.name, found["key"]))

    def own_inputs(self, artifacts: Mapping[str, Artifact]) -> dict[str, Artifact]:
        """With `start_from` the artifact that training goes on from is an input, too."""
        own = super().own_inputs(artifacts)
        if found := START.fullmatch(self.config.start_from):
            own[self.name] = own["tokenize"].beside(self.name, found["key"])
        return own

    def run(self, inputs: Mapping[str, Artifact], output: Artifact, session: Session) -> dict[str, Any]:
        config = self.config
        tokenizer = tokenizer_of(inputs)
        base = Folder(inputs["base"], "model") if "base" in inputs else None
        rows = TokenRows(inputs["tokenize"], "train")
        validation = TokenRows(inputs["tokenize"], "validation")
        plan = batch_order(rows, config)
        check_cuts(config, rows.row_length)
        if base is None:
            check_sharing(config, vocab_size=rows.vocab_size, row_length=rows.row_length)
        unigram: float = inputs["tokenize"].finished().metrics["unigram_bits_per_byte"]
        began, goes_on = time.monotonic(), output.exists(SCRATCH)
        start = starting_point(config, inputs[self.name]) if self.name in inputs else None
        fresh = base is None and start is None
        make = self.compare_with_plan if fresh else None  # a plan knows fresh models alone
        ahead = make(config, rows, len(validation), output, session) if make else None
        history = loop.train(
            TrainJob(
                label="pretrain",
                config=config,
                objective=NextToken(config.z_loss),
                source=RowBatches(
                    rows,
                    plan,
                    separate_documents=config.separate_documents,
                    workers_per_row=config.workers_per_row(),
                    stretches=config.sequence_parallel_size(),
                    cache_bytes=round(1e9 * config.shard_cache_gb),
                    cut=config.cut,
                ),
                load_model=functools.partial(stored_model, base)
                if base
                else functools.partial(fresh_model, config.model, tokenizer, config.seed),
                tokenizer=tokenizer,
                output=output,
                evaluate=WithMemory(
                    BitsPerByte(validation, config.micro_batch, separate_documents=config.separate_documents)
                ),
                judged_by="bits_per_byte",
                keep=frozenset({*config.keep_steps, config.steps}),
                start=start,
            ),
            session,
        )
        read = config.sizes().before(config.steps) - config.sizes().before(start.step if start else 0)
        seconds = None if goes_on else time.monotonic() - began
        final = history[-1]["bits_per_byte"]
        session.say(
            f"loss {history[0]['loss']:.3f} → {history[-1]['loss']:.3f} nats per token; "
            f"validation {final:.3f} bits per byte (a unigram model: {unigram:.3f})"
        )
        return {
            "bits_per_byte": final,
            "unigram_bits_per_byte": unigram,
            "parameters": exported_parameters(output),
            "tokens": tokens_before(start) + read * rows.row_length,
            **epochs(plan, rows, config, read),
            **loop.summary(history),
            "planned": ahead.beside(history, seconds) if ahead else [],
        }


def exported_parameters(output: Artifact) -> int:
    """Parameters of the exported model, tied ones once."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(str(output.local("model"))))
    return sum(weight.size for weight in weights_of(model))
