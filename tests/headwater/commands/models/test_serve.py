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
from headwater.commands.models.serve import model_config
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
