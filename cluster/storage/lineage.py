"""Artifacts as JSON: a summary of one, and the tree of those that it was made from."""

from __future__ import annotations

from typing import Any

from headwater.cluster.storage.artifact import Manifest
from headwater.cluster.storage.store import Store


def summary_json(manifest: Manifest) -> dict[str, Any]:
    """A manifest as `show --json` lists it: without config, and the files as their number and size."""
    size = sum(record.size for record in manifest.files)
    rest = manifest.model_dump(exclude={"config", "fingerprint", "files"})
    return rest | {"files": len(manifest.files), "bytes": size}


def lineage_json(store: Store, manifest: Manifest) -> dict[str, Any]:
    """The artifact and, below `made_from`, those that it was made from; `deleted` if one is gone."""
    made_from = []
    for stage, key in manifest.inputs.items():
        upstream = store.artifact(stage, key).manifest()
        gone = {"stage": stage, "key": key, "deleted": True}
        made_from.append(lineage_json(store, upstream) if upstream else gone)
    return {"stage": manifest.stage, "key": manifest.key, "made_from": made_from}
