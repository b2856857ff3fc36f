"""The journal of rollout batches: what is read is what was written, or an error that names the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.artifact import Artifact
from headwater.llm.inference import Completion
from headwater.llm.rl.rollouts.journal import Journal, JournalledOrder, RolloutBatch, Start, Torn
from headwater.llm.rl.rollouts.worker import Rollouts


def batch(number: int, positions: list[int]) -> RolloutBatch:
    """Two answers to each prompt, one of them empty."""
    count = 2 * len(positions)
    completions = [
        Completion([40 + n] * n, [-0.1 - n / 3] * n, "stop" if n % 2 else "length") for n in range(count)
    ]
    return RolloutBatch(
        number=number,
        positions=positions,
        tasks=[position % 3 for position in positions],
        versions=[number] * len(positions),
        seeds=[(1 << 63) + position for position in positions],
        waiting=[7],
        rollouts=Rollouts(
            prompts=[[10, 11][: 1 + n // 2] for n in range(count)],
            completions=completions,
            reference_logprobs=[[-0.2] * len(completion.ids) for completion in completions],
            answers=["", "zwölf", "\n", "d"][:count],
            model_rewards=np.arange(count, dtype=np.float32) / 3,
            verified=np.array([0.0, np.nan, 1 / 3, 1.0])[:count],
            scores={"mine.py:f": np.arange(count) / 7},
        ),
    )


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(Artifact(str(tmp_path / "rl")))


def test_a_batch_is_read_as_it_was_written_bit_for_bit(journal: Journal) -> None:
    written = batch(3, [5, 4])
    journal.write(written)
    found = journal.read(3)
    assert journal.numbers() == {3}
    for name in ("number", "positions", "tasks", "versions", "seeds", "waiting"):
        assert getattr(found, name) == getattr(written, name)
    for name in ("prompts", "completions", "reference_logprobs", "answers"):
        assert getattr(found.rollouts, name) == getattr(written.rollouts, name)
    for one, other in (
        (found.rollouts.model_rewards, written.rollouts.model_rewards),
        (found.rollouts.verified, written.rollouts.verified),
        (found.rollouts.scores["mine.py:f"], written.rollouts.scores["mine.py:f"]),
    ):
        assert one.dtype == other.dtype and one.tobytes() == other.tobytes()


@pytest.mark.parametrize("harm", ["cut", "changed", "empty", "missing"])
def test_a_damaged_entry_is_an_error_that_names_its_file(journal: Journal, harm: str) -> None:
    journal.write(batch(3, [5, 4]))
    file = Path(journal.output.path("journal/00000003.rollouts"))
    data = file.read_bytes()
    if harm == "missing":
        file.unlink()
    else:
        middle = len(data) // 2
        changed = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        file.write_bytes({"cut": data[:-1], "changed": changed, "empty": b""}[harm])
    with pytest.raises(HeadwaterError, match="00000003") as refusal:
        journal.read(3)
    assert isinstance(refusal.value, Torn) == (harm != "missing")


def test_a_later_start_replaces_what_came_after_it(journal: Journal) -> None:
    settings = {"micro_batch": 2}
    for step, learners in ((0, 4), (6, 2), (8, 2), (4, 4), (4, 2), (6, 2)):
        journal.started(step, learners, settings)
    assert journal.starts() == [Start(0, 4, settings), Start(4, 2, settings)]


def test_the_order_of_prompts_of_each_step_is_read_from_the_journal(journal: Journal) -> None:
    for number, positions in enumerate(([1, 0, 3, 4], [2, 5, 6, 7])):
        entry = batch(number, positions[:2])
        entry.positions, entry.tasks = positions, [position * 10 for position in positions]
        journal.write(entry)
    order = JournalledOrder(journal, batch=2, together=2, epochs=2)
    assert [order.indices(step).tolist() for step in range(5)] == [
        *([10, 0], [30, 40], [10, 0], [30, 40]),
        [20, 50],
    ]
    assert [(visit.step, visit.place) for visit in order.visits(40, 8)] == [(1, 1), (3, 1)]
    with pytest.raises(HeadwaterError, match="step 8"):
        order.indices(8)
