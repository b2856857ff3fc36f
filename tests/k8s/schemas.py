"""Checks a manifest as an API server would: KubeRay's CRDs and the built-in kinds, unknown fields refused."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

KUBERNETES = "1.33"
"""The oldest release that docs/kubernetes.md promises to run on."""

Manifest = dict[str, Any]
NOT_TO_BE_HAD = ("PodMonitor",)
"""Kinds without a CRD schema here."""


class Invalid(Exception):
    """A manifest that the API server would refuse: where, and why."""


def check(manifest: Manifest, crds: Path | None) -> None:
    """Raises Invalid, naming the field. `crds`: a folder with KubeRay's CRDs."""
    if manifest["apiVersion"].startswith("ray.io/"):
        if crds is not None:
            check_custom(manifest, crds)
        for template in pod_templates(manifest):
            built_in({"apiVersion": "v1", "kind": "PodTemplate", "template": template})
    elif manifest["kind"] not in NOT_TO_BE_HAD:
        built_in(manifest)


def built_in(manifest: Manifest) -> None:
    try:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        raise Invalid(_where(error)) from error


def check_custom(manifest: Manifest, crds: Path) -> None:
    """The CRD's own schema as `kubectl apply` has it: nulls dropped, defaults set, unknown fields refused."""
    schema = _crd_schema(crds, manifest["kind"], manifest["apiVersion"].split("/")[1])
    whole = copy.deepcopy(manifest)
    _complete(whole, schema)
    try:
        jsonschema.Draft202012Validator(schema).validate(whole)
    except jsonschema.ValidationError as error:
        raise Invalid(_where(error)) from error


def pod_templates(manifest: Manifest) -> Iterator[Manifest]:
    """Every pod template of a manifest, wherever it stands."""

    def walk(value: Any) -> Iterator[Manifest]:
        if isinstance(value, dict):
            for key, inner in value.items():
                if key in ("template", "submitterPodTemplate") and "spec" in inner:
                    yield inner
                yield from walk(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from walk(inner)

    yield from walk(manifest.get("spec", {}))


def _where(error: jsonschema.ValidationError) -> str:
    return f"{'.'.join(str(part) for part in error.absolute_path)}: {error.message}"


@functools.cache
def _crd_schema(folder: Path, kind: str, version: str) -> Manifest:
    text = (folder / f"ray.io_{kind.lower()}s.yaml").read_bytes()
    crd = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    (schema,) = (
        served["schema"]["openAPIV3Schema"]
        for served in crd["spec"]["versions"]
        if served["name"] == version and served["served"]
    )
    _strict(schema)
    schema["properties"]["metadata"] = {"type": "object", "required": ["name"]}
    return schema


def _strict(schema: Manifest) -> None:
    """An OpenAPI v3 structural schema as JSON Schema that refuses unknown fields."""
    if schema.pop("x-kubernetes-int-or-string", False):
        schema["type"] = ["integer", "string"]
        schema.pop("anyOf", None)
    keeps_unknown = schema.get("x-kubernetes-preserve-unknown-fields", False)
    if "properties" in schema and not keeps_unknown:
        schema.setdefault("additionalProperties", False)
    for inner in schema.get("properties", {}).values():
        _strict(inner)
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            _strict(schema[key])


def _complete(value: Any, schema: Manifest) -> None:
    if isinstance(value, dict):
        for key in [key for key, inner in value.items() if inner is None]:
            del value[key]
        for key, inner in schema.get("properties", {}).items():
            if key not in value and "default" in inner:
                value[key] = copy.deepcopy(inner["default"])
            if key in value:
                _complete(value[key], inner)
    elif isinstance(value, list):
        for item in value:
            _complete(item, schema.get("items", {}))
