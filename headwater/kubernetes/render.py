"""A recipe as Kubernetes objects: the RayJob that runs it, the RayService that serves the result.

The objects come from k8s/ (an overlay with `components/job` or `components/service` on top). The functions
here fill in what depends on the recipe: pods per pool, the recipe itself, the Serve config, names. They do
no I/O.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.needs import Need
from headwater.kubernetes.kustomize import Manifest
from headwater.kubernetes.pods import TooSmall, cores, pods_for, serving_needs, stage_needs
from headwater.llm.stages.base import CHATML
from headwater.pipeline import stages
from headwater.recipe import Recipe
from headwater.serving import traces
from headwater.serving.app import APPLICATION, PROXY_CHECKS
from headwater.serving.config import AppConfig
from headwater.serving.deploy import IMPORT_PATH

CPU_POOL, GPU_POOL = "cpu", "gpu"
"""Names of the worker groups sized from the recipe; an overlay may have either or both."""
GPU = "nvidia.com/gpu"
INSTANCE = "app.kubernetes.io/instance"
QUEUE = "kueue.x-k8s.io/queue-name"
RECIPE_FOLDER = "/recipe"
KEYS_FOLDER = "/etc/headwater/keys"
LONGEST_NAME = 47
"""Characters. KubeRay's limit for a RayJob and a RayService, from which it derives pod names."""
SERVE_PORT, AGENT_PORT = 8000, 52365
HAPROXY = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}


@dataclass(frozen=True)
class Target:
    """Name, namespace, images and secrets of rendered objects. An empty string keeps the overlay's value."""

    name: str
    namespace: str = ""
    image: str = ""
    gpu_image: str = ""
    """Image of the GPU pool; empty: `image`."""
    store_claim: str = ""
    """PersistentVolumeClaim for a store that is a folder; mounted at the store's path."""
    keys: str = "headwater-api-keys"
    """Secret whose entry `keys` holds the endpoint's API keys, one per line."""
    queue: str = ""
    """Kueue queue to submit the job to."""


def check_reachable(recipe: Recipe, target: Target) -> None:
    """Check that every pod can reach the store and the input files.

    Raises HeadwaterError for a store or an input file that exists only on this machine.
    """
    if not recipe.store.startswith("s3://"):
        if not recipe.store.startswith("/"):
            raise HeadwaterError(
                "the store is a folder on this machine, which pods cannot reach",
                where=recipe.store,
                fix="set `store` to s3://bucket/prefix, or to an absolute path on shared storage",
            )
        if not target.store_claim:
            raise HeadwaterError(
                "the store is a folder, but no volume is given for it",
                where=recipe.store,
                fix="name its PersistentVolumeClaim with --store-claim",
            )
    elif target.store_claim:
        raise HeadwaterError(
            "this store is in a bucket, not on a volume", where=recipe.store, fix="remove --store-claim"
        )
    reached = ("s3://", "hf://", "https://", "http://", f"{recipe.store.rstrip('/')}/")
    for path in _inputs(recipe):
        if not path.startswith(reached):
            raise HeadwaterError(
                "the file is on this machine, which pods cannot reach",
                where=path,
                fix="move it to a bucket (s3://…), an https:// server, or into a store on shared storage",
            )


def _inputs(recipe: Recipe) -> Iterator[str]:
    """The files and folders outside the store that the recipe's stages read."""
    for stage in stages(recipe):
        yield from (location for _, location in stage.files())
        for data in (getattr(stage.config, key, None) for key in ("data", "prompts")):
            yield from (file for source in data or () for file in source.files)
    if recipe.base is not None:
        template = recipe.base.chat_template
        yield from filter(None, (recipe.base.model, template if template != CHATML else None))


def object_name(name: str) -> str:
    """A recipe's name as a valid Kubernetes name. Raises HeadwaterError if it gives none."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if not re.match(r"[a-z]", plain) or len(plain) > LONGEST_NAME:
        raise HeadwaterError(
            f"not valid as a Kubernetes name (must start with a letter, at most {LONGEST_NAME} characters)",
            where=name,
            fix="choose one with --name",
        )
    return plain


# -- the job -----------------------------------------------------------------------------------
def render_job(recipe: Recipe, built: Sequence[Manifest], target: Target) -> list[Manifest]:
    """The recipe's ConfigMap, its RayJob and the disruption budget of the head.

    `built` is an overlay with `components/job`, plus `components/queue` if `target.queue` is set.
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
    text = recipe.to_yaml()
    labels = {key: value for key, value in job["metadata"]["labels"].items() if key != QUEUE}
    recipe_map: Manifest = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": f"{target.name}-recipe", "labels": labels},
        "data": {"recipe.yaml": text},
    }
    return _placed([recipe_map, job], built, target, "job")


def _size_job(recipe: Recipe, cluster: Manifest, *, fixed: bool) -> None:
    """Set each pool's pod counts. The GPU pool scales from 0 to what the largest stage needs, the CPU pool
    from 1 to the overlay's maximum. `fixed`: all pods from the start, as Kueue requires.
    """
    most = {CPU_POOL: 1, GPU_POOL: 0}
    moments = [(stage, needs) for stage, lists in stage_needs(recipe).items() for needs in lists]
    for stage, needs in moments:
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
    """The RayService of a finished run, with disruption budgets that keep it available during node drains.

    `built` is an overlay with `components/service`; `model` and `index` are locations in the store.
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
        container["env"] += [
            {"name": name, "value": value}
            for name, value in (HAPROXY | PROXY_CHECKS | traces.environment(recipe.serve.traces)).items()
        ]
    for group in cluster["workerGroupSpecs"]:
        group["template"]["spec"]["containers"][0] |= _probes()
    _common(recipe, cluster, target)
    return _placed([service], built, target, "service")


def serve_config(recipe: Recipe, *, model: str, index: str) -> dict[str, Any]:
    """The Serve config (`ray.serve.schema.ServeDeploySchema`) of a recipe's endpoint."""
    settings = recipe.serve.model_dump() | {
        "host": "0.0.0.0",  # noqa: S104 - inside the pod; the NetworkPolicy limits access
        "port": SERVE_PORT,
        "api_keys": f"{KEYS_FOLDER}/keys",
        "model": model,
        "index": index,
        "store": recipe.store,
    }
    tracing = traces.tracing_config(recipe.serve.traces)
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": settings["host"], "port": SERVE_PORT},
        **({"tracing_config": tracing} if tracing else {}),
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
    """Readiness probes Serve's proxy on the pod, liveness probes Ray's agent.

    Without an explicit readiness probe, KubeRay adds one that needs wget.
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


# -- shared helpers ----------------------------------------------------------------------------
def _only(built: Sequence[Manifest], kind: str) -> Manifest:
    (found,) = (manifest for manifest in built if manifest["kind"] == kind)
    return copy.deepcopy(found)


def _groups(cluster: Manifest) -> list[Manifest]:
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def _pools(cluster: Manifest) -> list[Manifest]:
    """The pools sized from the recipe; pools with other names keep the overlay's counts."""
    return [group for group in cluster["workerGroupSpecs"] if group["groupName"] in (CPU_POOL, GPU_POOL)]


def _by_pool(needs: Iterable[Need]) -> dict[str, list[Need]]:
    pools: dict[str, list[Need]] = {CPU_POOL: [], GPU_POOL: []}
    for need in needs:
        pools[GPU_POOL if need.gpus else CPU_POOL].append(need)
    return pools


def _pods(cluster: Manifest, pool: str, needs: Sequence[Need], what: str) -> int:
    """Number of pods that hold these actors. Raises HeadwaterError if the overlay allows fewer."""
    group = next((group for group in cluster["workerGroupSpecs"] if group["groupName"] == pool), None)
    if group is None:
        raise TooSmall(
            f"needs the {pool} pool, which the overlay does not have",
            where=what,
            fix="choose another --overlay, or set no GPUs in the recipe",
        )
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    pods = pods_for(needs, Need(cores(limits["cpu"]), float(limits.get(GPU, 0))), what)
    if pods > group["maxReplicas"]:
        raise TooSmall(
            f"needs {pods} pods of the {pool} pool, and the overlay has at most {group['maxReplicas']}",
            where=what,
            fix="choose a larger --overlay, or reserve less in the recipe",
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
    """Set images, and mount the volume of a store that is a folder."""
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
    """Add the disruption budgets, renamed for this instance; set namespace and instance label on all."""
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
