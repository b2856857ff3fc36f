"""The model that is served and exported if rankings were added after its training."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from headwater import pipeline
from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import locate
from headwater.cluster.storage.artifact import Artifact, Manifest
from headwater.cluster.storage.store import Store
from headwater.llm.examples.preferences import save_ranking
from headwater.recipe import Recipe, parse
from tests.headwater.sections import CHAIN

RECIPES = {"plain": {}, "with dpo": {"dpo": {}}, "without rankings": {"reward": {"rankings": False}}}


def recipe(store: str, folder: Path, **sections: object) -> Recipe:
    (folder / "a.jsonl").write_text('{"text": "one"}\n')
    source = {"kind": "jsonl", "paths": [str(folder / "a.jsonl")]}
    raw = CHAIN | {"name": "ranked", "store": store, "acquire": {"sources": [source]}}
    return parse(raw | sections, "test")


def finish(opened: Recipe, session: Session, hour: int, last: str = "evaluate") -> dict[str, Artifact]:
    """The manifests that `headwater run --until LAST` leaves, for the rankings that are there."""
    artifacts: dict[str, Artifact] = {}
    for stage in pipeline.stages(opened):
        keys = {name: artifact.key for name, artifact in stage.own_inputs(artifacts).items()}
        artifacts[stage.name] = output = locate(stage, artifacts, session)
        if output.manifest() is None:
            output.finish(
                Manifest(
                    stage=stage.name,
                    key=output.key,
                    stage_version=stage.version,
                    config=stage.config.model_dump(mode="json"),
                    inputs=keys,
                    fingerprint=stage.fingerprint(session),
                    started_at=f"2030-01-01T{hour:02}:00:00+00:00",
                )
            )
        if stage.name == last:
            break
    return artifacts


def rank(session: Session, chosen: str) -> None:
    prompt = [{"role": "user", "content": "What is new?"}]
    save_ranking(session.store.location, prompt, chosen, "nothing", model="m", source="console")


@pytest.mark.parametrize("sections", RECIPES.values(), ids=list(RECIPES))
@pytest.mark.parametrize("remote", [False, True], ids=["disk", "s3"])
def test_the_newest_finished_model_is_used_despite_newer_rankings(
    sections: dict[str, object], remote: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if remote:
        request.getfixturevalue("s3_server")
    store = f"s3://corpus/{tmp_path.name}" if remote else str(tmp_path / "store")
    opened, screen = recipe(store, tmp_path, **sections), io.StringIO()
    with Session(Store(store), console=Console(file=screen, width=500)) as session:
        with pytest.raises(HeadwaterError, match="stage acquire has not finished"):
            pipeline.finished(opened, session)
        first = finish(opened, session, 1)
        assert pipeline.finished(opened, session) == first
        assert pipeline.finished(opened, session, "rl")["rl"] == first["rl"]
        finish(opened.model_copy(update={"rl": opened.rl.model_copy(update={"steps": 1})}), session, 9)
        assert screen.getvalue() == ""
        for hour in (2, 3):
            rank(session, f"answer {hour}")
            newest = finish(opened, session, hour)
        rank(session, "not learnt from yet")
        finish(opened, session, 4, last="reward")  # this run was interrupted
        assert pipeline.finished(opened, session) == newest
        assert pipeline.finished(opened, session, "rl")["rl"] == newest["rl"]
        if sections != RECIPES["without rankings"]:
            assert newest["rl"] != first["rl"]
            said = f"rankings were added or removed after {newest['rl'].location} was made"
            assert said in screen.getvalue()
        with pytest.raises(HeadwaterError, match="stage rl has not finished"):
            changed = opened.model_copy(update={"rl": opened.rl.model_copy(update={"steps": 2})})
            pipeline.finished(changed, session, "rl")
