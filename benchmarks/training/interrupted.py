"""Training runs with repeated kills: do they end as an undisturbed run?

    python -m benchmarks.training.interrupted [--kills 20] [--seed 0] [--steps 60]

A small training job runs with Ray Train on a head with four CPUs, first undisturbed on two workers. Further
runs are disturbed until `--kills` is reached: at random times, a random worker or the driver is killed with
SIGKILL; a killed driver is started again. Every other run keeps two workers and its ZeRO stage, and its
losses must be bit-identical. In the others, each new driver changes to the next of 4, 2 and 3 workers and
switches between ZeRO 1 and 3, and the losses must agree within 1e-5. In all runs, workers record the
documents of their rows; at each step they must equal their share of the undisturbed run's batch.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from headwater.cluster.storage.artifact import Artifact
from headwater.data_pipeline.tokens.packing import pack
from headwater.data_pipeline.tokens.shards import TokenRows, write_shard
from headwater.llm.rows.order import ShuffledOrder
from headwater.llm.stages.pretrain import RowBatches
from headwater.llm.training.loop import read_history
from tests.cluster.heads import ROOT, Head, head
from tests.llm.models import save_model

BATCH, LENGTH, END, PAD = 12, 48, 0, 3
UNCHANGED = [(2, 2)]
CHANGING = [(4, 1), (2, 3), (3, 1), (4, 3), (2, 1), (3, 3)]
"""Workers and ZeRO stage of a run's first driver, second driver, and so on."""
KILLS_PER_RUN = 4
TOLERANCE = 1e-5


class Recorded(RowBatches):
    """Packed rows; each worker records its documents before it trains on them."""

    def __init__(self, rows: TokenRows, plan: ShuffledOrder, folder: str) -> None:
        super().__init__(rows, plan)
        self.folder = folder

    def batch(self, step: int) -> dict[str, np.ndarray]:
        mine = self.plan.share(step, self.rank, self.world_size).tolist()
        documents = [[name for _, name in self.rows.documents(row)] for row in mine]
        line = {"step": step, "rank": self.rank, "world_size": self.world_size, "documents": documents}
        with (Path(self.folder) / f"{os.getpid()}.jsonl").open("a") as stream:
            stream.write(json.dumps(line) + "\n")
        return super().batch(step)


def write_inputs(folder: Path) -> None:
    """Write rows of random documents, and the initial model of all runs."""
    generator = np.random.default_rng(0)
    documents = [
        (f"https://news.example/{n}", generator.integers(5, 300, generator.integers(5, 90)))
        for n in range(400)
    ]
    packed = pack(documents, LENGTH, end_id=END, pad_id=PAD, vocab_size=400)
    artifact = Artifact(str(folder / "tokenize"))
    with artifact.create("train/0.arrow") as stream:
        write_shard(stream, packed)
    split = {
        "tokens": 1,
        "bytes": 1,
        "documents": 400,
        "shards": [{"name": "0.arrow", "rows": len(packed.ids)}],
    }
    index = {"row_length": LENGTH, "vocab_size": 400, "pad_id": PAD, "end_id": END}
    artifact.write_json("rows.json", index | {"splits": {"train": split}})
    save_model(folder)


def drive(inputs: Path, output: Path, address: str, steps: int, workers: int, stage: int) -> None:
    """The driver process: run or resume the training job."""
    import functools

    from headwater.cluster.runtime.session import Session
    from headwater.cluster.storage.artifact import Folder
    from headwater.cluster.storage.store import Store
    from headwater.llm.model.build import saved_model
    from headwater.llm.training.config import TrainConfig
    from headwater.llm.training.loop import TrainJob, train
    from headwater.llm.training.losses.objectives import NextToken
    from headwater.llm.training.zero_config import ZeroConfig

    rows = TokenRows(Artifact(str(inputs / "tokenize")), "train")
    config = TrainConfig(
        steps=steps,
        batch=BATCH,
        micro_batch=2,
        workers=workers,
        zero=ZeroConfig(stage=stage),  # type: ignore[arg-type]
        precision="fp32",
        cpus_per_worker=0.5,
        checkpoint_every=5,
        max_failures=1_000,
    )
    model = Folder(Artifact(str(inputs)), "model")
    with Session(Store(str(output)), address=address) as session:
        job = TrainJob(
            label="interrupted",
            config=config,
            objective=NextToken(),
            source=Recorded(rows, ShuffledOrder(len(rows), BATCH, seed=1), str(output)),
            load_model=functools.partial(saved_model, model),
            tokenizer=model,
            output=Artifact(str(output / "run")),
        )
        train(job, session)


@dataclass(frozen=True)
class Share:
    """The documents of one worker in one step, as it recorded them."""

    step: int
    rank: int
    world_size: int
    documents: list[list[str]]
    """Per row, the URLs of its documents."""


@dataclass
class Run:
    """The kills and drivers of a run, and its results."""

    killed: Counter[str]
    drivers: list[tuple[int, int]]
    seconds: float
    losses: list[float]
    shares: list[Share]


def one_run(
    ray: Head, inputs: Path, steps: int, settings: Iterator[tuple[int, int]], kills: int, pause: float
) -> Run:
    output = Path(tempfile.mkdtemp(prefix="interrupted-"))
    started, killed, drivers = time.monotonic(), Counter[str](), []
    while True:
        workers, stage = next(settings)
        drivers.append((workers, stage))
        driver = _driver(ray, inputs, output, steps, workers, stage)
        dead = _disturb(ray, driver, killed, kills, pause)
        if driver.returncode == 0:
            break
        if not dead:
            said = (output / "driver.log").read_text()[-3000:]
            raise SystemExit(f"the driver ended with {driver.returncode}:\n{said}")
    records = read_history(Artifact(str(output / "run")))
    assert [record["step"] for record in records] == list(range(steps))
    run = Run(killed, drivers, time.monotonic() - started, [r["loss"] for r in records], _shares(output))
    shutil.rmtree(output)
    return run


def _driver(
    ray: Head, inputs: Path, output: Path, steps: int, workers: int, stage: int
) -> subprocess.Popen[bytes]:
    arguments = [str(inputs), str(output), ray.gcs, str(steps), str(workers), str(stage)]
    with (output / "driver.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "benchmarks.training.interrupted", "--drive", *arguments],
            env=ray.environment,
            cwd=ROOT,
            stdout=log,
            stderr=log,
        )


def _disturb(
    ray: Head, driver: subprocess.Popen[bytes], killed: Counter[str], kills: int, pause: float
) -> bool:
    """Kill until the driver ends or `kills` is reached; return whether the driver was killed."""
    victim, due = random.choice(["worker", "driver"]), time.monotonic() + random.uniform(0, pause)
    while driver.poll() is None:
        time.sleep(0.1)
        if killed.total() >= kills or time.monotonic() < due:
            continue
        if victim == "driver":
            driver.kill()
            driver.wait()
            killed["driver"] += 1
            return True
        if found := _workers(ray):  # otherwise as soon as one exists
            random.choice(found).kill()
            killed["worker"] += 1
            victim, due = random.choice(["worker", "driver"]), time.monotonic() + random.uniform(0, pause)
    return False


def _workers(ray: Head) -> list[psutil.Process]:
    """Training worker processes."""
    found = []
    for process in psutil.Process(ray.process.pid).children(recursive=True):
        try:
            if "TrainWorker" in "".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def _shares(output: Path) -> list[Share]:
    lines = [line for path in output.glob("*.jsonl") for line in path.read_text().splitlines()]
    return [Share(**json.loads(line)) for line in lines]


def same_documents(shares: list[Share], alone: list[Share]) -> bool:
    """Whether every share equals its part of the undisturbed batch, and every step was completed."""
    batches: dict[int, list[list[str]]] = defaultdict(list)
    for share in sorted(alone, key=lambda share: (share.step, share.rank)):
        batches[share.step] += share.documents
    ranks: dict[tuple[int, int], set[int]] = defaultdict(set)
    for share in shares:
        first, last = (BATCH * (share.rank + more) // share.world_size for more in (0, 1))
        if share.documents != batches[share.step][first:last]:
            return False
        ranks[share.step, share.world_size].add(share.rank)
    whole = {step for (step, world_size), seen in ranks.items() if len(seen) == world_size}
    return whole == set(batches)


def main() -> None:
    if "--drive" in sys.argv:
        inputs, output, address, *numbers = sys.argv[sys.argv.index("--drive") + 1 :]
        drive(Path(inputs), Path(output), address, *map(int, numbers))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    random.seed(options.seed)
    inputs = Path(tempfile.mkdtemp(prefix="interrupted-inputs-"))
    write_inputs(inputs)
    killed, failed, number = Counter[str](), 0, 0
    with head(cpus=4, PYTHONPATH=str(ROOT)) as ray:
        alone = one_run(ray, inputs, options.steps, itertools.cycle(UNCHANGED), 0, 0.0)
        print(
            f"undisturbed  2 workers, ZeRO 2  {alone.seconds:5.1f} s  loss {alone.losses[-1]:.6f}", flush=True
        )
        while killed.total() < options.kills:
            changing = number % 2 == 1
            settings = CHANGING if changing else UNCHANGED
            left = min(KILLS_PER_RUN, options.kills - killed.total())
            run = one_run(ray, inputs, options.steps, itertools.cycle(settings), left, alone.seconds)
            killed += run.killed
            number += 1
            failed += not _judge(number, run, alone, changing)
    shutil.rmtree(inputs)
    print(
        f"{number} runs, {killed['worker']} workers and {killed['driver']} drivers killed; "
        f"{failed} runs ended differently from the undisturbed one"
    )
    raise SystemExit(failed > 0)


def _judge(number: int, run: Run, alone: Run, changing: bool) -> bool:
    far = float(np.max(np.abs(np.array(run.losses) / np.array(alone.losses) - 1)))
    same = run.losses == alone.losses
    documents = same_documents(run.shares, alone.shares)
    drivers = " → ".join(f"{workers}/ZeRO {stage}" for workers, stage in run.drivers)
    print(
        f"{number:2}  killed {run.killed['worker']} workers, {run.killed['driver']} drivers  "
        f"{run.seconds:5.1f} s  "
        f"documents {'equal' if documents else 'DIFFERENT'}, losses "
        f"{'bit-identical' if same else f'within {far:.1e}'}  {drivers}",
        flush=True,
    )
    return documents and (far < TOLERANCE if changing else same)


if __name__ == "__main__":
    main()
