"""A job that goes on from a kept checkpoint of another artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headwater.cluster.storage.artifact import Artifact
from headwater.llm.training.job import Start, Worker
from headwater.llm.training.loop import read_history
from headwater.llm.training.state.manager import find, kept
from tests.llm.jobs import run_job
from tests.llm.random_rows import Rows
from tests.llm.ranks import on_ranks
from tests.llm.training.test_interruptions import Chancy, Ending


def weight(worker: Worker) -> dict[str, float]:
    """An evaluation that shows whether the weights or their average are evaluated."""
    return {"weight": sum(float(parameter.abs().sum()) for parameter in worker.engine.module.parameters())}


SETTINGS: dict[str, Any] = {
    "schedule": "constant",
    "warmup_share": 0.0,
    "optimizer": "muon",
    "ema_decay": 0.9,
    "evaluate": weight,
}


def parts_and_whole(folder: Path, parent: Path) -> None:
    """Six steps at once, and as three and three; the first three keep step 2 as well."""
    screen = folder / "screen"
    run_job(folder / "whole", Chancy(8), screen, **SETTINGS)
    keeping: dict[str, Any] = {"keep": {2, 3}, "steps": 3, "checkpoint_every": 1, "keep_checkpoints": 1}
    run_job(parent, Chancy(8), screen, **keeping, **SETTINGS)
    run_job(folder / "rest", Chancy(8), screen, start=Start(Artifact(str(parent)), 3), **SETTINGS)
    run_job(folder / "branch", Chancy(8), screen, start=Start(Artifact(str(parent)), 2), **SETTINGS)
    run_job(folder / "plain-whole", Rows(8), screen, **SETTINGS)
    run_job(folder / "plain", Rows(8), screen, keep={3}, steps=3, **SETTINGS)


def on_one_rank(folder: Path, parent: Path, plain: Path) -> None:
    """What two ranks began, and a continuation that is interrupted and begun again."""
    screen, start = folder / "screen", Start(Artifact(str(parent)), 3)
    run_job(folder / "fewer", Rows(8), screen, start=Start(Artifact(str(plain)), 3), **SETTINGS)
    run_job(folder / "straight", Chancy(8), screen, start=start, **SETTINGS)
    with pytest.raises(InterruptedError):
        run_job(folder / "ended", Ending(8), screen, start=start, background_checkpoints=False, **SETTINGS)
    assert [stored.step for stored in find(Artifact(str(folder / "ended")))[0]] == [4]
    run_job(folder / "ended", Chancy(8), screen, start=start, **SETTINGS)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("continuation")
    on_ranks(2, parts_and_whole, folder, folder / "parent")
    on_ranks(1, on_one_rank, folder, folder / "parent", folder / "plain")
    return folder


def losses(folder: Path) -> list[float]:
    return [record["loss"] for record in read_history(Artifact(str(folder)))]


@pytest.mark.parametrize("name", ["rest", "branch"])
def test_two_runs_are_bit_for_bit_the_run_of_all_their_steps(made: Path, name: str) -> None:
    assert len(losses(made / "whole")) == 6
    assert losses(made / name) == losses(made / "whole")
    ends = [kept_or_newest(made / each) for each in (name, "whole")]
    for file in sorted(path.name for path in ends[0].glob("rank-*.safetensors")):
        assert (ends[0] / file).read_bytes() == (ends[1] / file).read_bytes()


def kept_or_newest(folder: Path) -> Path:
    return folder / find(Artifact(str(folder)))[0][-1].folder


def test_it_goes_on_with_another_number_of_workers(made: Path) -> None:
    """Within what Muon's bf16 leaves of two orders of summation (2.4e-6 with AMX)."""
    np.testing.assert_allclose(losses(made / "fewer"), losses(made / "plain-whole"), rtol=1e-5)


def test_an_interrupted_continuation_goes_on_from_its_own_checkpoint(made: Path) -> None:
    assert losses(made / "ended") == losses(made / "straight")


def test_kept_checkpoints_stay_beside_the_scratch_folder(made: Path) -> None:
    assert sorted(kept(Artifact(str(made / "parent")))) == [2, 3]
    assert list((made / "parent/_scratch/train").glob("checkpoint_*")) == []  # 1 was superfluous at step 2
    assert kept(Artifact(str(made / "rest"))) == {}


def from_s3(folder: Path) -> None:
    run_job("s3://corpus/parent", Rows(8), folder / "screen", keep={3}, steps=3, **SETTINGS)
    start = Start(Artifact("s3://corpus/parent"), 3)
    run_job(folder / "rest", Rows(8), folder / "screen", start=start, **SETTINGS)
    run_job(folder / "whole", Rows(8), folder / "screen", **SETTINGS)


def test_the_other_artifact_may_lie_in_s3(s3_server: str, tmp_path: Path) -> None:
    on_ranks(1, from_s3, tmp_path)
    assert losses(tmp_path / "rest") == losses(tmp_path / "whole")
