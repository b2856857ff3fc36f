"""A recipe as Kubernetes objects: the RayJob that runs it, the RayService that serves what it made.

The objects come from k8s/ (an overlay with `components/job` or `components/service` on top); here they get
what the recipe decides: how many pods of each pool, the recipe itself, the Serve config, the name. Nothing
in this file reads or writes anything.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from headwater.cluster.errors import HeadwaterError
from headwater.data_pipeline.sources.spec import FileSource
from headwater.kubernetes.kustomize import Manifest
from headwater.kubernetes.pods import Need, cores, pods_for, serving_needs, training_needs
from headwater.recipe import Recipe
from headwater.serving.app import APPLICATION
from headwater.serving.config import AppConfig
from headwater.serving.deploy import IMPORT_PATH

CPU_POOL, GPU_POOL = "cpu", "gpu"
"""Names of the worker groups that an overlay may have."""
GPU = "nvidia.com/gpu"
INSTANCE = "app.kubernetes.io/instance"
QUEUE = "kueue.x-k8s.io/queue-name"
RECIPE_FOLDER = "/recipe"
KEYS_FOLDER = "/etc/headwater/keys"
LONGEST_NAME = 47
"""KubeRay's limit for a RayJob and a RayService: their pods' names are made from it."""
SERVE_PORT, AGENT_PORT = 8000, 52365
HAPROXY = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}


@dataclass(frozen=True)
class Target:
    """Where a rendered object goes; an empty string leaves what the overlay says."""

    name: str
    namespace: str = ""
    image: str = ""
    gpu_image: str = ""
    """Image of the GPU pool; `image` where only that is given."""
    store_claim: str = ""
    """PersistentVolumeClaim that holds a store which is a folder; mounted at the store's path."""
    keys: str = "headwater-api-keys"
    """Secret whose entry `keys` holds the endpoint's API keys, one a line."""
    queue: str = ""
    """Kueue queue in which a job waits."""


def check_reachable(recipe: Recipe, target: Target) -> None:
    """Everything that pods read or write has to be where every pod reaches it.

    Raises HeadwaterError for a store in a folder of this machine alone, and for input files there.
    """
    if not recipe.store.startswith("s3://"):
        if not recipe.store.startswith("/"):
            raise HeadwaterError(
                "the store is a folder of this machine, which no pod reaches",
                where=recipe.store,
                fix="set `store` to s3://bucket/prefix, or to an absolute path on shared storage",
            )
        if not target.store_claim:
            raise HeadwaterError(
                "the store is a folder, and nothing is said of the volume that holds it",
                where=recipe.store,
                fix="name its PersistentVolumeClaim with --store-claim",
            )
    elif target.store_claim:
        raise HeadwaterError(
            "this store is in a bucket, not on a volume", where=recipe.store, fix="leave --store-claim away"
        )
    files = [
        path for source in recipe.acquire.sources if isinstance(source, FileSource) for path in source.paths
    ]
    for path in [*files, *recipe.sft.files]:
        if not path.startswith(("s3://", "https://", "http://", f"{recipe.store.rstrip('/')}/")):
            raise HeadwaterError(
                "is a file of this machine, which no pod reaches",
                where=path,
                fix="put it into a bucket (s3://…), behind https://, or below a store on shared storage",
            )


def object_name(name: str) -> str:
    """A recipe's name as Kubernetes and KubeRay take it."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if not re.match(r"[a-z]", plain) or len(plain) > LONGEST_NAME:
        raise HeadwaterError(
            f"makes no name for Kubernetes (a letter first, at most {LONGEST_NAME} characters)",
            where=name,
            fix="give another with --name",
        )
    return plain


# -- the job -----------------------------------------------------------------------------------
def render_job(recipe: Recipe, built: Sequence[Manifest], target: Target) -> list[Manifest]:
    """The recipe's ConfigMap, its RayJob and the head's disruption budget.

    `built` holds an overlay with `components/job`, and `components/queue` where `target.queue` is set.
    """
    check_reachable(recipe, target)
    job = _only(built, "RayJob")
    job["metadata"]["name"] = target.name
    spec = job["spec"]
    cluster = spec["rayClusterSpec"]
    _size_job(recipe, cluster, fixed=bool(target.queue))
    if target.queue:
        job["metadata"]["labels"][QUEUE] = target.queue
    volume = {"name": "recipe", "configMap": {"name": f"{target.name}-recipe"}}
    _mount(cluster["headGroupSpec"], volume, RECIPE_FOLDER, read_only=True)
    _common(recipe, cluster, target)
    submitter = spec["submitterPodTemplate"]["spec"]["containers"][0]
    submitter["image"] = cluster["headGroupSpec"]["template"]["spec"]["containers"][0]["image"]
    text = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    labels = {key: value for key, value in job["metadata"]["labels"].items() if key != QUEUE}
    recipe_map: Manifest = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": f"{target.name}-recipe", "labels": labels},
        "data": {"recipe.yaml": text},
    }
    return _placed([recipe_map, job], built, target, "job")


def _size_job(recipe: Recipe, cluster: Manifest, *, fixed: bool) -> None:
    """Pods of each pool: the GPU pool just holds the largest stage and starts empty, the CPU pool grows with
    the data as far as the overlay lets it. `fixed`: everything at once, for a queue.
    """
    most = {CPU_POOL: 1, GPU_POOL: 0}
    for stage, needs in training_needs(recipe).items():
        for pool, part in _by_pool(needs).items():
            if part:
                most[pool] = max(most[pool], _pods(cluster, pool, part, stage))
    _keep_pools(cluster, most)
    for group in _pools(cluster):
        on_cpus = group["groupName"] == CPU_POOL
        high = group["maxReplicas"] if on_cpus else most[GPU_POOL]
        low = high if fixed else int(on_cpus)
        group |= {"replicas": low, "minReplicas": low, "maxReplicas": high}


# -- the service -------------------------------------------------------------------------------
def render_service(
    recipe: Recipe, built: Sequence[Manifest], target: Target, *, model: str, index: str
) -> list[Manifest]:
    """The RayService of a finished run, with the budgets that keep it answering while nodes are drained.

    `built` holds an overlay with `components/service`; `model` and `index` are locations in the store.
    """
    check_reachable(recipe, target)
    service = _only(built, "RayService")
    service["metadata"]["name"] = target.name
    spec = service["spec"]
    config = serve_config(recipe, model=model, index=index)
    spec["serveConfigV2"] = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    cluster = spec["rayClusterConfig"]
    _size_service(recipe, cluster)
    keys = {"name": "api-keys", "secret": {"secretName": target.keys, "defaultMode": 0o440}}
    for group in _groups(cluster):
        _mount(group, keys, KEYS_FOLDER, read_only=True)
        container = group["template"]["spec"]["containers"][0]
        container["env"] += [{"name": name, "value": value} for name, value in HAPROXY.items()]
    for group in cluster["workerGroupSpecs"]:
        group["template"]["spec"]["containers"][0] |= _probes()
    _common(recipe, cluster, target)
    return _placed([service], built, target, "service")


def serve_config(recipe: Recipe, *, model: str, index: str) -> dict[str, Any]:
    """The Serve config (`ray.serve.schema.ServeDeploySchema`) of a recipe's endpoint."""
    settings = recipe.serve.model_dump() | {
        "host": "0.0.0.0",  # noqa: S104 - the pod's; the NetworkPolicy says who reaches it
        "port": SERVE_PORT,
        "api_keys": f"{KEYS_FOLDER}/keys",
        "model": model,
        "index": index,
        "store": recipe.store,
    }
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": settings["host"], "port": SERVE_PORT},
        "applications": [
            {
                "name": APPLICATION,
                "route_prefix": "/",
                "import_path": IMPORT_PATH,
                "args": AppConfig(**settings).model_dump(mode="json"),
            }
        ],
    }


def _size_service(recipe: Recipe, cluster: Manifest) -> None:
    sizes: dict[str, list[int]] = {CPU_POOL: [], GPU_POOL: []}
    for most in (False, True):
        for pool, part in _by_pool(serving_needs(recipe, most=most)).items():
            sizes[pool].append(_pods(cluster, pool, part, "serve") if part else 0)
    _keep_pools(cluster, {pool: high for pool, (_, high) in sizes.items()})
    for group in _pools(cluster):
        low, high = sizes[group["groupName"]]
        group |= {"replicas": low, "minReplicas": low, "maxReplicas": high}


def _probes() -> dict[str, Any]:
    """A pod answers when Serve's proxy on it does, and lives while Ray on it does.

    Without a readiness probe of its own KubeRay would look with wget.
    """
    return {
        "readinessProbe": {
            "httpGet": {"path": "/-/healthz", "port": SERVE_PORT},
            "periodSeconds": 5,
            "timeoutSeconds": 3,
            "failureThreshold": 1,
        },
        "livenessProbe": {
            "httpGet": {"path": "/api/healthz", "port": AGENT_PORT},
            "initialDelaySeconds": 60,
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": 12,
        },
    }


# -- what both share ---------------------------------------------------------------------------
def _only(built: Sequence[Manifest], kind: str) -> Manifest:
    (found,) = (manifest for manifest in built if manifest["kind"] == kind)
    return copy.deepcopy(found)


def _groups(cluster: Manifest) -> list[Manifest]:
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def _pools(cluster: Manifest) -> list[Manifest]:
    """The pools that a recipe sizes; a pool by another name keeps what the overlay says."""
    return [group for group in cluster["workerGroupSpecs"] if group["groupName"] in (CPU_POOL, GPU_POOL)]


def _by_pool(needs: Iterable[Need]) -> dict[str, list[Need]]:
    pools: dict[str, list[Need]] = {CPU_POOL: [], GPU_POOL: []}
    for need in needs:
        pools[GPU_POOL if need.gpus else CPU_POOL].append(need)
    return pools


def _pods(cluster: Manifest, pool: str, needs: Sequence[Need], what: str) -> int:
    """Pods of a pool that hold these actors; HeadwaterError when the overlay has not that many."""
    group = next((group for group in cluster["workerGroupSpecs"] if group["groupName"] == pool), None)
    if group is None:
        raise HeadwaterError(
            f"needs the {pool} pool, which the overlay does not have",
            where=what,
            fix="choose another --overlay, or ask for no GPUs in the recipe",
        )
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    pods = pods_for(needs, Need(cores(limits["cpu"]), float(limits.get(GPU, 0))), what)
    if pods > group["maxReplicas"]:
        raise HeadwaterError(
            f"needs {pods} pods of the {pool} pool, and the overlay has at most {group['maxReplicas']}",
            where=what,
            fix="choose a larger --overlay, or ask for less in the recipe",
        )
    return pods


def _keep_pools(cluster: Manifest, most: dict[str, int]) -> None:
    cluster["workerGroupSpecs"] = [
        group for group in cluster["workerGroupSpecs"] if most.get(group["groupName"], 1)
    ]


def _mount(group: Manifest, volume: dict[str, Any], path: str, *, read_only: bool) -> None:
    pod = group["template"]["spec"]
    pod["volumes"].append(copy.deepcopy(volume))
    pod["containers"][0]["volumeMounts"].append(
        {"name": volume["name"], "mountPath": path, "readOnly": read_only}
    )


def _common(recipe: Recipe, cluster: Manifest, target: Target) -> None:
    """Images, and the volume of a store that is a folder."""
    for group in _groups(cluster):
        image = target.image
        if group.get("groupName") == GPU_POOL:
            image = target.gpu_image or target.image
        if image:
            group["template"]["spec"]["containers"][0]["image"] = image
        if target.store_claim:
            claim = {"name": "store", "persistentVolumeClaim": {"claimName": target.store_claim}}
            _mount(group, claim, recipe.store, read_only=False)


def _placed(objects: list[Manifest], built: Sequence[Manifest], target: Target, kind: str) -> list[Manifest]:
    """Name, namespace and instance label on all; the build's disruption budgets as this instance's own."""
    instance = f"{target.name}-{kind}"
    for budget in (manifest for manifest in built if manifest["kind"] == "PodDisruptionBudget"):
        own = copy.deepcopy(budget)
        own["metadata"]["name"] = budget["metadata"]["name"].replace("headwater", instance, 1)
        objects.append(own)
    namespace = target.namespace or _only(built, "RayCluster")["metadata"]["namespace"]
    for manifest in objects:
        manifest["metadata"]["namespace"] = namespace
        _set_instance(manifest, instance)
    return objects


def _set_instance(value: Any, instance: str) -> None:
    if isinstance(value, dict):
        if INSTANCE in value:
            value[INSTANCE] = instance
        for inner in value.values():
            _set_instance(inner, instance)
    elif isinstance(value, list):
        for inner in value:
            _set_instance(inner, instance)
