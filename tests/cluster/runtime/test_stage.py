"""The stage contract: what an artifact's key depends on, and that finished work is reused."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime import stage as stage_module
from headwater.cluster.runtime.parallel import map_units
from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import Input, Stage, StageConfig, execute
from headwater.cluster.storage.artifact import Artifact
from headwater.cluster.versions import commit
from headwater.show import artifact_table


class CountConfig(StageConfig):
    number: int = 1
    workers: int = 1


class Count(Stage[CountConfig]):
    name = "count"
    runtime_fields = frozenset({"workers"})
    runs = 0

    def run(self, inputs: Mapping[str, Artifact], output: Artifact, session: Session) -> dict[str, Any]:
        type(self).runs += 1
        output.write_bytes("number.txt", str(self.config.number).encode())
        return {"number": self.config.number}


class Double(Stage[CountConfig]):
    name = "double"
    inputs = ("count",)

    def run(self, inputs: Mapping[str, Artifact], output: Artifact, session: Session) -> dict[str, Any]:
        output.write_bytes("number.txt", str(2 * int(inputs["count"].read_bytes("number.txt"))).encode())
        return {}


def test_finished_work_is_found_and_not_done_again(session: Session) -> None:
    Count.runs = 0
    first, found_first = execute(Count(CountConfig()), {}, session)
    again, found_again = execute(Count(CountConfig()), {}, session)
    assert (found_first, found_again, Count.runs) == (False, True, 1)
    assert first == again
    execute(Count(CountConfig()), {}, session, redo=True)
    assert Count.runs == 2


def test_a_changed_setting_redoes_only_what_depends_on_it(session: Session) -> None:
    count, _ = execute(Count(CountConfig(number=1)), {}, session)
    double, _ = execute(Double(CountConfig()), {"count": count}, session)
    other, found = execute(Count(CountConfig(number=5)), {}, session)
    assert not found and other.key != count.key
    doubled, found = execute(Double(CountConfig()), {"count": other}, session)
    assert not found and doubled.read_bytes("number.txt") == b"10"
    assert double.manifest() is not None


def test_the_manifest_names_the_commit_of_the_source_and_the_key_does_not_depend_on_it(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = execute(Count(CountConfig()), {}, session)
    manifest = first.manifest()
    assert manifest is not None and manifest.versions.get("commit", "") == commit()
    monkeypatch.setattr(stage_module, "commit", lambda: "abc123")
    later, _ = execute(Count(CountConfig()), {}, session, redo=True)
    manifest = later.manifest()
    assert later.key == first.key and manifest is not None and manifest.versions["commit"] == "abc123"


def test_how_the_work_is_spread_does_not_change_the_key() -> None:
    one, many = (Count(CountConfig(workers=n)).key({}, {}) for n in (1, 8))
    assert one == many
    assert one != Count(CountConfig(number=2)).key({}, {})
    assert one != Count(CountConfig()).key({}, {"source": "changed"})


def test_a_new_setting_that_is_off_does_not_change_the_key() -> None:
    class LaterConfig(CountConfig):
        extra: float | None = None

    class Later(Count):
        off_fields = frozenset({"extra", "of another stage"})

    before = Count(CountConfig()).key({}, {})
    assert Later(LaterConfig()).key({}, {}) == before  # type: ignore[arg-type]
    assert Later(LaterConfig(extra=0.5)).key({}, {}) != before  # type: ignore[arg-type]


def test_an_artifact_of_an_older_stage_version_stays_readable_and_is_made_again(session: Session) -> None:
    class Newer(Count):
        version = Count.version + 1

    old, _ = execute(Count(CountConfig(number=7)), {}, session)
    new, found = execute(Newer(CountConfig(number=7)), {}, session)
    assert not found and new.key != old.key
    assert [m.stage_version for m in session.store.manifests()] == [Count.version, Newer.version]
    assert session.store.find("count", old.key).read_bytes("number.txt") == b"7"
    shown = Console(width=200)
    with shown.capture() as screen:
        shown.print(artifact_table(session.store.location, session.store.manifests()))
    assert old.key[:8] in screen.get() and new.key[:8] in screen.get()


def test_an_existing_optional_input_is_read_and_part_of_the_key(session: Session) -> None:
    class Maybe(Stage[CountConfig]):
        name = "maybe"
        inputs = ("count", Input(("double",), required=False))

        def run(self, inputs: Mapping[str, Artifact], output: Artifact, session: Session) -> dict[str, Any]:
            return {"read": sorted(inputs)}

    count, _ = execute(Count(CountConfig()), {}, session)
    double, _ = execute(Double(CountConfig()), {"count": count}, session)
    without, _ = execute(Maybe(CountConfig()), {"count": count}, session)
    with_it, found = execute(Maybe(CountConfig()), {"count": count, "double": double}, session)
    assert not found and without.key != with_it.key
    assert [a.manifest().metrics["read"] for a in (without, with_it)] == [["count"], ["count", "double"]]  # type: ignore[union-attr]


def test_of_a_choice_the_first_stage_that_the_recipe_has_is_read() -> None:
    class Chooser(Stage[CountConfig]):
        name = "chooser"
        inputs = (Input(("double", "count"), what="a number", fix="give `chooser.number`"),)

    chooser = Chooser(CountConfig())
    assert chooser.input_names(["count", "double"]) == ["double"]
    assert chooser.input_names(["count"]) == ["count"]
    told = "chooser needs a number.*add a section `double` or `count`, or give `chooser.number`"
    with pytest.raises(HeadwaterError, match=told):
        chooser.input_names(["other"])


class Squarer:
    """A unit worker that leaves a trace of each call, and dies the first time it sees `deadly`."""

    def __init__(self, trace: str, deadly: str = "") -> None:
        self.trace, self.deadly = Path(trace), deadly

    def __call__(self, unit: dict[str, Any]) -> dict[str, Any]:
        mark = self.trace / f"{unit['unit']}-{len(list(self.trace.iterdir()))}"
        first_time = not list(self.trace.glob(f"{unit['unit']}-*"))
        mark.touch()
        if unit["unit"] == self.deadly and first_time:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"square": unit["number"] ** 2}


UNITS = [{"unit": f"u{n}", "number": n} for n in range(6)]


def test_units_return_in_order_and_run_once(session: Session, tmp_path: Path) -> None:
    output = session.store.artifact("squares", "k")
    trace = tmp_path / "trace"
    trace.mkdir()
    arguments = {"trace": str(trace)}
    map_units(session, output, "squares", UNITS[:4], Squarer, worker_args=arguments)
    results = map_units(session, output, "squares", UNITS, Squarer, worker_args=arguments)
    assert [result["square"] for result in results] == [0, 1, 4, 9, 16, 25]
    assert len(list(trace.iterdir())) == 6


def test_a_killed_unit_worker_is_replaced_and_nothing_is_lost(session: Session, tmp_path: Path) -> None:
    output = session.store.artifact("squares", "killed")
    trace = tmp_path / "trace"
    trace.mkdir()
    results = map_units(
        session, output, "squares", UNITS, Squarer, worker_args={"trace": str(trace), "deadly": "u2"}
    )
    assert [result["square"] for result in results] == [0, 1, 4, 9, 16, 25]
    assert len(list(trace.glob("u2-*"))) == 2


def test_a_stage_config_refuses_unknown_keys() -> None:
    with pytest.raises(ValueError, match="wrokers"):
        CountConfig.model_validate({"wrokers": 2})


def test_a_raised_version_makes_another_key() -> None:
    class Newer(Count):
        version = 2

    assert Newer(CountConfig()).key({}, {}) != Count(CountConfig()).key({}, {})
