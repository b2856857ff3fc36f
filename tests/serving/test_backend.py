"""What computes the model is decided once, before anything starts, and is said."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.artifact import Artifact
from headwater.serving import app
from headwater.serving.batch import run as batches
from headwater.serving.batch.worker import BatchWorker
from headwater.serving.config import AppConfig
from tests.cluster.heads import ROOT
from tests.serving.conftest import config_of
from tests.serving.in_process import ingress_of, served

pytest.importorskip("openvino", reason="the extra `openvino` is not installed (x86-64 Linux only)")


def test_auto_is_one_backend_for_all_replicas_and_the_endpoint_says_which(model_folder: Path) -> None:
    config = AppConfig(model=str(model_folder), model_name="tiny", port=0, threads=1, backend="auto")
    assert str(app.check(config)).startswith("backend openvino with the model's weights: it is installed")
    resolved = config.resolved()
    assert (resolved.backend, resolved.quantize) == ("openvino", "none")
    ask = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8, "seed": 3}
    said = {}
    for each in (resolved, config.model_copy(update={"backend": "torch"})):
        with served(ingress_of(each)) as url:
            (entry,) = httpx.get(f"{url}/v1/models").json()["data"]
            assert (entry["backend"], entry["quantize"]) == (each.backend, "none")
            answer = httpx.post(f"{url}/v1/chat/completions", json=ask, timeout=60).json()
            said[each.backend] = answer["choices"][0]["message"]["content"]
    assert said["openvino"] == said["torch"]


def test_openvino_serves_one_model(model_folder: Path) -> None:
    more = {"models": {"other": {"path": str(model_folder)}}, "model": str(model_folder), "port": 0}
    with pytest.raises(HeadwaterError, match="the backend openvino serves one model, without adapters"):
        app.check(AppConfig.model_validate(more | {"backend": "openvino"}))
    assert AppConfig.model_validate(more | {"backend": "auto"}).choice().backend == "torch"


def test_openvinos_one_model_is_swapped_for_one_that_it_covers(
    news_config: AppConfig, folders: dict[str, str], tmp_path: Path
) -> None:
    config = config_of(news_config, tmp_path / "store", {}, backend="openvino")
    strange = tmp_path / "strange"
    shutil.copytree(folders["other"], strange)
    told = json.loads((strange / "config.json").read_text())
    (strange / "config.json").write_text(json.dumps(told | {"hidden_act": "gelu"}))
    ask = {"model": "tiny", "prompt": "The council", "max_tokens": 8, "seed": 3, "temperature": 1}
    with served(ingress_of(config)) as url:

        def said() -> str:
            return str(httpx.post(f"{url}/v1/completions", json=ask, timeout=60).json()["choices"][0]["text"])

        def put(name: str, path: object) -> httpx.Response:
            return httpx.post(f"{url}/v1/models", json={"id": name, "path": str(path)}, timeout=60)

        before = said()
        assert "cannot run this model: it knows the activation" in put("tiny", strange).text
        assert "serves one model" in put("more", folders["other"]).text
        assert said() == before
        assert put("tiny", folders["other"]).status_code == 201
        assert said() != before


def test_what_cannot_be_had_is_refused_before_anything_starts(model_folder: Path, tmp_path: Path) -> None:
    config = AppConfig(model=str(model_folder), port=0, quantize="int8")
    with pytest.raises(HeadwaterError, match="`quantize: int8` needs the backend openvino"):
        app.check(config)
    told = json.loads((model_folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(told | {"model_type": "gpt2"}))
    with pytest.raises(HeadwaterError, match="cannot run this model: it knows"):
        app.check(AppConfig(model=str(tmp_path), port=0, backend="openvino"))
    with pytest.raises(HeadwaterError, match="--backend is torch or openvino or auto"):
        batches.chosen(str(model_folder), "tensorrt", "none", 0)


def test_a_batch_of_another_backend_is_another_batch(model_folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    body = {"model": "m", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 6, "seed": 2}
    source.write_text(
        json.dumps({"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}) + "\n"
    )
    chosen = batches.chosen(str(model_folder), "auto", "int8", 0)
    job = batches.BatchJob(str(source), str(tmp_path / "out.jsonl"), str(model_folder))
    other = batches.BatchJob(
        job.input, job.output, job.model, backend=chosen.backend, quantize=chosen.quantize
    )
    assert set(other.identity()) - set(job.identity()) == {"backend", "quantize"}
    work = Artifact(str(tmp_path / "work"))
    worker = BatchWorker(job.input, Artifact(job.model), work, 6, 2, backend="openvino", quantize="int8")
    assert worker._engine.precision == "int8"
    size = source.stat().st_size
    unit = {"unit": "u", "line": 1, "start": 0, "end": size, "duplicates": [], "too_long": False}
    assert worker(unit)["answers"] == 1


def test_openvino_reports_to_nobody(tmp_path: Path) -> None:
    (tmp_path / "openvino_telemetry.py").write_text("raise SystemExit('telemetry is imported')")
    code = "from headwater.llm.inference.openvino import runtime; print(runtime().__version__)"
    paths = [str(tmp_path), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
