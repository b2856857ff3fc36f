"""`headwater show`: the artifacts of a store."""

from __future__ import annotations

from typing import Annotated

import typer

from headwater.cluster.errors import HeadwaterError
from headwater.options import JsonOption, StoreOption, console
from headwater.tables import print_json
from headwater.tables import show as print_parts


def show(
    artifact: Annotated[
        str | None, typer.Argument(metavar="[STAGE/KEY]", help="One artifact; a prefix of its key is enough.")
    ] = None,
    store: StoreOption = "store",
    json: JsonOption = False,
) -> None:
    """List the artifacts of a store, or show one with its config, metrics and lineage."""
    from headwater import show as view
    from headwater.cluster.storage.lineage import lineage_json, summary_json
    from headwater.cluster.storage.store import Store

    opened = Store(store)
    opened.check_readable()
    if artifact is None:
        manifests = opened.manifests()
        if json:
            artifacts = [summary_json(manifest) for manifest in manifests]
            print_json({"store": opened.location, "artifacts": artifacts})
        else:
            print_parts(console, view.artifact_table(opened.location, manifests))
        return
    stage, _, key = artifact.partition("/")
    found = opened.find(stage, key).manifest()
    if found is None:
        raise HeadwaterError("the artifact was deleted meanwhile", where=artifact)
    if json:
        lineage = lineage_json(opened, found)
        print_json({"store": opened.location, "artifact": found.model_dump(), "lineage": lineage})
    else:
        print_parts(console, *view.artifact_details(opened, found))
