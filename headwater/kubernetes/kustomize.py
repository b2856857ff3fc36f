"""Build the manifests of k8s/ with kustomize (included in kubectl)."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from headwater.cluster.errors import HeadwaterError

OVERLAYS = ("cpu-small", "gpu-8xh100", "gpu-64")
"""The overlays that come with the package, smallest first."""
MANIFESTS = Path(__file__).resolve().parents[1] / "data" / "k8s"

Manifest = dict[str, Any]


def build(overlay: Path, components: Sequence[str] = ()) -> list[Manifest]:
    """The objects of an overlay, with components of k8s/components applied in the given order.

    Raises HeadwaterError if neither kubectl nor kustomize is installed, or with their message if the build
    fails.
    """
    with tempfile.TemporaryDirectory(prefix="headwater-k8s-") as name:
        folder = Path(name).resolve()
        kustomization = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [_relative(overlay, folder)],
            "components": [_relative(MANIFESTS / "components" / part, folder) for part in components],
        }
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization), encoding="utf-8")
        done = subprocess.run([*_program(), str(folder)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise HeadwaterError(f"kustomize failed: {done.stderr.strip()}", where=str(overlay))
    return [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]


def dump(manifests: Sequence[Manifest]) -> str:
    """Manifests as one YAML stream, with multi-line strings as literal blocks."""
    return yaml.dump_all(manifests, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def find_overlay(name: str) -> Path:
    """Folder of an overlay: a name in k8s/overlays or a path. Raises HeadwaterError if there is none."""
    for folder in (MANIFESTS / "overlays" / name, Path(name)):
        if (folder / "kustomization.yaml").is_file():
            return folder
    known = ", ".join(sorted(path.name for path in (MANIFESTS / "overlays").iterdir()))
    raise HeadwaterError(
        "no such overlay", where=name, fix=f"choose one of {known}, or a folder with a kustomization.yaml"
    )


def _program() -> list[str]:
    if kubectl := shutil.which("kubectl"):
        return [kubectl, "kustomize"]
    if kustomize := shutil.which("kustomize"):
        return [kustomize, "build"]
    raise HeadwaterError("neither kubectl nor kustomize is on the path", fix="install kubectl")


def _relative(path: Path, start: Path) -> str:
    """kustomize accepts folders only as relative paths."""
    return os.path.relpath(path.resolve(), start)


class _Dumper(yaml.SafeDumper):
    """Writes multi-line strings as literal blocks and never uses anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)
