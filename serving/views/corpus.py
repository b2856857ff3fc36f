"""The cleaned corpora of a store: funnel and data card of each, and why a document was kept or dropped."""

from __future__ import annotations

from typing import Any

from headwater.cluster.storage.store import Store
from headwater.data_pipeline.clean.card import CARD, CARD_PAGE, CROISSANT
from headwater.data_pipeline.explain import matching

FUNNEL = "funnel.json"
MOST = 20
"""Documents that a search shows."""


def corpora(store: Store) -> list[dict[str, Any]]:
    """Every finished `clean` artifact, the latest first: key, the steps of its funnel, and its data card: the
    numbers, and the files to download by name. Corpora of version 0.1 have no card."""
    found = []
    for manifest in reversed(store.manifests()):
        if manifest.stage == "clean":
            artifact = store.artifact("clean", manifest.key)
            funnel = artifact.read_json(FUNNEL) if artifact.exists(FUNNEL) else {"steps": []}
            about: dict[str, Any] = {}
            if artifact.exists(CARD):
                files = {name: artifact.read_bytes(name).decode() for name in (CARD_PAGE, CROISSANT)}
                about = {"card": artifact.read_json(CARD), "files": files}
            found.append({"key": manifest.key, "started": manifest.started_at, **funnel, **about})
    return found


def documents(store: Store, key: str, text: str) -> dict[str, Any]:
    """Decisions on the documents of a corpus with this id, or whose URL or title contain the text.

    `more`: there are further ones than the MOST shown.
    """
    fates = matching(store.artifact("clean", key), text, MOST + 1)
    shown = [{"kept": fate.kept, "file": fate.file, **fate.row} for fate in fates[:MOST]]
    return {"documents": shown, "more": len(fates) > MOST}
