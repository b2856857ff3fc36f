"""Failure reports: the root cause of a worker group's failure, and the final error message."""

from __future__ import annotations

import pytest
from ray.exceptions import ActorDiedError
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from headwater.cluster.errors import HeadwaterError
from headwater.llm.training.config import TrainConfig
from headwater.llm.training.health.failures import RankPlace, describe, final_error, lost_at_start, room_for

PLACES = [RankPlace("10.0.0.1", "a"), RankPlace("10.0.0.2", "b"), RankPlace("10.0.0.2", "b")]
ALIVE = {"a", "b"}
BROKEN = RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [10.0.0.2]")
CONFIG = TrainConfig(workers=4, cpus_per_worker=2, max_failures=3)


def died() -> WorkerHealthCheckFailedError:
    return WorkerHealthCheckFailedError("a health check failed", failure=ActorDiedError())


@pytest.mark.parametrize(
    ("failures", "alive", "words"),
    [
        ({0: BROKEN, 1: died(), 2: died()}, {"a"}, "lost the host of ranks 1, 2 (10.0.0.2)"),
        ({0: BROKEN, 1: died()}, ALIVE, "the process of rank 1 (10.0.0.2) died"),
        ({0: BROKEN}, ALIVE, "rank 0 (10.0.0.1) lost its connection to the others: [gloo/transport"),
        ({0: BROKEN, 2: ValueError("a bad row")}, {"a"}, "rank 2 (10.0.0.2) failed: ValueError: a bad row"),
        ({1: HeadwaterError("the loss is nan", where="step 3")}, ALIVE, "failed: step 3: the loss is nan"),
    ],
)
def test_the_root_cause_is_reported_not_its_consequences(
    failures: dict[int, BaseException], alive: set[str], words: str
) -> None:
    assert words in describe(failures, PLACES, alive)


def test_giving_up_names_the_last_loss_and_what_to_do() -> None:
    final = final_error(WorkerGroupError("…", {0: BROKEN, 1: died()}), "sft: lost the host of rank 1", CONFIG)
    assert isinstance(final, HeadwaterError)
    assert str(final).startswith("sft: lost the host of rank 1: training failed after 3 restarts (check")


def test_an_error_of_the_job_is_raised_as_it_is_however_many_ranks_followed() -> None:
    own = HeadwaterError("the loss is nan")
    assert final_error(WorkerGroupError("…", {0: BROKEN, 1: own}), "", CONFIG) is own
    bug = WorkerGroupError("…", {0: BROKEN, 1: KeyError("ids")})
    assert final_error(bug, "", CONFIG) is bug


def test_a_death_while_the_group_is_formed_is_told_from_an_error_of_the_controller() -> None:
    assert lost_at_start(ControllerError(ActorDiedError()))
    assert lost_at_start(ControllerError(died()))
    assert not lost_at_start(ControllerError(ValueError("a bad setting")))
    assert not lost_at_start(WorkerGroupError("…", {1: died()}))


def test_worker_slots_are_counted_per_host() -> None:
    nodes = [{"Resources": {"CPU": 3.0}}, {"Resources": {"CPU": 5.0}}, {"Resources": {}}]
    assert room_for(CONFIG, nodes) == 3
