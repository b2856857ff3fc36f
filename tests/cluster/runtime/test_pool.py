"""Pool sizes, and the count of nodes and node-seconds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.node_usage import NodeUsage, count_nodes
from headwater.cluster.runtime.pool import AHEAD, Share, map_pool, pool_size
from headwater.cluster.runtime.session import Session

COUNT = st.integers(1, 1000)


@given(COUNT, COUNT, st.booleans(), st.none() | COUNT)
def test_a_pool_is_never_larger_than_its_work_or_what_was_set(
    units: int, fitting: int, grows: bool, most: int | None
) -> None:
    first, last = pool_size(units, fitting, grows=grows, most=most)
    assert 1 <= first <= last <= min(units, most or units)
    assert grows or last <= fitting


@pytest.mark.parametrize(
    ("units", "fitting", "grows", "most", "size"),
    [
        (100, 2, False, None, (2, 2)),  # a laptop: what is there
        (100, 2, False, 1, (1, 1)),
        (100, 0, True, None, (AHEAD, 100)),  # a head without CPUs: nodes are asked for
        (3, 0, True, None, (3, 3)),
        (1000, 500, True, None, (500, 1000)),
        (1000, 500, True, 800, (800, 800)),
    ],
)
def test_a_pool_on_a_cluster_that_grows_asks_for_more_than_there_is(
    units: int, fitting: int, grows: bool, most: int | None, size: tuple[int, int]
) -> None:
    assert pool_size(units, fitting, grows=grows, most=most) == size


def test_the_scarcest_resource_decides_how_many_fit() -> None:
    assert Share(cpus=0.5).fitting(4, 0) == 8
    assert Share(cpus=1, gpus=1).fitting(16, 2) == 2
    assert Share(cpus=1, gpus=0.25).fitting(16, 0) == 0


def test_rows_reach_the_pool_unchanged(session: Session) -> None:
    rows = [{"n": 0, "deep": [[], [1.5, None]], "empty": {}}, {"n": 1, "deep": "text", "nan": 10**30}]
    results = map_pool(session, rows, Echo, {"mark": "seen"}, Share())
    assert sorted(results, key=lambda row: row["n"]) == [row | {"mark": "seen"} for row in rows]
    assert list(map_pool(session, [], Echo, {"mark": ""}, Share())) == []


def test_a_worker_that_the_cluster_can_never_hold_is_refused_instead_of_waited_for(session: Session) -> None:
    with pytest.raises(HeadwaterError, match="needs 1 CPUs and 4 GPUs"):
        list(map_pool(session, [{"n": 0}], Echo, {"mark": ""}, Share(gpus=4)))


class Echo:
    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __call__(self, row: dict[str, object]) -> dict[str, object]:
        return row | {"mark": self.mark}


def test_node_seconds_are_the_area_under_the_number_of_nodes() -> None:
    usage = NodeUsage()
    for now, nodes in ((0, "h"), (10, "h"), (12, "ha"), (20, "hab"), (21, "hab"), (30, "h")):
        usage.see(frozenset(nodes), now)
    assert usage.node_seconds == 10 + 2 * 1.5 + 8 * 2.5 + 3 + 9 * 2
    assert (usage.seconds, usage.most_nodes) == (30, 3)


def test_a_local_clusters_node_is_counted_while_the_block_runs(session: Session) -> None:
    recorded: list[float] = []
    with count_nodes(session, lambda usage: recorded.append(usage.node_seconds)) as usage:
        pass
    assert usage.most_nodes == 1
    assert recorded == [usage.node_seconds]
    assert usage.node_seconds == usage.seconds > 0
