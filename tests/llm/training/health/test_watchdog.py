"""The watchdog distinguishes slow ranks from waiting ones; a preemption notice is handled once."""

from __future__ import annotations

from headwater.llm.training.health.preemption import Notice
from headwater.llm.training.health.stragglers import WINDOW, Pace, stragglers
from headwater.llm.training.health.watchdog import doing

WAITING = """Thread 0x1 (most recent call first):
  File "/lib/torch/distributed/distributed_c10d.py", line 2994 in all_gather_into_tensor
  File "/lib/torch/distributed/c10d_logger.py", line 83 in wrapper
  File "/headwater/llm/job.py", line 60 in gather
  File "/headwater/llm/trainer.py", line 256 in train_step
"""
READING = """Thread 0x1 (most recent call first):
  File "/lib/threading.py", line 331 in wait

Thread 0x2 (most recent call first):
  File "/headwater/data_pipeline/shards.py", line 80 in gather
  File "/headwater/llm/trainer.py", line 220 in train_step
"""


def test_a_rank_far_over_the_median_is_a_straggler() -> None:
    assert stragglers([1.0, 1.1, 1.7, 1.0]) == [(2, 1.7)]
    assert stragglers([1.0, 1.4, 1.2, 1.0]) == []
    assert stragglers([1.0, 2.0]) == [(1, 2.0)]  # of two, the faster one is the measure
    assert stragglers([0.0, 1.0]) == []


def test_it_is_named_once_until_it_has_recovered() -> None:
    pace = Pace()
    named = [pace.add([1.0, 3.0]) for _ in range(WINDOW + 5)]
    assert [names for names in named if names] == [[(1, 3.0)]]
    assert named[WINDOW - 1] == [(1, 3.0)]  # not on the word of a few steps
    assert all(pace.add([1.0, 1.0]) == [] for _ in range(WINDOW))
    assert [rank for _ in range(WINDOW) for rank, _ in pace.add([1.0, 3.0])] == [1]


def test_one_slow_step_is_no_straggler() -> None:
    pace = Pace()
    assert not any(pace.add([1.0, 9.0 if step == 7 else 1.0]) for step in range(2 * WINDOW))


def test_stack_traces_distinguish_waiting_from_working() -> None:
    assert doing(WAITING) == "waiting for the others"
    assert doing(READING) == "in gather (shards.py line 80)"
    assert doing('Thread 0x1:\n  File "/lib/threading.py", line 331 in wait') == "not in a step"


def test_a_preemption_notice_is_handled_once_however_many_ranks_receive_it() -> None:
    notice = Notice()
    assert notice.new([0.0, 0.0]) == ""
    assert notice.new([0.0, 1.0]) == "rank 1 received SIGTERM"
    assert notice.new([2.0, 1.0]) == "a host of the group is being drained"
    assert notice.new([2.0, 2.0]) == ""  # the other rank has heard of the drain, too
    assert notice.new([1.0, 2.0]) == "rank 0 received SIGTERM"
