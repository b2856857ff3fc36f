"""The checkpoints of a running job: written in the background; the newest and the best are kept.

To save a step, training pauses to copy this rank's share to host memory; a thread writes it to the store
while training continues, and finally writes a note with the number of bytes. When rank 0's thread sees every
rank's note it writes `whole.json` with the size of every file, which makes the checkpoint valid. A checkpoint
without `whole.json`, or with a file of another size, is torn: it is skipped for the one before.

Checkpoints lie in the artifact's scratch folder, which is deleted when the stage finishes; those of the steps
that the job keeps lie in `checkpoints/`, from which another artifact can go on.
"""

from __future__ import annotations

import json
import random
import secrets
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.artifact import SCRATCH, Artifact
from headwater.cluster.storage.filesystem import filesystem, list_files
from headwater.llm.rows.permutation import derived_seed
from headwater.llm.training.state import birth, elements

if TYPE_CHECKING:
    from headwater.llm.training.job import TrainJob, Worker

FOLDER = f"{SCRATCH}/train"
KEPT = "checkpoints"
WHOLE = "whole.json"
WRITTEN = "written-{:05d}.json"
"""Last file of each rank: the total bytes of its other files."""
LOOK_SECONDS = 0.2


@dataclass(frozen=True)
class Stored:
    """A complete checkpoint."""

    name: str
    step: int
    """Number of completed steps."""
    score: float | None
    """Its evaluation score; lower is better."""
    kept: bool = False
    """It stays when the stage has finished."""

    @property
    def folder(self) -> str:
        return f"{KEPT if self.kept else FOLDER}/{self.name}"


def find(output: Artifact) -> tuple[list[Stored], list[Stored]]:
    """The complete checkpoints of a job, oldest first, and the torn ones."""
    whole, torn = [], []
    for parent in (FOLDER, KEPT):
        sizes: dict[str, dict[str, int]] = {}
        for path, size in _sizes(output, parent).items():
            name, _, file = path.partition("/")
            if name.startswith("checkpoint_"):
                sizes.setdefault(name, {})[file] = size
        for name, files in sizes.items():
            found = Stored(name, int(name.split("_")[1]), None, kept=parent == KEPT)
            marker: dict[str, Any] = {"files": {WHOLE: 0}}
            if WHOLE in files:
                marker = output.read_json(f"{found.folder}/{WHOLE}")
            if all(files.get(file) == size for file, size in marker["files"].items()):
                whole.append(replace(found, score=marker["score"]))
            else:
                torn.append(found)
    return sorted(whole, key=lambda stored: stored.step), torn


def kept(output: Artifact) -> dict[int, Stored]:
    """Step → its checkpoint, of those that stay with an artifact."""
    return {stored.step: stored for stored in find(output)[0] if stored.kept}


def _sizes(output: Artifact, folder: str) -> dict[str, int]:
    """Path below a folder → bytes."""
    _, root = filesystem(output.path(folder))
    return {info.path[len(root) :].lstrip("/"): info.size for info in list_files(output.path(folder))}


def superfluous(whole: list[Stored], newest: int, keep_best: bool) -> list[Stored]:
    """Checkpoints to delete: neither kept, nor among the `newest`, nor the best."""
    needed = {*whole[-newest:], best_of(whole) if keep_best else None}
    return [stored for stored in whole if not stored.kept and stored not in needed]


def best_of(whole: list[Stored]) -> Stored | None:
    """The checkpoint with the best score; of equal ones the earliest."""
    scored = [stored for stored in whole if stored.score is not None]
    return min(scored, key=lambda stored: (stored.score, stored.step), default=None)


class Checkpoints:
    """One rank's view of the job's checkpoints. All ranks call `save` and `restore` at the same step."""

    def __init__(self, job: TrainJob, worker: Worker) -> None:
        self.job, self.worker, self.config = job, worker, job.config
        # Every group of workers uses its own folders: a half-written one of an earlier group is never reused.
        self._token = worker.agree(secrets.token_hex(4))
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._written: Future[None] | None = None
        self._next = Stored("", 0, None)
        self._committer = ThreadPoolExecutor(1, "commit")
        self._committed: Future[None] | None = None
        self._closed = threading.Event()

    def restore(self) -> int:
        """Load the newest complete checkpoint, else the one that the job starts from; returns the step to go
        on at, 0 if there is neither. Weights that no checkpoint has are made or read."""
        reseed(self.config.seed, self.worker.rank, 0)
        chosen, start = self.worker.agree(self._newest() if self.worker.rank == 0 else None), self.job.start
        birth.fill(self.worker.engine, trained=chosen is None and start is None)
        if chosen is not None:
            return self.load(chosen)
        return 0 if start is None else self.load(kept(start.artifact)[start.step], start.artifact)

    def load(self, stored: Stored, of: Artifact | None = None) -> int:
        """Load engine, history and random generators from a checkpoint of this job, or of another artifact;
        returns the step to go on at."""
        worker, folder = self.worker, Artifact((of or self.job.output).path(stored.folder))
        state = elements.read(worker.engine, folder)
        if state["world_size"] == worker.world_size:
            set_random_state(folder.read_json(f"random-{worker.rank:05d}.json"))
        else:
            reseed(self.config.seed, worker.rank, stored.step)
        worker.total([0.0])  # barrier: no rank deletes while another reads
        worker.history = state["history"]
        return int(state["step"])

    def _newest(self) -> Stored | None:
        """The newest complete checkpoint; deletes torn ones."""
        whole, torn = find(self.job.output)
        last = whole[-1] if whole else None
        for each in torn:
            if last is None or each.step > last.step:
                instead = f"that of step {last.step}" if last else "the beginning"
                self.worker.say(f"the checkpoint {each.name} is incomplete: resuming from {instead}")
            self.job.output.delete_folder(each.folder)
        return last

    def newest(self) -> Stored | None:
        """The newest complete checkpoint, the same on all ranks. Waits for one that is being written."""
        return next(reversed(self._whole()), None)

    def best(self) -> Stored | None:
        """The checkpoint with the best score, the same on all ranks."""
        return best_of(self._whole())

    def _whole(self) -> list[Stored]:
        self.settle()
        return self.worker.agree(find(self.job.output)[0] if self.worker.rank == 0 else [])

    def save(self, step: int, *, score: float | None = None) -> None:
        """Save the state after `step` steps. Waits for an earlier checkpoint that is still being written."""
        self.settle()
        name = f"checkpoint_{step:08d}_{self._token}"
        self._next = Stored(name, step, score, step in self.job.keep)
        worker = self.worker
        state = {"step": step, "history": list(worker.history), "world_size": worker.world_size}
        own = elements.own_state(worker.engine, state)
        randomness = json.dumps(random_state()).encode()
        folder = Artifact(self.job.output.path(self._next.folder))
        share: Any = elements.pieces(worker.engine)
        if self.config.background_checkpoints:
            share = list(share)  # the only part that training waits for
        self._written = self._writer.submit(_write, folder, share, own, worker.rank, randomness)
        del share  # only the thread's copy remains
        if worker.rank == 0:
            self._committed = self._committer.submit(self._commit, self._next)
        if not self.config.background_checkpoints:
            self.settle()

    def landed(self) -> float:
        """What this rank reports to the others: 1 once its share is written, -1 if that failed."""
        if self._written is None or not self._written.done():
            return 0.0
        return -1.0 if self._written.exception() else 1.0

    def note_landed(self, told: Sequence[float]) -> None:
        """Process what all ranks reported at a step about the last checkpoint.

        Raises HeadwaterError, on all ranks, if one failed to write.
        """
        if self._written is None:
            return
        if min(told) < 0:
            self._closed.set()
            self._raise(self._written)
            rank, step = told.index(-1.0), self._next.step
            raise HeadwaterError(f"rank {rank} could not write its share of the checkpoint of step {step}")
        if min(told) > 0:
            self._written = None

    def settle(self) -> None:
        """Wait, on every rank, until the checkpoint being written is complete."""
        if self._next.name:
            if self._written is not None:
                wait([self._written])
            told = 1.0 if self._written is None else self.landed()
            self.note_landed([rank for (rank,) in self.worker.gather([told])])
            if self._committed is not None:
                self._raise(self._committed)
                self._committed = None
            self.worker.total([0.0])

    def _commit(self, stored: Stored) -> None:
        """Rank 0: complete the checkpoint once all ranks have written it, then delete superfluous ones."""
        output, folder = self.job.output, stored.folder
        notes = [WRITTEN.format(rank) for rank in range(self.worker.world_size)]
        for note in notes:
            while not output.exists(f"{folder}/{note}"):
                if self._closed.wait(LOOK_SECONDS) or not threading.main_thread().is_alive():
                    return  # that rank's note will never come
        files = _sizes(output, folder)
        written = sum(output.read_json(f"{folder}/{note}") for note in notes)
        found = sum(size for name, size in files.items() if name not in notes)
        if found != written:
            raise HeadwaterError(
                f"only {found:,} of {written:,} written bytes are in the store",
                where=output.path(folder),
                fix="stop any other run that uses this store",
            )
        marker = {"step": stored.step, "score": stored.score, "files": files}
        output.write_json(f"{folder}/{WHOLE}", marker)
        whole, _ = find(output)
        for old in superfluous(whole, self.config.keep_checkpoints, self.config.keep_best):
            output.delete(f"{old.folder}/{WHOLE}")  # first: a half-deleted checkpoint must not be valid
            output.delete_folder(old.folder)

    def _raise(self, done: Future[Any]) -> None:
        try:
            done.result()
        except OSError as error:
            raise HeadwaterError(
                f"the checkpoint of step {self._next.step} could not be written: {error}",
                where=self.job.output.path(self._next.folder),
                fix="free space or check the store, then run again",
            ) from error

    def close(self) -> None:
        """Stop writing, without waiting for ranks that are gone."""
        self._closed.set()
        self._writer.shutdown()
        self._committer.shutdown()


def _write(folder: Artifact, share: Any, own: dict[str, Any], rank: int, randomness: bytes) -> None:
    folder.write_bytes(f"random-{rank:05d}.json", randomness)
    written = len(randomness) + elements.write(share, folder, own)
    folder.write_json(WRITTEN.format(rank), written)


def due(job: TrainJob, done: int, history: list[dict[str, float]]) -> bool:
    """Whether to save the state after `done` steps: at the interval, after the last step (so that a failed
    export can be repeated without training), if it is kept, and if it is the best so far and wanted."""
    config, name = job.config, job.judged_by
    if done == config.steps or done % config.checkpoint_every == 0 or done in job.keep:
        return True
    score = score_of(history[-1], name)
    if not config.keep_best or score is None:
        return False
    earlier = (score_of(record, name) for record in history[:-1])
    return all(score < other for other in earlier if other is not None)


def score_of(record: dict[str, float], name: str | None) -> float | None:
    """The score of a checkpoint after this step; lower is better."""
    if name is None:
        return None
    sign, metric = (-1, name[1:]) if name.startswith("-") else (1, name)
    return sign * record[metric] if metric in record else None


def random_state() -> dict[str, Any]:
    """The state of all random generators of this process, JSON-compatible."""
    import numpy as np
    import torch

    on_gpus = torch.cuda.is_initialized()  # CPU workers must not initialise CUDA
    version, numbers, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # type: ignore[misc]
    return {
        "python": [version, list(numbers), gauss],
        "numpy": [kind, keys.tolist(), position, has_gauss, cached],  # type: ignore[union-attr]
        "torch": torch.get_rng_state().tolist(),
        "cuda": [state.tolist() for state in torch.cuda.get_rng_state_all()] if on_gpus else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    import numpy as np
    import torch

    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, np.uint32), *rest))
    torch.set_rng_state(torch.tensor(state["torch"], dtype=torch.uint8))
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([torch.tensor(own, dtype=torch.uint8) for own in state["cuda"]])


def reseed(seed: int, rank: int, step: int) -> None:
    """Seed every random generator, differently per rank and step. Dropout uses them; batches and learning
    rates do not."""
    import numpy as np
    import torch

    own = derived_seed(derived_seed(seed, rank), step)
    random.seed(own)
    np.random.seed(own % (1 << 32))
    torch.manual_seed(own % (1 << 63))
