"""docs/kubernetes.md names commands, options, files and secrets that exist."""

from __future__ import annotations

import os
import re
import shlex
import textwrap
from pathlib import Path

import typer.main
import yaml

from headwater.commands.runs import k8s
from headwater.kubernetes import kustomize, render
from tests.k8s import schemas
from tests.k8s.conftest import OVERLAYS, ROOT, built, quickstart

PAGE = (ROOT / "docs" / "kubernetes.md").read_text()


def _commands(program: str) -> list[list[str]]:
    """The page's commands of one program, split into words."""
    text = re.sub(r"\\\n\s+", " ", PAGE)
    found = []
    for line in re.findall(rf"^    (?:\w+=\S+ )*({program} .*)$", text, re.MULTILINE):
        found.append(shlex.split(line.split(" <<")[0], comments=True))
    return found


def test_every_render_command_has_options_that_exist() -> None:
    (render,) = typer.main.get_command(k8s.app).commands.values()  # type: ignore[attr-defined]
    known = {option for parameter in render.params for option in parameter.opts}
    commands = [words for words in _commands("headwater") if words[1:3] == ["k8s", "render"]]
    assert len(commands) >= 4
    for words in commands:
        assert (ROOT / words[3]).is_file()
        used = {word for word in words if word.startswith("-")}
        assert used <= known, words


def test_every_path_of_the_manifests_exists() -> None:
    paths = {path.rstrip("./") for path in re.findall(r"\bk8s/[\w./-]+", PAGE)}
    assert len(paths) >= 8
    for path in paths - {"k8s/overlays/mine/kustomization.yaml"}:
        assert (ROOT / path).exists(), path


def test_every_overlay_and_component_is_described() -> None:
    for name in [*OVERLAYS, *(folder.name for folder in (ROOT / "k8s" / "components").iterdir())]:
        assert f"`{name}`" in PAGE


def test_the_secrets_that_are_made_are_those_that_pods_read(kubectl: Path) -> None:
    made = {words[words.index("generic") + 1] for words in _commands("kubectl") if "generic" in words}
    text = yaml.safe_dump_all(built("gpu-64")) + render.Target(name="x").keys
    read = set(re.findall(r"headwater-(?:object-store|redis|api-keys)\b", text))
    assert made >= read
    assert made - read == {"headwater-api-keys-2"}


def test_the_policies_and_objects_of_the_page_are_valid() -> None:
    checked = []
    for block in re.findall(r"<<'EOF'\n(.*?)\n    EOF", PAGE, re.DOTALL):
        for manifest in yaml.safe_load_all(textwrap.dedent(block)):
            checked.append(manifest["kind"])
            if manifest["apiVersion"] == "networking.k8s.io/v1":
                schemas.check(manifest, crds=None)
    assert checked == ["GatewayClass", "NetworkPolicy", "ResourceFlavor", "ClusterQueue", "LocalQueue"]


def test_the_queues_quota_holds_the_largest_overlay_at_once(kubectl: Path) -> None:
    (queue,) = re.findall(r"kind: ClusterQueue.*?\n    ---", PAGE, re.DOTALL)
    quota = dict(re.findall(r"name: ([\w./-]+), nominalQuota: (\w+)", queue))
    (cluster,) = (m["spec"] for m in built("gpu-64") if m["kind"] == "RayCluster")
    groups = [(1, cluster["headGroupSpec"])] + [(g["maxReplicas"], g) for g in cluster["workerGroupSpecs"]]
    for name, unit in (("cpu", 1), ("nvidia.com/gpu", 1), ("memory", 1024), ("ephemeral-storage", 1024)):
        wanted = sum(
            count
            * int(
                str(g["template"]["spec"]["containers"][0]["resources"]["limits"].get(name, 0)).removesuffix(
                    "Gi"
                )
            )
            for count, g in groups
        )
        assert wanted <= int(quota[name].removesuffix("Ti")) * unit, (name, wanted)


def test_the_example_of_an_own_overlay_builds_and_takes_a_recipe(kubectl: Path, tmp_path: Path) -> None:
    (block,) = re.findall(r"    # k8s/overlays/mine/kustomization\.yaml\n(.*?)\n\n", PAGE, re.DOTALL)
    text = textwrap.dedent(block)
    overlays = os.path.relpath(kustomize.MANIFESTS / "overlays", tmp_path.resolve())
    text = text.replace("../cpu-small", f"{overlays}/cpu-small").replace(
        "../../components", f"{overlays}/../components"
    )
    (tmp_path / "kustomization.yaml").write_text(text)
    built_here = kustomize.build(tmp_path, ["job"])
    job = render.render_job(quickstart(), built_here, render.Target(name="x"))[1]
    assert job["metadata"]["namespace"] == "team"
    (pool,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert pool["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"] == "16"
    assert any(m["kind"] == "StatefulSet" for m in built_here)
