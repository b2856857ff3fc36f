"""The rl stage killed at any moment: every prompt is trained once, and a replay gives the same bits.

Learners, rollout workers and drivers die at points of chance, 56 times in the long form; the runs and their
replays are in one process without Ray. Through Ray, with real kills: `tests/llm/stages/test_rl.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.artifact import Artifact
from headwater.llm.rl.rollouts.journal import Journal
from headwater.llm.rl.rollouts.sampler import prompt_order
from headwater.llm.training.telemetry.records import read_history
from tests.llm.ranks import on_ranks
from tests.llm.rl.mortal import TASKS, Fate, World, weights

DEATHS = [pytest.param(6, id="some"), pytest.param(28, id="many", marks=pytest.mark.soak)]
"""Of each kind of run."""
VARIANTS: dict[str, dict[str, Any]] = {
    "corrected": {
        "max_staleness": 2,
        "importance_cap": 1.01,
        "sequence_bound": 1.1,
        "learning_rate": 1e-3,
    },
    "critic": {"max_staleness": 1, "advantage": "gae", "mini_batches": 2, "epochs": 2, "importance_cap": 2.0},
    "adapters": {"max_staleness": 1, "lora": {"rank": 4, "dropout": 0.2}, "normalise": "constant"},
    "turns": {"mini_batches": 3, "steps": 7},
}


def deadly(folder: Path, deaths: int) -> None:
    """On one rank: undisturbed and killed runs of both kinds, as many as it takes."""
    world, told = World(folder), {}
    steady = Artifact(str(folder / "steady"), "rl", "steady")
    world.run(steady, world.config(), Fate(0, 0))
    for kind, staleness in (("sync", 0), ("async", 2)):
        config, died, seed = world.config(max_staleness=staleness), {}, 0
        runs = []
        while sum(died.values()) < deaths:
            seed += 1
            output = Artifact(str(folder / f"{kind}-{seed}"), "rl", kind)
            fate = Fate(seed, deaths - sum(died.values()))
            trained = world.run(output, config, fate, (2,) if kind == "sync" else (4, 2, 3))
            for name, count in fate.died.items():
                died[name] = died.get(name, 0) + count
            entries = [Journal(output).read(number) for number in range(config.steps)]
            runs.append(
                {
                    "positions": [entry.positions for entry in entries],
                    "journalled": [entry.tasks for entry in entries],
                    "trained": trained,
                    "written": sorted(fate.written.values()),
                    "staleness": [entry.number - min(entry.versions) for entry in entries],
                    "steady": weights(output) == weights(steady),
                    "replay": str(world.replayed(output, config)),
                    "records": len(read_history(output)),
                }
            )
        told[kind] = {"died": died, "runs": runs}
    told["order"] = [prompt_order(config, len(TASKS)).indices(step).tolist() for step in range(config.steps)]
    (folder / "told.json").write_text(json.dumps(told))


def replayed(folder: Path, where: str) -> None:
    """On every rank: a run of each variant and its replay."""
    world, told = World(folder), {}
    for name, settings in VARIANTS.items():
        output = Artifact(f"{where}/{name}", "rl", name)
        config = world.config(**({"steps": 8} | settings))
        world.run(output, config, Fate(0, 0), (3,))
        told[name] = {"replay": str(world.replayed(output, config)), "records": read_history(output)}
        if name == "corrected":
            told["doubted"] = [str(doubted(world, output, config, harm)) for harm in ("number", "weight")]
            told["refused"] = refused(world, output, config)
    if dist.get_rank() == 0:
        (folder / "told.json").write_text(json.dumps(told))


def doubted(world: World, output: Artifact, config: Any, harm: str) -> Any:
    """What a replay says of an artifact that was changed afterwards."""
    name = {"number": "metrics.jsonl", "weight": "model/model.safetensors"}[harm]
    before = output.read_bytes(name)
    dist.barrier()
    if dist.get_rank() == 0:
        changed = (
            before[:-1] + bytes([before[-1] ^ 1]) if harm == "weight" else before.replace(b"0.", b"1.", 9)
        )
        output.write_bytes(name, changed)
    dist.barrier()
    found = world.replayed(output, config)
    dist.barrier()
    if dist.get_rank() == 0:
        output.write_bytes(name, before)
    dist.barrier()
    return found


def refused(world: World, output: Artifact, config: Any) -> list[str]:
    said = []
    for number in (3, None):
        dist.barrier()
        if dist.get_rank() == 0 and number is not None:
            Journal(output).forget(number)
        elif dist.get_rank() == 0:
            output.delete_folder("journal")
        dist.barrier()
        with pytest.raises(HeadwaterError) as refusal:
            world.replayed(output, config)
        said.append(str(refusal.value))
    return said


@pytest.fixture(scope="module")
def deaths(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("deaths")
    on_ranks(1, deadly, folder, request.param)
    return {"wanted": request.param} | dict(json.loads((folder / "told.json").read_text()))


@pytest.mark.parametrize("deaths", DEATHS, indirect=True)
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_every_prompt_is_trained_once_whatever_is_killed(deaths: dict[str, Any], kind: str) -> None:
    died = deaths[kind]["died"]
    assert sum(died.values()) >= deaths["wanted"] and len(died) >= min(8, deaths["wanted"] // 2), died
    for run in deaths[kind]["runs"]:
        assert sorted(place for batch in run["positions"] for place in batch) == list(range(12 * 4))
        assert run["trained"] == run["journalled"]
        assert run["written"] == [1] * 12, "what is journalled is used as it is"
        assert run["records"] == 12
        in_order = [task for step in deaths["order"] for task in step]
        assert [[in_order[place] for place in batch] for batch in run["positions"]] == run["journalled"]


@pytest.mark.parametrize("deaths", DEATHS, indirect=True)
def test_a_run_that_takes_turns_ends_with_the_bits_of_one_that_was_not_killed(deaths: dict[str, Any]) -> None:
    for run in deaths["sync"]["runs"]:
        assert run["steady"]
        assert set(run["staleness"]) == {0}


@pytest.mark.parametrize("deaths", DEATHS, indirect=True)
def test_a_run_that_samples_ahead_keeps_to_its_bound_and_ends_with_the_bits_of_its_replay(
    deaths: dict[str, Any],
) -> None:
    for run in deaths["async"]["runs"]:
        assert run["replay"] == "None"
        assert max(run["staleness"]) == 2 and not run["steady"]
    assert {run["replay"] for run in deaths["sync"]["runs"]} == {"None"}


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("variants")
    on_ranks(2, replayed, folder, str(folder / "store"))
    return dict(json.loads((folder / "told.json").read_text()))


@pytest.mark.parametrize("name", VARIANTS)
def test_a_run_of_two_learners_is_replayed_bit_for_bit(variants: dict[str, Any], name: str) -> None:
    assert variants[name]["replay"] == "None"
    stale = [record["staleness"] for record in variants[name]["records"]]
    assert max(stale) == VARIANTS[name].get("max_staleness", 0)


def test_what_a_correction_did_is_in_the_records(variants: dict[str, Any]) -> None:
    records = variants["corrected"]["records"]
    assert records[0]["truncated"] == records[0]["left_out"] == 0, "the first answers are the learner's own"
    assert max(record["truncated"] for record in records) > 0
    assert max(record["left_out"] for record in records) > 0
    assert all(record["rollout_mismatch_max"] >= record["rollout_mismatch"] >= 0 for record in records)
    assert all(0 <= record["rollout_wait"] <= 1 for record in records)


def test_a_replay_names_the_first_difference(variants: dict[str, Any]) -> None:
    number, weight = variants["doubted"]
    assert number.startswith("step 0, ")
    assert "[" in weight and "in the replay" in weight


def test_a_replay_refuses_a_journal_that_is_not_whole(variants: dict[str, Any]) -> None:
    missing, nothing = variants["refused"]
    assert "1 of 8 entries" in missing and "00000003.rollouts" in missing
    assert "no journal" in nothing


def sampled_ahead(folder: Path, deaths: int) -> None:
    """A run that is killed, by 4, 2 and 3 rollout workers in turn."""
    world, fate = World(folder), Fate(1, deaths)
    world.run(Artifact(str(folder / "run"), "rl", "run"), world.config(max_staleness=2), fate, (4, 2, 3))


def with_other_learners(folder: Path, before: int) -> None:
    world, told = World(folder), {}
    config, output = world.config(max_staleness=2, workers=before), Artifact(str(folder / "run"), "rl", "run")
    told["replay"] = str(world.replayed(output, config, dist.get_world_size()))
    dist.barrier()
    for name, learners, settings in (
        ("too many", 5, {}),
        ("dropout", 2 if before == 1 else 1, {"lora": {"rank": 4, "dropout": 0.2}}),
    ):
        with pytest.raises(HeadwaterError) as refusal:
            world.replayed(output, world.config(max_staleness=2, **settings), learners)
        told[name] = str(refusal.value)
    if dist.get_rank() == 0:
        (folder / "told.json").write_text(json.dumps(told))


@pytest.mark.parametrize(("before", "after"), [(1, 2), pytest.param(2, 1, marks=pytest.mark.soak)])
def test_a_run_replayed_by_another_number_of_learners_is_equal_but_for_the_order_of_sums(
    tmp_path: Path, before: int, after: int
) -> None:
    on_ranks(before, sampled_ahead, tmp_path, 6 if before == 1 else 0)
    on_ranks(after, with_other_learners, tmp_path, before)
    told = json.loads((tmp_path / "told.json").read_text())
    assert told["replay"] == "None"
    assert told["too many"].startswith("--learners: a step has 4 groups of 2 answers, fewer than 5 learners")
    assert told["dropout"].startswith("rl.lora.dropout: every learner draws its own dropout")


def in_s3(folder: Path) -> None:
    world = World(folder)
    config, output = world.config(max_staleness=1, steps=6), Artifact("s3://corpus/rl", "rl", "s3")
    fate = Fate(3, 4)
    world.run(output, config, fate)
    assert fate.died.total() == 4, "it ended before"
    assert world.replayed(output, config) is None
    positions = [place for number in range(6) for place in Journal(output).read(number).positions]
    assert sorted(positions) == list(range(6 * 4))


def test_a_journal_in_s3_is_gone_on_with_and_replayed(s3_server: str, tmp_path: Path) -> None:
    on_ranks(1, in_s3, tmp_path)
