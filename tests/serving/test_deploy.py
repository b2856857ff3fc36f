"""The endpoint deployed by a Serve config: API keys are required, and requests are answered."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from ray import serve
from ray.serve.schema import ServeDeploySchema

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.needs import Need
from headwater.cluster.runtime.session import Session
from headwater.cluster.storage.artifact import Artifact
from headwater.kubernetes import render
from headwater.recipe import parse
from headwater.serving import app, deploy
from headwater.serving.api.metrics import Metrics
from headwater.serving.config import AppConfig, ReplicaRange
from tests.ports import free_ports

RUN = """
import sys, time, httpx, yaml
from ray import serve
from ray.serve._private.api import serve_start
from ray.serve.schema import ServeDeploySchema
from headwater.cluster.runtime.session import Session
from headwater.cluster.storage.store import Store
config, key = yaml.safe_load(sys.stdin), sys.argv[2]
url = "http://{host}:{port}".format(**config["http_options"])
with Session(Store(sys.argv[1]), num_cpus=2) as session:
    session.ray()
    client = serve_start(http_options=config["http_options"], proxy_location="EveryNode")
    client.deploy_apps(ServeDeploySchema.model_validate(config))
    until = time.monotonic() + 120
    while (app := serve.status().applications.get("headwater")) is None or app.status != "RUNNING":
        assert time.monotonic() < until and (app is None or app.status != "DEPLOY_FAILED"), app
        time.sleep(0.5)
    asked = {"model": "headwater", "messages": [{"role": "user", "content": "What of the bridge?"}]}
    without = httpx.post(f"{url}/v1/chat/completions", json=asked, timeout=60)
    answer = httpx.post(
        f"{url}/v1/chat/completions", json=asked, timeout=60, headers={"authorization": f"Bearer {key}"}
    )
    probe = httpx.get(f"{url}/-/healthz")
    numbers = httpx.get(f"{url}/metrics").text
    print(without.status_code, answer.status_code, probe.status_code, 'replica="' in numbers)
    print(answer.json()["citations"][0]["url"])
    serve.shutdown()
"""


TOO_BUSY = """
import sys
from ray import serve
from ray.serve._private import api
from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.session import Session
from headwater.cluster.storage.store import Store
from headwater.serving import app
from headwater.serving.config import AppConfig
api.HTTP_PROXY_TIMEOUT = 0.001
with Session(Store(sys.argv[1]), num_cpus=2) as session:
    try:
        app.start(AppConfig(model=sys.argv[2]), session)
    except HeadwaterError as error:
        print("said:", error, flush=True)
    print("left:", serve.status().applications, serve.status().proxies, flush=True)
"""


@pytest.mark.soak
def test_a_machine_too_busy_for_the_proxy_is_told_what_to_do_and_nothing_is_left(
    model_folder: Path, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TOO_BUSY, str(tmp_path), str(model_folder)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    )
    assert done.returncode == 0, done.stderr
    assert "said: " in done.stdout and "the endpoint did not start: HTTP proxies not available" in done.stdout
    assert "RAY_worker_niceness=0" in done.stdout
    assert "left: {} {}" in done.stdout


def test_no_endpoint_is_opened_without_keys(model_folder: Path) -> None:
    with pytest.raises(HeadwaterError, match="no API keys are set, but this endpoint is open to the network"):
        deploy.application({"model": str(model_folder)})


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "server.example"])
def test_an_address_that_others_reach_is_refused_without_keys_before_anything_starts(host: str) -> None:
    with pytest.raises(HeadwaterError, match=r"serve\.host.*no API keys.*serve\.api_keys"):
        app.start(AppConfig(model="/nowhere", host=host))


def test_no_address_at_all_would_be_every_address_and_is_refused() -> None:
    with pytest.raises(ValidationError, match="host"):
        AppConfig(model="/nowhere", host="")


@pytest.mark.parametrize(
    ("host", "keyed"),
    [("127.0.0.1", False), ("127.9.8.7", False), ("::1", False), ("localhost", False), ("0.0.0.0", True)],
)
def test_localhost_needs_no_keys_and_other_addresses_are_open_to_those_who_have_one(
    host: str, keyed: bool, tmp_path: Path
) -> None:
    (tmp_path / "keys").write_text("key\n")
    keys = str(tmp_path / "keys") if keyed else ""
    with pytest.raises(HeadwaterError, match="no model in this folder"):  # the next check
        app.start(AppConfig(model="/nowhere", host=host, api_keys=keys))


def test_replicas_that_the_cluster_has_no_room_for_are_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(Session, "ray", lambda session: pytest.fail("nothing is started"))
    monkeypatch.setattr("headwater.serving.room.nodes", lambda session, gpus: ([Need(2.0, 1.0)], False))
    spare = ReplicaRange.model_validate({"min_replicas": 2, "max_replicas": 3, "gpus": 1})
    with pytest.raises(HeadwaterError, match=r"2 `engine` replicas of 0\.2 CPUs and 1 GPU") as refused:
        app.start(AppConfig(model=str(tmp_path), engine=spare))
    assert "`serve.engine.min_replicas`" in str(refused.value.fix)


def test_a_wrong_setting_is_named() -> None:
    with pytest.raises(HeadwaterError, match=r"modl: Extra inputs are not permitted.*correct `args`"):
        deploy.application({"modl": "x", "model": "y"})


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("key\n")
    with pytest.raises(HeadwaterError, match="no model in this folder"):
        deploy.application({"model": str(tmp_path / "model"), "api_keys": str(tmp_path / "keys")})


@pytest.fixture
def config(model_folder: Path, news_index: Artifact, tmp_path: Path) -> dict[str, Any]:
    """Of a recipe, for an endpoint on a free port of this machine with one key, open-sesame."""
    recipe = parse(
        {
            "name": "x",
            "store": str(tmp_path / "store"),
            "acquire": {"sources": [{"kind": "folder", "paths": ["s3://b/pages"]}]},
            "serve": {"api": {"cpus": 0.1, "min_replicas": 1, "max_replicas": 2}},
        },
        "test",
    )
    (tmp_path / "keys").write_text("# for the test\nopen-sesame\n")
    config = render.serve_config(recipe, model=str(model_folder), index=news_index.location)
    assert config["http_options"]["host"] == "0.0.0.0"
    config["http_options"] = {"host": "127.0.0.1", "port": free_ports(1)[0]}
    config["applications"][0]["args"]["api_keys"] = str(tmp_path / "keys")
    return config


def test_a_recipes_serve_config_makes_the_application(config: dict[str, Any]) -> None:
    (described,) = ServeDeploySchema.model_validate(config).applications
    assert described.import_path == "headwater.serving.deploy:application"
    assert isinstance(deploy.application(described.args), serve.Application)


@pytest.mark.soak
def test_a_recipes_serve_config_deploys_and_answers_those_who_have_a_key(
    config: dict[str, Any], tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(tmp_path), "open-sesame"],
        input=yaml.safe_dump(config),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    statuses, cited = done.stdout.split("\n")[:2]
    assert statuses == "401 200 200 True"
    assert cited == "https://news.example/story/0"


def test_metrics_of_several_replicas_are_labelled() -> None:
    one, alone = Metrics(replica="a1"), Metrics()
    for metrics in (one, alone):
        metrics.tokens.labels("prompt", "m").inc(3)
    assert b'headwater_tokens_total{kind="prompt",model="m",replica="a1"} 3.0' in one.render()
    assert b'headwater_tokens_total{kind="prompt",model="m"} 3.0' in alone.render()
