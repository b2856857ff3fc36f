"""What KubeRay and Kueue refuse beyond the schema: rules between fields, which no schema of a field can hold.

From KubeRay 1.7 (ray-operator/controllers/ray/utils/validation.go) and Kueue 0.19
(pkg/controller/jobs/rayjob).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

Manifest = dict[str, Any]
LONGEST = {"RayCluster": 53, "RayJob": 47, "RayService": 47}
QUEUE = "kueue.x-k8s.io/queue-name"
ORDER = ("DeleteWorkers", "DeleteCluster", "DeleteSelf")


def broken(manifest: Manifest) -> list[str]:
    """The rules that a manifest breaks, in words."""
    name, spec = manifest["metadata"]["name"], manifest["spec"]
    found = []
    if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name) or len(name) > LONGEST[manifest["kind"]]:
        found.append(f"name {name} is no DNS label of at most {LONGEST[manifest['kind']]} characters")
    if manifest["kind"] == "RayJob":
        return [*found, *_cluster(spec["rayClusterSpec"]), *_job(manifest)]
    if manifest["kind"] == "RayService":
        return [*found, *_cluster(spec["rayClusterConfig"]), *_service(spec)]
    return [*found, *_cluster(spec)]


def _cluster(spec: Manifest) -> Iterator[str]:
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    version = tuple(int(part) for part in spec.get("rayVersion", "0").split(".")[:2])
    if spec.get("authOptions", {}).get("mode") == "token" and version < (2, 52):
        yield "token authentication needs rayVersion 2.52 or later"
    for group in spec["workerGroupSpecs"]:
        if not 0 <= group["minReplicas"] <= group["maxReplicas"]:
            yield f"group {group['groupName']} has minReplicas above maxReplicas"
    if spec.get("autoscalerOptions", {}).get("version") == "v2":
        for group in groups:
            if group["template"]["spec"].get("restartPolicy", "Never") != "Never":
                yield "autoscaler v2 wants restartPolicy Never"
    for group in groups:
        if group.get("resources") and {"num-cpus", "num-gpus"} & set(group["rayStartParams"]):
            yield "resources stand in the group and in rayStartParams"
    if "gcsFaultToleranceOptions" in spec:
        env = spec["headGroupSpec"]["template"]["spec"]["containers"][0].get("env", [])
        if {"REDIS_PASSWORD", "RAY_REDIS_ADDRESS"} & {entry["name"] for entry in env}:
            yield "Redis is set in the head's environment and in gcsFaultToleranceOptions"


def _job(manifest: Manifest) -> Iterator[str]:
    spec = manifest["spec"]
    rules = (spec.get("deletionStrategy") or {}).get("deletionRules", [])
    shuts_down = spec.get("shutdownAfterJobFinishes", False)
    if rules and shuts_down:
        yield "deletionRules and shutdownAfterJobFinishes exclude each other"
    if spec.get("ttlSecondsAfterFinished", 0) and not shuts_down:
        yield "ttlSecondsAfterFinished needs shutdownAfterJobFinishes"
    if spec["rayClusterSpec"].get("enableInTreeAutoscaling") and any(
        rule["policy"] == "DeleteWorkers" for rule in rules
    ):
        yield "DeleteWorkers does not go with autoscaling"
    for condition in ("jobStatus", "jobDeploymentStatus"):
        for state in {rule["condition"].get(condition) for rule in rules} - {None}:
            times = {
                rule["policy"]: rule["condition"].get("ttlSeconds", 0)
                for rule in rules
                if rule["condition"].get(condition) == state
            }
            ordered = [times[policy] for policy in ORDER if policy in times]
            if ordered != sorted(ordered):
                yield f"deletion rules for {state} are out of order"
    if QUEUE in manifest["metadata"].get("labels", {}):
        if not shuts_down:
            yield "a job in a Kueue queue has to shut its cluster down"
        if spec["rayClusterSpec"].get("enableInTreeAutoscaling"):
            yield "a job in a Kueue queue cannot autoscale"


def _service(spec: Manifest) -> Iterator[str]:
    strategy = spec.get("upgradeStrategy", {})
    if strategy.get("type") != "NewClusterWithIncrementalUpgrade":
        if strategy.get("type") not in (None, "NewCluster", "None"):
            yield f"no such upgrade: {strategy['type']}"
        return
    options = strategy.get("clusterUpgradeOptions")
    if not spec["rayClusterConfig"].get("enableInTreeAutoscaling"):
        yield "an incremental upgrade needs the autoscaler"
    if not options:
        yield "an incremental upgrade needs clusterUpgradeOptions"
    elif not 0 < options["stepSizePercent"] <= options.get("maxSurgePercent", 100) <= 100:
        yield "stepSizePercent has to be within maxSurgePercent"
    ports = spec["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["containers"][0].get("ports", [])
    if "serve" not in {port.get("name") for port in ports}:
        yield "the head has no port named serve, so KubeRay makes no Service"
