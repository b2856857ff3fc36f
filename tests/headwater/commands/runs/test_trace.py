"""Output and errors of `headwater trace` on a hand-made store."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from rich.console import Console

from headwater import pipeline
from headwater.cli import app
from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import Stage, locate
from headwater.cluster.storage.artifact import Artifact, Manifest
from headwater.cluster.storage.store import Store
from headwater.commands.runs import trace
from headwater.data_pipeline.tokens.packing import pack
from headwater.data_pipeline.tokens.shards import write_shard
from headwater.recipe import load

DOCUMENTS = 30


def call(*arguments: str | Path) -> str:
    """The command in this process; what it prints."""
    screen = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trace, "console", Console(file=screen, width=300))
        app(["trace", *map(str, arguments)], standalone_mode=False)
    return screen.getvalue()


def write_corpus(artifact: Artifact) -> None:
    columns = ("id", "url", "title", "source", "language", "text")
    kept = [{name: f"{name}-{n}" for name in columns} for n in range(DOCUMENTS)]
    dropped = {"id": "id-x", "url": "url-x", "title": "", "source": "", "step": "gopher_quality"}
    dropped |= {"reason": "few_words", "score": None, "threshold": None, "duplicate_of": None}
    for name, table in (("kept", kept), ("rejected", [dropped])):
        with artifact.create(f"{name}/part-00000.parquet") as stream:
            pq.write_table(pa.Table.from_pylist(table), stream)


def write_tokens(artifact: Artifact) -> None:
    index: dict[str, object] = {"row_length": 16, "vocab_size": 300, "pad_id": 3, "end_id": 0}
    splits = {}
    for split, numbers in (("train", range(DOCUMENTS - 1)), ("validation", [DOCUMENTS - 1])):
        documents = [(f"id-{n}", np.full(5 + n % 7, 10 + n)) for n in numbers]
        packed = pack(documents, 16, end_id=0, pad_id=3, vocab_size=300)
        with artifact.create(f"{split}/part-00000.arrow") as stream:
            write_shard(stream, packed)
        shards = [{"name": "part-00000.arrow", "rows": len(packed.ids)}]
        splits[split] = {"tokens": 1, "bytes": 1, "documents": len(documents), "shards": shards}
    artifact.write_json("rows.json", index | {"splits": splits})


def finish(stage: Stage, inputs: dict[str, Artifact], output: Artifact) -> None:
    keys = {name: inputs[name].key for name in stage.input_names(inputs)}
    config = stage.config.model_dump(mode="json")
    output.finish(Manifest(stage=stage.name, key=output.key, stage_version=1, config=config, inputs=keys))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has come as far as its token rows; pretrain is not even begun."""
    folder = tmp_path_factory.mktemp("traced")
    (folder / "a.jsonl").write_text('{"text": "one"}\n')
    source = {"kind": "jsonl", "paths": [str(folder / "a.jsonl")]}
    raw = {
        "name": "traced",
        "store": str(folder / "store"),
        "acquire": {"sources": [source]},
        "clean": {},
        "tokenizer": {},
        "tokenize": {},
        "pretrain": {"steps": 12, "batch": 4},
        "sft": {},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(raw))
    opened, artifacts = load(path), {}
    with Session(Store(opened.store)) as session:
        for stage in pipeline.stages(opened):
            artifacts[stage.name] = output = locate(stage, artifacts, session)
            if stage.name == "pretrain":
                break
            {"clean": write_corpus, "tokenize": write_tokens}.get(stage.name, lambda _: None)(output)
            finish(stage, artifacts, output)
    return path


def lines(printed: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in printed.splitlines()]


def test_a_step_and_its_documents_name_each_other_before_the_run_has_begun(recipe: Path) -> None:
    asked = ("--recipe", recipe, "--json")
    for step in (0, 7):
        parts = lines(call("step", str(step), *asked))
        assert {part["in batch"] for part in parts} == {0, 1, 2, 3}
        for part in parts:
            assert part["document"] == part["id"].replace("id", "url")
            for name in (part["document"], part["id"]):
                visits = lines(call("document", name, *asked))
                where = [(v["step"], v["in batch"], v["row"]) for v in visits]
                assert (step, part["in batch"], part["row"]) in where
    assert "train/part-00000.arrow row" in call("step", "0", "--recipe", recipe)


def test_a_finished_artifact_is_traced_by_its_manifest_alone(recipe: Path) -> None:
    opened, artifacts = load(recipe), {}
    with Session(Store(opened.store)) as session:
        for stage in pipeline.stages(opened):
            artifacts[stage.name] = locate(stage, artifacts, session)
            if stage.name == "pretrain":
                break
    output = artifacts["pretrain"]
    finish(stage, artifacts, output)
    expected = call("step", "3", "--recipe", recipe, "--json")
    for named in ((), ("--artifact", f"pretrain/{output.key[:5]}")):
        assert call("step", "3", "--store", opened.store, "--json", *named) == expected
    output.delete_folder("")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("step", "12"), "step 12 is not in this run of 12 steps.*0 to 11"),
        (("step", "0", "--stage", "clean"), "clean does not train"),
        (("step", "0", "--stage", "sft"), "pretrain has not finished"),
        (("document", f"url-{DOCUMENTS - 1}"), "held out for validation"),
        (("document", "url-x"), "dropped in cleaning: gopher_quality, few_words"),
        (("document", "url-none"), "no document has this id or URL"),
        (("step", "0", "--artifact", "pretrain/1"), "both --recipe and --artifact"),
    ],
)
def test_a_trace_without_an_answer_raises_an_error_with_a_fix(
    recipe: Path, arguments: tuple[str, ...], words: str
) -> None:
    with pytest.raises(HeadwaterError, match=words):
        call(*arguments, "--recipe", recipe)


def test_a_store_without_a_finished_run_asks_for_the_recipe(tmp_path: Path) -> None:
    with pytest.raises(HeadwaterError, match=r"no finished pretrain artifact.*--recipe"):
        call("step", "0", "--store", tmp_path)
