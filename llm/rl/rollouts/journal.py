"""The journal of the rl stage: every rollout batch, written before a step is trained on it.

`journal/00000012.rollouts` holds the thirteenth rollout batch: which prompts, their seeds, the weights that
sampled them, ids, log-probabilities and rewards. A run that is killed goes on with what it says, and a
finished run can be trained again from it, bit for bit (`headwater replay`). `journal/starts/` records each
start of the learners.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.artifact import Artifact
from headwater.llm.inference.base import Completion
from headwater.llm.rl.rollouts.worker import Rollouts
from headwater.llm.rows.order import BatchOrder, Visit

FOLDER = "journal"
SUFFIX = ".rollouts"
STARTS = f"{FOLDER}/starts"


class Torn(HeadwaterError):
    """An entry that is not what was written."""


@dataclass(eq=False)
class RolloutBatch:
    """One rollout batch. Lists have an entry for each prompt, in the order of training."""

    number: int
    """From 0 on; also the order of training."""
    positions: list[int]
    """Places of the prompts in the run's order of prompts (`prompt_order`), from 0 on."""
    tasks: list[int]
    """Numbers of the tasks at these places."""
    versions: list[int]
    """Steps after which the weights were taken that sampled the answers."""
    seeds: list[int]
    """What the random numbers of a prompt's answers were made from."""
    waiting: list[int]
    """Positions that were handed out before this batch was formed and are in none so far."""
    rollouts: Rollouts


@dataclass(frozen=True)
class Start:
    """A start of the learners: from `step` on they trained with these settings."""

    step: int
    learners: int
    settings: dict[str, Any]
    """Runtime settings that the last bits depend on (`RlConfig.arithmetic`)."""


class Journal:
    """The entries of one run, in its artifact."""

    def __init__(self, output: Artifact) -> None:
        self.output = output

    def name(self, number: int) -> str:
        return f"{FOLDER}/{number:08d}{SUFFIX}"

    def numbers(self) -> set[int]:
        """Of the entries that are there."""
        names = self.output.files(FOLDER, SUFFIX)
        return {int(name.rpartition("/")[2].removesuffix(SUFFIX)) for name in names}

    def write(self, batch: RolloutBatch) -> None:
        self.output.write_bytes(self.name(batch.number), encoded(batch))

    def read(self, number: int) -> RolloutBatch:
        """Raises HeadwaterError, which names the file, if it is missing; Torn if its content is not what was
        written."""
        try:
            data = self.output.read_bytes(self.name(number))
        except FileNotFoundError as error:
            raise HeadwaterError(
                "this entry of the journal is missing",
                where=self.output.path(self.name(number)),
                fix="restore the file",
            ) from error
        digest, _, payload = data.partition(b"\n")
        if hashlib.sha256(payload).hexdigest().encode() != digest:
            raise Torn(
                "this entry of the journal is damaged",
                where=self.output.path(self.name(number)),
                fix="restore the file, or train again: headwater run RECIPE --from rl",
            )
        return decoded(payload)

    def forget(self, number: int) -> None:
        self.output.delete(self.name(number))

    def started(self, step: int, learners: int, settings: Mapping[str, Any]) -> None:
        """Record a start after those that are there."""
        count = len(self.output.files(STARTS, ".json"))
        self.output.write_json(f"{STARTS}/{count:05d}.json", asdict(Start(step, learners, dict(settings))))

    def starts(self) -> list[Start]:
        """The starts that the final weights come from, by step: a later one replaces what came after it. One
        that only went on as before is left out."""
        kept: list[Start] = []
        for name in self.output.files(STARTS, ".json"):
            start = Start(**self.output.read_json(name))
            kept = [earlier for earlier in kept if earlier.step < start.step]
            if not kept or (kept[-1].learners, kept[-1].settings) != (start.learners, start.settings):
                kept.append(start)
        return kept


@dataclass(frozen=True)
class JournalledOrder(BatchOrder):
    """The prompts of each step as the journal has them, for runs whose prompts are trained in the order of
    their arrival."""

    journal: Journal
    batch: int
    together: int
    """Steps for whose prompts a rollout batch is sampled (`mini_batches`)."""
    epochs: int

    def indices(self, step: int) -> np.ndarray:
        """Raises HeadwaterError for a step whose answers have not been sampled."""
        number, within = divmod(step, self.together * self.epochs)
        if number not in self.journal.numbers():
            raise HeadwaterError(
                f"the answers of step {step} have not been sampled", where=self.journal.output.path(FOLDER)
            )
        first = within % self.together * self.batch
        return np.array(self.journal.read(number).tasks[first : first + self.batch])

    def visits(self, row: int, steps: int) -> list[Visit]:
        each = self.together * self.epochs
        found, seen = [], 0
        for number in sorted(self.journal.numbers()):
            for place, task in enumerate(self.journal.read(number).tasks):
                if task == row:
                    turn, within = divmod(place, self.batch)
                    again = range(number * each + turn, min(steps, (number + 1) * each), self.together)
                    found += [Visit(step, within, seen, row) for step in again]
                    seen += 1
        return found


def encoded(batch: RolloutBatch) -> bytes:
    """The SHA-256 of the rest as a line of hex, then a compressed .npz archive."""
    rollouts = batch.rollouts
    completions = rollouts.completions
    told = {
        name: getattr(batch, name)
        for name in ("number", "positions", "tasks", "versions", "seeds", "waiting")
    } | {
        "answers": rollouts.answers,
        "finish_reasons": [completion.finish_reason for completion in completions],
        "scores": list(rollouts.scores),
    }
    group = len(completions) // len(batch.positions)
    prompts = rollouts.prompts[::group]
    arrays = {
        "told": np.frombuffer(json.dumps(told).encode(), np.uint8),
        "prompt_lengths": _lengths(prompts),
        "prompt_ids": _flat(prompts, np.int64),
        "lengths": _lengths([completion.ids for completion in completions]),
        "ids": _flat([completion.ids for completion in completions], np.int64),
        "logprobs": _flat([completion.logprobs for completion in completions], np.float64),
        "reference_logprobs": _flat(rollouts.reference_logprobs, np.float64),
        "model_rewards": rollouts.model_rewards,
        "verified": rollouts.verified,
        **{f"score_{place}": scores for place, scores in enumerate(rollouts.scores.values())},
    }
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, **arrays)
    payload = stream.getvalue()
    return hashlib.sha256(payload).hexdigest().encode() + b"\n" + payload


def decoded(payload: bytes) -> RolloutBatch:
    """The batch of an archive that `encoded` wrote."""
    with np.load(io.BytesIO(payload)) as archive:
        arrays = dict(archive)
    told = json.loads(arrays["told"].tobytes())
    answers, reasons, names = (told.pop(name) for name in ("answers", "finish_reasons", "scores"))
    group = len(answers) // len(told["positions"])
    prompts = _parts(arrays["prompt_ids"], arrays["prompt_lengths"])
    ids, logprobs, reference = (
        _parts(arrays[name], arrays["lengths"]) for name in ("ids", "logprobs", "reference_logprobs")
    )
    rollouts = Rollouts(
        prompts=[prompt for prompt in prompts for _ in range(group)],
        completions=[Completion(*each) for each in zip(ids, logprobs, reasons, strict=True)],
        reference_logprobs=reference,
        answers=answers,
        model_rewards=arrays["model_rewards"],
        verified=arrays["verified"],
        scores={name: arrays[f"score_{place}"] for place, name in enumerate(names)},
    )
    return RolloutBatch(rollouts=rollouts, **told)


def _lengths(lists: list[list[Any]]) -> np.ndarray:
    return np.array([len(each) for each in lists], np.int64)


def _flat(lists: list[list[Any]], kind: Any) -> np.ndarray:
    return np.array([value for each in lists for value in each], kind)


def _parts(flat: np.ndarray, lengths: np.ndarray) -> list[list[Any]]:
    return [part.tolist() for part in np.split(flat, np.cumsum(lengths)[:-1])]
