"""The preference pairs that the reward model and DPO learn from, by source.

Sources are the corpus (the true headline against another article's), the model (the true headline against the
fine-tuned model's own), the user's own files and the rankings that people left in the store.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import Field, model_validator

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.needs import Moments, Need, pool
from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import Input, Stage, StageConfig
from headwater.cluster.storage.artifact import Artifact, Folder
from headwater.data_pipeline.corpus import iter_documents
from headwater.data_pipeline.sources.items import Unread
from headwater.data_pipeline.tokens.tokenizer import TOKENIZER
from headwater.llm.examples.chat import decode_answer, encode_prompt
from headwater.llm.examples.conversations import split_of
from headwater.llm.examples.encoded import EncodedExamples, write_examples
from headwater.llm.examples.own_data.reading import OWN, OwnFile, split_of_record
from headwater.llm.examples.own_data.source import DataSources, fingerprint, list_files
from headwater.llm.examples.preferences import (
    LeftOut,
    Preference,
    encode_pair,
    headline_pairs,
    rankings_fingerprint,
    read_rankings,
    split_of_prompt,
)
from headwater.llm.examples.tasks import Task, check_titles, headline_tasks
from headwater.llm.inference import Sampling
from headwater.llm.inference import pool as engines
from headwater.llm.rows.order import BatchOrder
from headwater.llm.stages.data.own_data import (
    PEOPLE,
    Skipped,
    check_files,
    example_order,
    file_prefix,
    report,
)
from headwater.llm.stages.data.pair_batches import COLUMNS
from headwater.llm.stages.models import FINE_TUNED, check_adapters, check_base, newest_model
from headwater.llm.training.config import OFF_FIELDS, RUNTIME_FIELDS, TrainConfig

HELDOUT_MODEL_SHARE = 0.25
"""Held-out pairs with the model's own headlines per training pair."""


class PairConfig(TrainConfig):
    """Settings of a stage that learns from preference pairs."""

    corpus_pairs: int = Field(10_000, ge=0)
    """Maximum number of pairs of an article's headline against another article's; 0 for none."""
    model_pairs: int = Field(512, ge=0)
    """Number of pairs of an article's headline against the model's own; 0 for none."""
    data: DataSources | None = None
    """Own pairs of a better and a worse answer: files, folders, globs, `s3://` and `hf://` names, or sections
    with `files`. A tenth is held out. With them, `corpus_pairs` and `model_pairs` are 0 unless set."""
    rankings: bool = True
    """Also learn from the rankings that people made at the endpoint. A tenth of the prompts is held out."""
    rankings_weight: float = Field(10.0, gt=0, allow_inf_nan=False)
    """How often each ranking is seen, relative to other pairs, of which there are often thousands."""
    max_length: int = Field(320, ge=2)
    """Maximum tokens of prompt and answer. Longer prompts are shortened; a pair whose answers do not fit is
    left out."""
    max_new_tokens: int = Field(32, ge=1)
    """Maximum tokens of a headline that the model writes for a pair."""

    @model_validator(mode="after")
    def _possible_with_pairs(self) -> PairConfig:
        if self.max_new_tokens >= self.max_length:
            raise ValueError(
                f"`max_new_tokens` ({self.max_new_tokens}) leaves no room for a prompt: choose less than "
                f"`max_length` ({self.max_length})"
            )
        return self


P = TypeVar("P", bound=PairConfig)


class PairStage(Stage[P]):
    """A stage that learns from preference pairs: its inputs and other dependencies."""

    runtime_fields = RUNTIME_FIELDS
    off_fields = OFF_FIELDS | {"data"}
    version = 3  # long prompts lose their oldest turns

    def needs(self) -> tuple[Input, ...]:
        documents = Input(
            ("clean",),
            what="documents with titles (`corpus_pairs`, `model_pairs`)",
            fix=f"set `{self.name}.corpus_pairs` and `model_pairs` to 0 to learn from `data` and rankings",
        )
        return (*([documents] if self.from_corpus() else []), TOKENIZER, FINE_TUNED)

    def from_corpus(self) -> bool:
        """Whether pairs are made from documents."""
        return bool(self.config.corpus_pairs or self.config.model_pairs)

    def check_inputs(self, inputs: Mapping[str, Artifact]) -> None:
        check_base(inputs, self.name)
        check_adapters(inputs, getattr(self.config, "lora", None))
        if "clean" in inputs:
            check_titles(inputs["clean"], self.name)

    def check(self) -> None:
        check_files(self.config.data, f"{self.name}.data", OwnFile.preferences)

    def resources(self, settings: Mapping[str, StageConfig]) -> Moments:
        share = Need(1, min(1.0, self.config.gpus_per_worker))
        return [pool(share, ("gpus_per_worker",)), [self.config.learners()]]

    def fingerprint(self, session: Session) -> dict[str, Any]:
        rankings = rankings_fingerprint(session.store) if self.config.rankings else {}
        data = self.config.data
        return rankings | ({"data": fingerprint(data, f"{self.name}.data")} if data else {})


def prepare_pairs(
    stage: PairStage[Any],
    inputs: Mapping[str, Artifact],
    output: Artifact,
    tokenizer: Any,
    session: Session,
) -> tuple[dict[str, int], dict[str, Any]]:
    """Gather, encode and write all pairs, once. Returns the pairs per kind, and metrics of what was left out.

    Raises HeadwaterError if there is none to train on.
    """
    if not output.exists("pairs.json"):
        own = _OwnPairs(stage)
        kinds = gather_pairs(stage.config, inputs, tokenizer, session) | own.kinds
        written, left_out = write_pairs(output, kinds, tokenizer, stage.config.max_length, own.skip)
        more = own.close(output, session) | ({"left_out": left_out} if left_out else {})
        output.write_json("left_out.json", more)
        output.write_json("pairs.json", written)
    counts: dict[str, int] = output.read_json("pairs.json")
    more = output.read_json("left_out.json")
    if reasons := more.get("left_out"):
        listed = ", ".join(f"{reason} {count:,}" for reason, count in reasons.items())
        session.say(f"pairs left out: {listed}; {sum(counts.values()):,} are used")
    if not sum(count for name, count in counts.items() if name.startswith("train/")):
        raise HeadwaterError(
            "there are no preference pairs to train on",
            where=stage.name,
            fix="give own ones in `data`, raise `corpus_pairs`, `model_pairs` or `max_length`, "
            "or rank answers at the endpoint",
        )
    return counts, more


class _OwnPairs:
    """The pairs of own files by kind: `own`, or `own-NNN` for each source if they have weights."""

    def __init__(self, stage: PairStage[Any]) -> None:
        self.kinds: dict[str, list[Preference]] = {}
        self.files: dict[str, tuple[OwnFile, Skipped]] = {}
        self.used: collections.Counter[str] = collections.Counter()
        data = stage.config.data or ()
        weighted = any(source.weight != 1 for source in data)
        for file in list_files(data, f"{stage.name}.data"):
            opened, skipped = self.files[file.path] = OwnFile(file.source, file.path), Skipped()
            kind = file_prefix(file.number) if weighted else OWN
            for where, pair in opened.preferences():
                if isinstance(pair, Unread):
                    skipped.add(pair)
                else:
                    self.kinds.setdefault(f"{split_of_record(where)}/{kind}", []).append(pair)
                    self.used[file.path] += 1

    def skip(self, pair: Preference, why: LeftOut) -> None:
        """Note an own pair that is left out."""
        if pair.source == OWN:
            file = pair.origins[0].rpartition(":")[0]
            opened, skipped = self.files[file]
            skipped.add(opened.problem(pair.origins[0], why.reason, why.detail))
            self.used[file] -= 1

    def close(self, output: Artifact, session: Session) -> dict[str, Any]:
        units = [
            {"file": file, "format": opened.format, "used": self.used[file]}
            | skipped.close(output, f"own-{number:05d}")
            for number, (file, (opened, skipped)) in enumerate(self.files.items())
        ]
        return report(session, "own pairs", units)


def write_pairs(
    output: Artifact,
    kinds: Mapping[str, list[Preference]],
    tokenizer: Any,
    max_length: int,
    skip: Callable[[Preference, LeftOut], None] | None = None,
) -> tuple[dict[str, int], dict[str, int]]:
    """Encode all pairs into one file per kind. Returns the pairs per kind, and those left out per reason.

    `skip` is told of each pair that is left out.
    """
    counts: dict[str, int] = {}
    reasons: collections.Counter[str] = collections.Counter()
    for name, pairs in kinds.items():
        examples, origins = [], []
        for pair in pairs:
            try:
                examples.append(encode_pair(tokenizer, pair, max_length))
            except LeftOut as why:
                reasons[why.reason] += 1
                if skip:
                    skip(pair, why)
            else:
                origins.append(pair.origins)
        counts[name] = len(examples)
        if examples:
            write_examples(output, f"{name}.arrow", examples, COLUMNS, origins=origins)
    return counts, dict(sorted(reasons.items()))


def pair_order(pairs: EncodedExamples, config: PairConfig) -> BatchOrder:
    """The order in which a stage trains on its pairs: rankings and own sources by their weights."""
    return example_order(pairs, config.data, config.batch, config.seed, config.rankings_weight)


def gather_pairs(
    config: PairConfig, inputs: Mapping[str, Artifact], tokenizer: Any, session: Session
) -> dict[str, list[Preference]]:
    """`train/<kind>` and `heldout/<kind>` → pairs; held-out documents and prompts are never trained on."""
    from_corpus = config.corpus_pairs or config.model_pairs
    documents = list(iter_documents(inputs["clean"])) if from_corpus else []
    kinds: dict[str, list[Preference]] = {}
    for split in ("train", "heldout"):
        own = [d for d in documents if split_of(d["id"]) == split]
        if config.corpus_pairs:
            kinds[f"{split}/corpus"] = headline_pairs(own, config.seed)[: config.corpus_pairs]
        if config.model_pairs:
            share = 1.0 if split == "train" else HELDOUT_MODEL_SHARE
            tasks = list(headline_tasks(own, split))[: int(config.model_pairs * share)]
            kinds[f"{split}/model"] = _against_model(config, tasks, newest_model(inputs), tokenizer, session)
    if config.rankings:
        rankings = read_rankings(session.store)
        for split in ("train", "heldout"):
            kinds[f"{split}/{PEOPLE}"] = [r for r in rankings if split_of_prompt(r.prompt) == split]
    return kinds


def _against_model(
    config: PairConfig, tasks: list[Task], model: Folder, tokenizer: Any, session: Session
) -> list[Preference]:
    room = config.max_length - config.max_new_tokens
    completions = engines.generate(
        session,
        "own headlines",
        model,
        [encode_prompt(tokenizer, task.prompt, room) for task in tasks],
        Sampling(max_tokens=config.max_new_tokens, seed=config.seed),
        gpus=min(1.0, config.gpus_per_worker),
    )
    pairs = []
    for task, completion in zip(tasks, completions, strict=True):
        answer = decode_answer(tokenizer, completion.ids)
        if answer and answer != task.reference:
            pairs.append(Preference(task.prompt, task.reference, answer, "model", (task.origin,)))
    return pairs
