"""Security and resource rules for every pod and object of every overlay."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.k8s import schemas
from tests.k8s.conftest import OVERLAYS, Manifest, built

SECRET_NAMES = re.compile(r"password|secret|token|access_key|api_key", re.IGNORECASE)
PINNED = re.compile(r"^[\w./-]+(:\d+/[\w./-]+)?:(?!latest$)\w[\w.-]*$")
ANYONE = {"0.0.0.0/0", "::/0"}
METADATA_ADDRESS = "169.254.0.0/16"


def _pods(manifests: tuple[Manifest, ...]) -> Iterator[Manifest]:
    for manifest in manifests:
        for template in schemas.pod_templates(manifest):
            yield template["spec"]


def _containers(manifests: tuple[Manifest, ...]) -> Iterator[Manifest]:
    for pod in _pods(manifests):
        yield from pod["containers"]
        yield from pod.get("initContainers", [])
    for manifest in manifests:  # KubeRay makes the autoscaler's container from these settings
        for cluster in _values(manifest, "autoscalerOptions"):
            yield {"name": "autoscaler", "image": "head:its-own", **cluster}


def _values(value: Any, key: str) -> Iterator[Any]:
    if isinstance(value, dict):
        for name, inner in value.items():
            if name == key:
                yield inner
            yield from _values(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from _values(inner, key)


def test_no_container_runs_as_root_or_can_become_it(manifests: tuple[Manifest, ...]) -> None:
    for pod in _pods(manifests):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC", "hostUsers"} & set(pod)
    for container in _containers(manifests):
        security = container["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["allowPrivilegeEscalation"] is False
        assert security["privileged"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}


def test_root_file_systems_are_read_only_and_writable_volumes_have_size_limits(
    manifests: tuple[Manifest, ...],
) -> None:
    assert all(c["securityContext"]["readOnlyRootFilesystem"] is True for c in _containers(manifests))
    for pod in _pods(manifests):
        for volume in pod.get("volumes", []):
            assert "hostPath" not in volume
            if "emptyDir" in volume:
                assert volume["emptyDir"]["sizeLimit"]


def test_ray_has_room_for_its_objects_in_shared_memory(manifests: tuple[Manifest, ...]) -> None:
    for manifest in manifests:
        pools = [pool for pools in _values(manifest, "workerGroupSpecs") for pool in pools]
        for group in [*_values(manifest, "headGroupSpec"), *pools]:
            pod = group["template"]["spec"]
            mounts = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
            (shared,) = (v["emptyDir"] for v in pod["volumes"] if v["name"] == mounts["/dev/shm"])
            assert "/tmp" in mounts
            assert shared["medium"] == "Memory"
            room = _bytes(shared["sizeLimit"])
            memory = _bytes(pod["containers"][0]["resources"]["limits"]["memory"])
            assert int(group["rayStartParams"]["object-store-memory"]) <= room <= memory / 2


def _bytes(quantity: str) -> int:
    return int(quantity.removesuffix("Gi")) << 30


def test_every_container_has_resource_requests_and_limits(manifests: tuple[Manifest, ...]) -> None:
    for container in _containers(manifests):
        requests, limits = container["resources"]["requests"], container["resources"]["limits"]
        assert {"cpu", "memory", "ephemeral-storage"} <= set(limits)
        assert requests == limits  # nobody's work is pushed out by a neighbour's


def test_images_are_pinned_by_a_tag(manifests: tuple[Manifest, ...]) -> None:
    images = {container["image"] for container in _containers(manifests)}
    assert all(PINNED.match(image) for image in images), images


def test_only_heads_may_talk_to_the_kubernetes_api(manifests: tuple[Manifest, ...]) -> None:
    for manifest in manifests:
        if manifest["kind"] == "ServiceAccount":
            assert manifest["automountServiceAccountToken"] is False
        assert manifest["kind"] not in ("Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding")
        heads = [group["template"]["spec"] for group in _values(manifest, "headGroupSpec")]
        for template in schemas.pod_templates(manifest):
            pod = template["spec"]
            assert pod["automountServiceAccountToken"] is (pod in heads)
            assert pod["serviceAccountName"] == ("headwater-head" if pod in heads else "headwater-worker")


def test_no_manifest_contains_a_secret(manifests: tuple[Manifest, ...]) -> None:
    assert "Secret" not in {manifest["kind"] for manifest in manifests}
    for container in _containers(manifests):
        for variable in container.get("env", []):
            if SECRET_NAMES.search(variable["name"]):
                assert "secretKeyRef" in variable["valueFrom"] and "value" not in variable
    for manifest in manifests:
        for password in _values(manifest, "redisPassword"):
            assert "value" not in password
        if manifest["kind"] == "ConfigMap":
            assert not any(SECRET_NAMES.search(key) for key in manifest["data"])


def test_every_pod_can_be_told_which_run_it_belongs_to(manifests: tuple[Manifest, ...]) -> None:
    for manifest in manifests:
        if manifest["apiVersion"].startswith("ray.io/"):
            instance = manifest["metadata"]["labels"]["app.kubernetes.io/instance"]
            labels = [template["metadata"]["labels"] for template in schemas.pod_templates(manifest)]
            assert {label["app.kubernetes.io/instance"] for label in labels} == {instance}
            budgets = [m for m in manifests if m["kind"] == "PodDisruptionBudget"]
            chosen = [b["spec"]["selector"]["matchLabels"]["app.kubernetes.io/instance"] for b in budgets]
            assert instance in chosen


def test_disruption_budgets_use_numeric_min_available(
    manifests: tuple[Manifest, ...],
) -> None:
    for manifest in manifests:
        if manifest["kind"] == "PodDisruptionBudget":
            assert isinstance(manifest["spec"]["minAvailable"], int)
            assert "maxUnavailable" not in manifest["spec"]


@pytest.fixture(params=OVERLAYS)
def network_policies(request: pytest.FixtureRequest, kubectl: Path) -> list[Manifest]:
    """An overlay's policies; what is rendered relies on them."""
    return [manifest for manifest in built(request.param) if manifest["kind"] == "NetworkPolicy"]


def test_a_policy_denies_all_traffic_by_default(network_policies: list[Manifest]) -> None:
    everything = [m["spec"] for m in network_policies if m["spec"]["podSelector"] == {}]
    assert {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]} in everything


def test_no_ingress_is_open_to_all_and_the_metadata_address_is_blocked(
    network_policies: list[Manifest],
) -> None:
    for policy in network_policies:
        for rule in policy["spec"].get("ingress", []):
            assert rule["from"]
            assert not any("ipBlock" in peer for peer in rule["from"])
        for rule in policy["spec"].get("egress", []):
            for peer in rule["to"]:
                if peer.get("ipBlock", {}).get("cidr") in ANYONE:
                    assert METADATA_ADDRESS in peer["ipBlock"]["except"]
                    assert rule["ports"]


def test_every_connection_is_allowed_by_ingress_and_egress_policies(network_policies: list[Manifest]) -> None:
    """A connection allowed on only one side is denied, a common fault of network policies."""

    def allows(direction: str, labels: dict[str, str], peer: dict[str, str], port: int) -> bool:
        for policy in network_policies:
            spec = policy["spec"]
            if not _selects(spec["podSelector"], labels):
                continue
            for rule in spec.get(direction, []):
                ports = {entry["port"] for entry in rule.get("ports", [])}
                others = rule["to" if direction == "egress" else "from"]
                here = any("podSelector" in o and "namespaceSelector" not in o for o in others)
                known = any(_selects(o.get("podSelector", {}), peer) for o in others)
                if here and known and (not ports or port in ports):
                    return True
        return False

    head = {"ray.io/is-ray-node": "yes", "ray.io/node-type": "head"}
    worker = {"ray.io/is-ray-node": "yes", "ray.io/node-type": "worker"}
    submitter = {"app.kubernetes.io/component": "submitter"}
    dialogues = [
        (worker, head, 6379),
        (head, worker, 12345),
        (worker, worker, 29500),
        (submitter, head, 8265),
    ]
    if any("redis" in policy["metadata"]["name"] for policy in network_policies):
        dialogues.append((head, {"app.kubernetes.io/name": "headwater-redis"}, 6379))
    for caller, called, port in dialogues:
        assert allows("egress", caller, called, port), (caller, called, port)
        assert allows("ingress", called, caller, port), (caller, called, port)
    assert not allows("ingress", head, submitter, 6379)
    assert not allows("egress", submitter, worker, 8000)


def _selects(selector: Manifest, labels: dict[str, str]) -> bool:
    wanted = selector.get("matchLabels", {})
    among = {e["key"]: e["values"] for e in selector.get("matchExpressions", []) if e["operator"] == "In"}
    return all(labels.get(key) == value for key, value in wanted.items()) and all(
        labels.get(key) in values for key, values in among.items()
    )
