"""`headwater serve --model`: any model folder or artifact, with clear errors before anything starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from headwater.cli import app
from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.artifact import Manifest
from headwater.cluster.storage.store import Store
from headwater.commands.models.serve import _named, model_config, with_models
from headwater.recipe import bare

CONFIG = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}


def model_in(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    for name in ("model.safetensors", "tokenizer.json"):
        (folder / name).write_bytes(b"{}")
    return folder


def test_a_folder_is_served_without_index_or_store(tmp_path: Path) -> None:
    folder = model_in(tmp_path / "model")
    opened = bare("served", str(tmp_path / "logs"), ["serve.max_tokens=7", "serve.model_name=mine"])
    config = model_config(opened, str(folder))
    assert (config.model, config.index, config.store) == (str(folder), "", "")
    assert (config.max_tokens, config.model_name, config.host) == (7, "mine", "127.0.0.1")


def test_a_search_without_its_key_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BRAVE_API_KEY", raising=False)
    folder = model_in(tmp_path / "model")
    settings = ["serve.web.contact=me@example.org", "serve.web.search.kind=brave"]
    opened = bare("served", str(tmp_path / "logs"), settings)
    with pytest.raises(HeadwaterError, match="BRAVE_API_KEY has no key"):
        model_config(opened, str(folder))
    monkeypatch.setenv("BRAVE_API_KEY", "a-secret")
    assert "a-secret" not in model_config(opened, str(folder)).model_dump_json()


def test_an_artifact_is_named_by_stage_and_key_or_by_its_folder(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    artifact = store.artifact("rl", "3f" * 8)
    folder = model_in(Path(artifact.path("model")))
    manifest = Manifest(stage="rl", key=artifact.key, stage_version=1, config={}, inputs={})
    artifact.write_bytes("manifest.json", manifest.model_dump_json().encode())
    opened = bare("served", store.location)
    for name in ("rl/3f", artifact.location, str(folder)):
        assert model_config(opened, name, store=store.location).model == str(folder), name
    with pytest.raises(HeadwaterError, match="--store"):
        model_config(opened, "rl/3f")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "either a recipe or --model"),
        (["quickstart", "--model", "x"], "either a recipe or --model"),
        (["quickstart", "--index", "x"], "belong to --model"),
        (["--model", "/nowhere"], "/nowhere"),
        (["--model", ".", "--set", "serve.prot=1"], "prot"),
        (["--model", ".", "--web", "nobody"], "contact"),
        (["--model", ".", "--web-search", "brave"], "contact"),
        (["--model", ".", "--web", "me@example.org", "--web-search", "searxng"], "url"),
    ],
)
def test_what_cannot_be_served_is_said(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(app, ["serve", *arguments])
    assert result.exit_code != 0 and said in str(result.exception)


def test_help_tells_of_models_without_a_recipe() -> None:
    told = CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "200"}).output
    assert "--model" in told and "--index" in told


def test_further_models_are_named_and_keep_the_base_of_the_recipe(tmp_path: Path) -> None:
    there = tmp_path / "a=b"
    there.mkdir()
    whole, named = _named(["rl/3f2a", "tone=path/to=it", "s3://bucket/key=1", str(there)])
    assert whole == ["rl/3f2a", "s3://bucket/key=1", str(there)]
    assert named == {"tone": "path/to=it"}
    opened = bare("served", str(tmp_path), ["serve.models.tone.path=x", "serve.models.tone.base=law"])
    models = with_models(opened, named | {"law": "y"}).serve.models
    assert {name: each.model_dump() for name, each in models.items()} == {
        "tone": {"path": "path/to=it", "base": "law"},
        "law": {"path": "y", "base": ""},
    }
    folder = model_in(tmp_path / "model")
    with pytest.raises(HeadwaterError, match=r"x is refused.*no such folder"):
        model_config(with_models(bare("served", str(tmp_path)), {"x": "/nowhere"}), str(folder))
