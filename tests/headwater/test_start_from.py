"""Pretraining that goes on from an earlier run's training state: key, lineage, trace, and refusals."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from headwater import pipeline, preflight
from headwater.cli import app
from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.session import Session
from headwater.cluster.storage.artifact import Artifact
from headwater.cluster.storage.lineage import lineage_json
from headwater.commands.runs import trace
from headwater.llm.training.loop import read_history
from headwater.recipe import Recipe, parse
from tests.data_pipeline.corpora import article
from tests.headwater.test_packaged_recipes import trains_here as trains_here  # the fixture

TRAIN = {
    **{"batch": 4, "micro_batch": 4, "workers": 1, "cpus_per_worker": 0.5, "precision": "fp32"},
    **{"schedule": "constant", "warmup_share": 0.0, "evaluate_every": 100},
    "model": {"depth": 1, "width": 64},
}


def recipe_of(session: Session, folder: Path, **pretrain: Any) -> Recipe:
    pages = folder / "pages.jsonl"
    rows = [{"text": article(n), "url": f"https://example.org/{n}"} for n in range(60)]
    pages.write_text("".join(json.dumps(row) + "\n" for row in rows))
    content = {
        "name": "longer",
        "store": session.store.location,
        "acquire": {"sources": [{"kind": "jsonl", "paths": [str(pages)]}]},
        "clean": {},
        "tokenizer": {"vocab_size": 400},
        "tokenize": {"row_length": 32, "validation_share": 0.1},
        "pretrain": TRAIN | pretrain,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content))
    return parse(content, "test")


def trained(session: Session, folder: Path, **pretrain: Any) -> Artifact:
    return pipeline.run(recipe_of(session, folder, **pretrain), session)[-1].artifact


def losses(artifact: Artifact) -> list[float]:
    return [record["loss"] for record in read_history(artifact)]


def traced(*arguments: str) -> list[dict[str, Any]]:
    screen = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trace, "console", Console(file=screen, width=300))
        app(["trace", *arguments, "--json"], standalone_mode=False)
    return [json.loads(line) for line in screen.getvalue().splitlines()]


@pytest.mark.soak  # `make test` has it for a job, in test_continuation.py, and for steps, in test_trace.py
def test_a_longer_run_a_branch_and_other_data_go_on_where_a_run_was(
    trains_here: Session, tmp_path: Path
) -> None:
    parent = trained(trains_here, tmp_path, steps=4, keep_steps=[2])
    whole = trained(trains_here, tmp_path, steps=6)
    longer = trained(trains_here, tmp_path, steps=6, start_from=parent.key)
    branch = trained(trains_here, tmp_path, steps=6, start_from=f"{parent.key}@2", seed=7)
    assert len({each.key for each in (parent, whole, longer, branch)}) == 4
    assert losses(longer) == losses(whole)
    assert losses(branch)[:2] == losses(whole)[:2]
    assert losses(branch)[2] != losses(whole)[2]  # another order of the rows
    assert longer.finished().metrics["tokens"] == whole.finished().metrics["tokens"] == 6 * 4 * 32
    for each in (longer, branch):
        made_from = lineage_json(trains_here.store, each.finished())["made_from"]
        assert ("pretrain", parent.key) in [(of["stage"], of["key"]) for of in made_from]
    store = ("--store", trains_here.store.location)
    for step in range(6):
        of_whole, of_longer, of_branch = (
            traced("step", str(step), *store, "--artifact", f"pretrain/{each.key}")
            for each in (whole, longer, branch)
        )
        assert of_longer == of_whole
        assert (of_branch == of_whole) == (step < 2)
    some = traced("step", "1", *store, "--artifact", f"pretrain/{branch.key}")[0]["id"]
    visits = traced("document", some, *store, "--artifact", f"pretrain/{branch.key}")
    assert 1 in {visit["step"] for visit in visits}
    for visit in visits:
        parts = traced("step", str(visit["step"]), *store, "--artifact", f"pretrain/{branch.key}")
        assert some in {part["id"] for part in parts if part["in batch"] == visit["in batch"]}
    refused(trains_here, tmp_path, parent.key)


def refused(session: Session, folder: Path, key: str) -> None:
    """A run that cannot go on is refused before its first stage."""
    for settings, words in (
        ({"start_from": "0" * 16}, "no finished pretrain artifact 0000"),
        ({"start_from": f"{key}@3"}, r"does not keep the training state of step 3.*\(2, 4\)"),
        ({"start_from": key, "steps": 4}, "that run has made 4.*raise `steps` above 4"),
        ({"start_from": key, "model": {"depth": 1, "width": 128}}, "`model` is not that of pretrain/"),
        ({"start_from": key, "optimizer": "muon"}, "`optimizer` is not that of pretrain/"),
        ({"keep_steps": [7]}, "there is no step 7 to keep.*the last is 6"),
    ):
        recipe = recipe_of(session, folder, **{"steps": 6} | settings)
        with pytest.raises(HeadwaterError, match=words):
            preflight.check(recipe, pipeline.stages(recipe), session)


def test_a_name_that_is_no_key_is_refused(tmp_path: Path, here: Session) -> None:
    with pytest.raises(HeadwaterError, match=r"pretrain\.start_from"):
        recipe_of(here, tmp_path, start_from="pretrain/latest")
