"""The driver of `test_several_hosts.py`, run on the head: `python -m tests.cluster.train_on_hosts PLAN`.

PLAN is a JSON file: where the model is, a folder for signs, and the runs to make one after the other. It
leaves `<run>.json` for each, with its losses and what was said on the screen.
"""

from __future__ import annotations

import functools
import io
import json
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from headwater.cluster.runtime.session import Session
from headwater.cluster.storage.artifact import Artifact, Folder
from headwater.cluster.storage.store import Store
from headwater.llm.model.build import saved_model
from headwater.llm.training.config import TrainConfig
from headwater.llm.training.loop import TrainJob, Worker, train
from headwater.llm.training.losses.objectives import NextToken
from tests.llm.random_rows import Rows

PATIENCE = 240.0


class WatchedRows(Rows):
    """Rows that leave a sign of who joined, and wait at given steps for a sign or for more workers."""

    def __init__(self, batch: int, signs: Path, wait_at: int, full_house_at: int, full_house: int) -> None:
        super().__init__(batch)
        self.signs, self.wait_at = signs, wait_at
        self.full_house_at, self.full_house = full_house_at, full_house

    def open(self, worker: Worker) -> None:
        import ray

        super().open(worker)
        name = f"joined-{time.time_ns()}-{worker.rank}-{worker.world_size}"
        (self.signs / name).write_text(ray.util.get_node_ip_address())

    def batch(self, step: int) -> dict[str, np.ndarray]:
        if step == self.wait_at:
            (self.signs / f"waiting-{self.worker.rank}").touch()
            wait_until((self.signs / "go").exists)
        if step == self.full_house_at and self.worker.world_size < self.full_house:
            (self.signs / "short-handed").touch()
            wait_until(lambda: False)  # the group with more workers takes this one's place
        return super().batch(step)


def wait_until(sign: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not sign():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def main(plan: dict[str, Any]) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    folder = Path(plan["folder"])
    screen = io.StringIO()
    console = Console(file=screen, width=200)
    model = Folder(Artifact(plan["model"]), "model")
    with Session(Store(str(folder / "store")), console=console, address=plan["address"]) as session:
        wait_until(lambda: session.cpus() == plan["hosts"])
        for run in plan["runs"]:
            signs = folder / run["name"]
            signs.mkdir()
            config = TrainConfig.model_validate(run["config"])
            waits = (run.get("wait_at", -1), run.get("full_house_at", -1), config.workers)
            job = TrainJob(
                label=run["name"],
                config=config,
                objective=NextToken(),
                source=WatchedRows(config.batch, signs, *waits),
                load_model=functools.partial(saved_model, model),
                tokenizer=model,
                output=session.store.artifact("train", run["name"]),
            )
            screen.truncate(0)
            started = time.monotonic()
            losses = [record["loss"] for record in train(job, session)]
            result = {"losses": losses, "said": screen.getvalue(), "seconds": time.monotonic() - started}
            (folder / f"{run['name']}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
