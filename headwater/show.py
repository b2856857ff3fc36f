"""Views of a store: the table of artifacts, and one artifact's config, metrics and lineage."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml
from rich.console import RenderableType
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from headwater.cluster.storage.artifact import Artifact, Manifest
from headwater.cluster.storage.store import Store
from headwater.data_pipeline.clean.card import CARD_PAGE

HEADLINE_METRICS = 4


def artifact_table(location: str, manifests: Iterable[Manifest]) -> Table:
    """One row per artifact of the store at `location`."""
    table = Table(title=f"artifacts of {location}", title_justify="left")
    for column in ("stage", "key", "started", "seconds", "size", "metrics", "made from"):
        table.add_column(column)
    for manifest in manifests:
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


def artifact_details(store: Store, manifest: Manifest) -> list[RenderableType]:
    """Config, metrics, files, versions and lineage of one artifact."""
    files = Table("file", "size", "sha256", title="files", title_justify="left")
    for record in manifest.files[:50]:
        files.add_row(record.path, bytes_text(record.size), record.sha256[:16])
    if len(manifest.files) > 50:
        files.add_row(f"… {len(manifest.files) - 50} more", "", "")
    return [
        Text(f"{manifest.stage}/{manifest.key}", style="bold"),
        *(Text("config", style="bold"), _yaml(manifest.config)),
        *(Text("metrics", style="bold"), _yaml(manifest.metrics)),
        *(Text("versions", style="bold"), _yaml(manifest.versions)),
        files,
        *_card(store, manifest),
        _lineage(store, manifest, Tree("lineage")),
    ]


def publish_report(store: Store, run: str, evaluation: Artifact) -> str:
    """Copy the report card into the run's folder and return its path."""
    folder = store.folder(f"runs/{run}")
    for name in evaluation.files("report"):
        folder.write_bytes(name.removeprefix("report/"), evaluation.read_bytes(name))
    return folder.path("report.md")


def _card(store: Store, manifest: Manifest) -> list[Text]:
    """Where the data card of a corpus is."""
    if all(record.path != CARD_PAGE for record in manifest.files):
        return []
    return [Text(f"data card: {store.artifact(manifest.stage, manifest.key).path(CARD_PAGE)}")]


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


def _yaml(value: Any) -> Text:
    text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=1 << 20)
    return Syntax(text, "yaml", background_color="default").highlight(text)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def bytes_text(count: float) -> str:
    """A byte count as text in powers of ten, such as `12 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:,.0f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"
