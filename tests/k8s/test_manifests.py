"""Every manifest is valid for the API server; the checks report broken ones by name."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.k8s import operator_rules, schemas
from tests.k8s.conftest import ROOT, Manifest, built, rendered


def _custom(manifests: tuple[Manifest, ...]) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["apiVersion"].startswith("ray.io/")]


def test_built_in_kinds_and_all_pods_fit_kubernetes_schemas(manifests: tuple[Manifest, ...]) -> None:
    for manifest in manifests:
        schemas.check(manifest, crds=None)
    pods = [pod for manifest in _custom(manifests) for pod in schemas.pod_templates(manifest)]
    assert len(pods) >= 2


def test_custom_kinds_fit_kuberays_own_schemas(manifests: tuple[Manifest, ...], crds: Path) -> None:
    assert _custom(manifests)
    for manifest in _custom(manifests):
        schemas.check_custom(manifest, crds)


def test_custom_kinds_break_no_rule_of_their_operators(manifests: tuple[Manifest, ...]) -> None:
    for manifest in _custom(manifests):
        assert operator_rules.broken(manifest) == []


def test_names_are_unique_and_everything_has_a_namespace(manifests: tuple[Manifest, ...]) -> None:
    names = [(manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests]
    assert len(set(names)) == len(names)
    for manifest in manifests:
        assert manifest["kind"] == "Namespace" or manifest["metadata"]["namespace"]


def test_every_yaml_file_of_the_folder_is_part_of_some_build() -> None:
    """A file outside all kustomizations would not be checked."""
    named: set[Path] = set()
    folder = ROOT / "k8s"
    for kustomization in folder.rglob("kustomization.yaml"):
        content = yaml.safe_load(kustomization.read_text())
        named.add(kustomization)
        named |= {(kustomization.parent / name).resolve() for name in content.get("resources", [])}
    assert {path for path in folder.rglob("*.yaml") if path not in named} == set()


Break = Callable[[Manifest], Any]


def _head(spec: Manifest) -> Manifest:
    container: Manifest = spec["headGroupSpec"]["template"]["spec"]["containers"][0]
    return container


BREAKS: dict[str, tuple[str, Break, str]] = {
    "unknown field of the cluster": (
        "gpu-64",
        lambda m: m["spec"].update(autoscalerOption={}),
        r"spec: .*'autoscalerOption' was unexpected",
    ),
    "unknown field of a pod": (
        "gpu-64",
        lambda m: m["spec"]["headGroupSpec"]["template"]["spec"].update(tolerationz=[]),
        r"headGroupSpec\.template\.spec: .*'tolerationz' was unexpected",
    ),
    "unknown field of a container": (
        "gpu-64",
        lambda m: _head(m["spec"])["securityContext"].update(readOnlyRootFileSystem=True),
        r"containers\.0\.securityContext: .*'readOnlyRootFileSystem' was unexpected",
    ),
    "wrong type": (
        "gpu-64",
        lambda m: m["spec"]["workerGroupSpecs"][0].update(maxReplicas="four"),
        r"spec\.workerGroupSpecs\.0\.maxReplicas: 'four' is not of type 'integer'",
    ),
    "wrong type in rayStartParams": (
        "gpu-64",
        lambda m: m["spec"]["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}),
        r"rayStartParams\.num-cpus: 0 is not of type 'string'",
    ),
    "wrong word": (
        "gpu-64",
        lambda m: m["spec"]["autoscalerOptions"].update(version="v3"),
        r"spec\.autoscalerOptions\.version: 'v3' is not one of",
    ),
    "wrong way to authenticate": (
        "gpu-64",
        lambda m: m["spec"]["authOptions"].update(mode="tokens"),
        r"spec\.authOptions\.mode: 'tokens' is not one of",
    ),
    "no head": (
        "gpu-64",
        lambda m: m["spec"].pop("headGroupSpec"),
        r"spec: 'headGroupSpec' is a required property",
    ),
    "pool without a name": (
        "gpu-64",
        lambda m: m["spec"]["workerGroupSpecs"][1].pop("groupName"),
        r"workerGroupSpecs\.1: 'groupName' is a required property",
    ),
    "quantity that is none": (
        "gpu-64",
        lambda m: _head(m["spec"])["resources"]["limits"].update(memory="16 gigabytes"),
        r"resources\.limits\.memory: '16 gigabytes' does not match",
    ),
    "wrong deletion policy": (
        "job on CPUs",
        lambda m: m["spec"]["deletionStrategy"]["deletionRules"][0].update(policy="DeleteAll"),
        r"deletionRules\.0\.policy: 'DeleteAll' is not one of",
    ),
    "deletion without a condition": (
        "job on CPUs",
        lambda m: m["spec"]["deletionStrategy"]["deletionRules"][0].pop("condition"),
        r"deletionRules\.0: 'condition' is a required property",
    ),
    "deadline in words": (
        "job on CPUs",
        lambda m: m["spec"].update(activeDeadlineSeconds="1h"),
        r"spec\.activeDeadlineSeconds: '1h' is not of type 'integer'",
    ),
    "upgrade without a gateway": (
        "service on CPUs",
        lambda m: m["spec"]["upgradeStrategy"]["clusterUpgradeOptions"].pop("gatewayClassName"),
        r"clusterUpgradeOptions: 'gatewayClassName' is a required property",
    ),
    "serve config that is not text": (
        "service on CPUs",
        lambda m: m["spec"].update(serveConfigV2={"applications": []}),
        r"spec\.serveConfigV2: .* is not of type 'string'",
    ),
}


@pytest.mark.parametrize("case", BREAKS)
def test_a_broken_custom_manifest_is_refused_by_field(case: str, kubectl: Path, crds: Path) -> None:
    source, spoil, complaint = BREAKS[case]
    manifests = rendered(source) if " " in source else built(source)
    (manifest,) = copy.deepcopy(_custom(manifests))
    schemas.check_custom(manifest, crds)
    spoil(manifest)
    with pytest.raises(schemas.Invalid, match=complaint):
        schemas.check_custom(manifest, crds)


POD_BREAKS: dict[str, tuple[Break, str]] = {
    "unknown field": (lambda c: c.update(volumeMount=[]), "'volumeMount' was unexpected"),
    "wrong type": (lambda c: c["ports"][0].update(containerPort="http"), "containerPort: 'http' is not"),
    "no name": (lambda c: c.pop("name"), "'name' is a required property"),
}


@pytest.mark.parametrize("case", POD_BREAKS)
def test_a_broken_pod_inside_a_custom_kind_is_refused_without_its_crd(case: str, kubectl: Path) -> None:
    spoil, complaint = POD_BREAKS[case]
    (manifest,) = copy.deepcopy(_custom(built("gpu-64")))
    spoil(_head(manifest["spec"]))
    with pytest.raises(schemas.Invalid, match=complaint):
        schemas.check(manifest, crds=None)


BUILT_IN_BREAKS: dict[str, tuple[str, Break, str]] = {
    "NetworkPolicy": (
        "NetworkPolicy",
        lambda m: m["spec"].update(policyType=["Egress"]),
        "'policyType' was unex",
    ),
    "budget": (
        "PodDisruptionBudget",
        lambda m: m["spec"].update(minAvailable=[1]),
        r"spec\.minAvailable: \[1\]",
    ),
    "account": ("ServiceAccount", lambda m: m.update(automount=False), "'automount' was unexpected"),
    "StatefulSet": ("StatefulSet", lambda m: m["spec"].pop("selector"), "'selector' is a required property"),
}


@pytest.mark.parametrize("case", BUILT_IN_BREAKS)
def test_a_broken_built_in_manifest_is_refused_by_field(case: str, kubectl: Path) -> None:
    kind, spoil, complaint = BUILT_IN_BREAKS[case]
    manifest = copy.deepcopy(next(m for m in built("gpu-64") if m["kind"] == kind))
    spoil(manifest)
    with pytest.raises(schemas.Invalid, match=complaint):
        schemas.check(manifest, crds=None)


RULE_BREAKS: dict[str, tuple[str, Break, str]] = {
    "both ways to end": ("job on CPUs", lambda m: m["spec"].update(shutdownAfterJobFinishes=True), "exclude"),
    "workers first": (
        "job on CPUs",
        lambda m: m["spec"]["deletionStrategy"]["deletionRules"][0].update(policy="DeleteWorkers"),
        "DeleteWorkers does not go with autoscaling",
    ),
    "queue and autoscaling": (
        "job in a queue",
        lambda m: m["spec"]["rayClusterSpec"].update(enableInTreeAutoscaling=True),
        "cannot autoscale",
    ),
    "long name": ("job on CPUs", lambda m: m["metadata"].update(name="x" * 48), "at most 47"),
    "upgrade without autoscaler": (
        "service on CPUs",
        lambda m: m["spec"]["rayClusterConfig"].update(enableInTreeAutoscaling=False),
        "needs the autoscaler",
    ),
    "step above surge": (
        "service on CPUs",
        lambda m: m["spec"]["upgradeStrategy"]["clusterUpgradeOptions"].update(stepSizePercent=60),
        "within maxSurgePercent",
    ),
    "old Ray": (
        "service on CPUs",
        lambda m: m["spec"]["rayClusterConfig"].update(rayVersion="2.51.0"),
        "needs rayVersion 2.52",
    ),
    "restart policy": (
        "service on CPUs",
        lambda m: m["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"].update(
            restartPolicy="Always"
        ),
        "wants restartPolicy Never",
    ),
}


@pytest.mark.parametrize("case", RULE_BREAKS)
def test_the_check_reports_manifests_that_an_operator_refuses(case: str, kubectl: Path) -> None:
    source, spoil, complaint = RULE_BREAKS[case]
    (manifest,) = copy.deepcopy(_custom(rendered(source)))
    spoil(manifest)
    assert any(complaint in words for words in operator_rules.broken(manifest))
