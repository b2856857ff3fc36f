"""Views of a store: the table of artifacts, and one artifact's config, metrics and lineage."""

from __future__ import annotations

from typing import Any

import yaml
from rich.console import Group
from rich.panel import Panel
from rich.syntax import Syntax
from rich.table import Table
from rich.tree import Tree

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.artifact import Artifact, Manifest
from headwater.cluster.storage.store import Store

HEADLINE_METRICS = 4


def artifact_table(store: Store) -> Table:
    """One row per artifact, oldest first."""
    table = Table(title=f"artifacts of {store.location}", title_justify="left")
    for column in ("stage", "key", "started", "seconds", "size", "metrics", "made from"):
        table.add_column(column, overflow="fold")
    for manifest in store.manifests():
        table.add_row(
            manifest.stage,
            manifest.key[:8],
            manifest.started_at,
            f"{manifest.seconds:,.0f}",
            bytes_text(sum(record.size for record in manifest.files)),
            "  ".join(f"{name} {_number(value)}" for name, value in _main_metrics(manifest)),
            " ".join(f"{name}/{key[:8]}" for name, key in manifest.inputs.items()),
        )
    return table


def artifact_details(store: Store, artifact: Artifact) -> Group:
    """Config, metrics, files and lineage of one artifact. Raises HeadwaterError if it is unfinished."""
    manifest = artifact.manifest()
    if manifest is None:
        raise HeadwaterError(
            "this artifact is unfinished", where=artifact.location, fix="run its recipe to finish it"
        )
    files = Table("file", "size", "sha256", title="files", title_justify="left")
    for record in manifest.files[:50]:
        files.add_row(record.path, bytes_text(record.size), record.sha256[:16])
    if len(manifest.files) > 50:
        files.add_row(f"… {len(manifest.files) - 50} more", "", "")
    return Group(
        Panel(_yaml(manifest.config), title=f"{manifest.stage}/{manifest.key}: config"),
        Panel(_yaml(manifest.metrics), title="metrics"),
        files,
        _lineage(store, manifest, Tree("lineage")),
    )


def publish_report(store: Store, run: str, evaluation: Artifact) -> str:
    """Copy the report card into the run's folder and return its path."""
    folder = store.folder(f"runs/{run}")
    for name in evaluation.files("report"):
        folder.write_bytes(name.removeprefix("report/"), evaluation.read_bytes(name))
    return folder.path("report.md")


def _lineage(store: Store, manifest: Manifest, tree: Tree) -> Tree:
    branch = tree.add(f"{manifest.stage}/{manifest.key}")
    for stage, key in manifest.inputs.items():
        upstream = store.artifact(stage, key).manifest()
        if upstream is None:
            branch.add(f"{stage}/{key} (deleted)")
        else:
            _lineage(store, upstream, branch)
    return tree


def _main_metrics(manifest: Manifest) -> list[tuple[str, Any]]:
    plain = [(n, v) for n, v in manifest.metrics.items() if isinstance(v, int | float)]
    return plain[:HEADLINE_METRICS]


def _yaml(value: Any) -> Syntax:
    text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
    return Syntax(text, "yaml", word_wrap=True, background_color="default")


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def bytes_text(count: float) -> str:
    """A byte count as text in powers of ten, such as `12 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:,.0f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"
