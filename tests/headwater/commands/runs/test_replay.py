"""`headwater replay`: what it refuses in one line. What it finds: `tests/llm/rl/test_killed.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from headwater.cluster.storage.artifact import Artifact, Manifest
from headwater.cluster.storage.store import Store
from headwater.llm.rl.config import RlConfig
from headwater.llm.rl.rollouts.journal import Journal
from tests.headwater.command import headwater
from tests.llm.models import foreign_model
from tests.llm.rl.rollouts.test_journal import batch


def finished(store: Store, stage: str, key: str, config: dict[str, Any], inputs: dict[str, str]) -> Artifact:
    artifact = store.artifact(stage, key)
    artifact.finish(Manifest(stage=stage, key=key, stage_version=1, config=config, inputs=inputs))
    return artifact


def test_what_cannot_be_replayed_is_refused_in_one_line(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    base = finished(store, "base", "b1", {"model": "x"}, {})
    settings = RlConfig(task="arithmetic", steps=2).model_dump(mode="json")
    rl = finished(store, "rl", "r1", settings, {"base": "b1"})
    where = ("--store", tmp_path / "store")

    def refused(target: object, *more: object) -> str:
        code, output = headwater("replay", target, *more)
        assert code == 1 and output.count("\n") == 1, output
        assert not (tmp_path / "store/replays").exists() or not any((tmp_path / "store/replays").iterdir())
        return output

    assert "base has no journal: its steps follow from its settings" in refused("base/b1", *where)
    assert "no finished artifact of stage rl with key x" in refused("rl/x", *where)
    assert "this artifact has no journal" in refused("rl/r", *where)
    journal = Journal(rl)
    journal.started(0, 1, {})
    journal.write(batch(0, [0, 1]))
    assert "1 of 2 entries of the journal are missing" in refused("rl/r1", *where)
    journal.write(batch(1, [2, 3]))
    assert "--learners: a step has 8 groups of 8 answers" in refused("rl/r1", *where, "--learners", 9)
    file = Path(rl.path(journal.name(1)))
    file.write_bytes(file.read_bytes()[:-1])
    assert "damaged" in refused("rl/r1", *where) and "00000001" in refused("rl/r1", *where)
    base.delete("manifest.json")
    assert "an input of this stage was deleted" in refused("rl/r1", *where)
    model = foreign_model(tmp_path / "own", "llama").path("model")
    recipe = {"name": "own", "store": str(tmp_path / "store"), "base": {"model": model}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(recipe))
    assert "the recipe has no stage rl" in refused(tmp_path / "own.yaml")
