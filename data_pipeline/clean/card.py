"""The corpus's data card: where its documents come from, what they are, and what was dropped.

`card.json` has the numbers, `card.md` is for readers, and `croissant.json` for tools.
"""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from headwater.cluster.storage.artifact import Artifact
from headwater.data_pipeline.clean.croissant import croissant
from headwater.data_pipeline.clean.part_counts import PartCounts

CARD, CARD_PAGE, CROISSANT = "card.json", "card.md", "croissant.json"
DESCRIBED = {
    *("kind", "paths", "crawl", "domains", "urls", "languages", "sample", "seed", "format", "root"),
    *("package", "member", "seeds", "scope", "base_url"),
}
"""Settings of a source that say where its documents are from. The contact of a crawl is not among them."""


def write_card(
    output: Artifact,
    documents: PartCounts,
    sources: Sequence[Mapping[str, Any]],
    steps: Sequence[Mapping[str, Any]],
    replaced: Any,
) -> dict[str, Any]:
    """Write the three files of a corpus whose documents are written. Returns the card.

    `sources`: what `described` returns; `steps`: rows of the funnel, `replaced`: identifiers by kind.
    """
    card = {
        "created": datetime.now(UTC).date().isoformat(),
        **documents.of_kept(),
        "characters": steps[-1]["characters_out"],
        "sources": list(sources),
        "dropped": [
            {
                "step": step["step"],
                "documents": step["documents_in"] - step["documents_out"],
                "reasons": step["reasons"],
            }
            for step in steps
            if step["documents_in"] > step["documents_out"]
        ],
        "identifiers_replaced": dict(replaced),
    }
    output.write_json(CARD, card)
    output.write_bytes(CARD_PAGE, page(card).encode())
    output.write_json(CROISSANT, croissant(card, CARD_PAGE))
    return card


def described(acquired: Artifact) -> list[dict[str, Any]]:
    """The sources of an `acquire` artifact, without credentials; crawls with what pages said of their use."""
    manifest = acquired.manifest()
    found = []
    for number, source in enumerate(manifest.config["sources"] if manifest is not None else ()):
        kept = {name: _public(value) for name, value in source.items() if name in DESCRIBED and value}
        if source["kind"] == "crawl":
            kept["opt_outs"] = _opt_outs(acquired, number)
        found.append(kept)
    return found


def _opt_outs(acquired: Artifact, number: int) -> dict[str, int]:
    """Numbers of pages that a crawl left out because of robots.txt or an opt-out, and of opt-outs by kind."""
    from headwater.data_pipeline.acquire import CRAWL
    from headwater.data_pipeline.crawl.archive import read_log, stored_segments

    folder = Artifact(acquired.path(f"{CRAWL}/{number}"))
    counts: collections.Counter[str] = collections.Counter()
    for name in stored_segments(folder):
        for row in read_log(folder, name):
            if row.get("outcome") in ("opt_out", "robots"):
                counts[f"not stored: {row['outcome']}"] += 1
            counts.update(row.get("opt_outs", ()))
    return dict(sorted(counts.items()))


def _public(value: Any) -> Any:
    """The value, with user names, passwords and queries (signatures) removed from URLs."""
    if isinstance(value, list | tuple):
        return [_public(each) for each in value]
    if not isinstance(value, str) or not value.startswith(("http://", "https://", "s3://", "hf://")):
        return value
    parts = urlsplit(value)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))


def page(card: Mapping[str, Any]) -> str:
    """The card as Markdown."""
    fetched = card["fetched"]
    lines = [
        "# Data card",
        "",
        f"{card['documents']:,} documents, {card['characters']:,} characters, {card['bytes'] / 1e6:,.1f} MB "
        f"in {card['files']:,} Parquet files. Made on {card['created']}.",
        f"Fetched from {fetched['first']} to {fetched['last']}."
        if fetched
        else "Dates of the fetches are not known.",
        "",
        "## Sources",
        "",
        *(f"- {_sentence(source)}" for source in card["sources"]),
        "",
        *_section("Languages", "language", card["languages"], "not identified"),
        *_section("Licences that the pages name", "licence", card["licences"], "none named"),
        "A licence is what a page says of itself, which may be wrong.",
        "",
        *_section("Opt-outs that the pages state", "opt-out", card.get("opt_outs", {})),
        *_section("Years of the fetches", "year", card["years"]),
        *_section(f"Domains ({card['different_domains']:,})", "domain", card["domains"], "no URL"),
        "## What was dropped",
        "",
        "| step | documents | reasons |",
        "| --- | --- | --- |",
        *(f"| {row['step']} | {row['documents']:,} | {_listed(row['reasons'])} |" for row in card["dropped"]),
        "",
        f"Personal identifiers replaced: {_listed(card['identifiers_replaced']) or 'none'}.",
        "",
    ]
    return "\n".join(lines)


def _section(title: str, what: str, counts: Mapping[str, int], unknown: str = "") -> list[str]:
    rows = [f"| {_cell(name or unknown)} | {number:,} |" for name, number in counts.items()]
    return [f"## {title}", "", f"| {what} | documents |", "| --- | --- |", *rows, ""] if rows else []


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {number:,}" for name, number in counts.items())


def _sentence(source: Mapping[str, Any]) -> str:
    def shown(value: Any) -> str:
        if isinstance(value, Mapping):
            return _listed(value) or "none"
        return ", ".join(map(str, value)) if isinstance(value, list) else str(value)

    rest = "; ".join(
        f"{name.replace('_', ' ')}: {_cell(shown(value))}" for name, value in source.items() if name != "kind"
    )
    return (
        f"{source.get('kind', 'unknown').replace('_', ' ')}: {rest}" if rest else str(source.get("kind", ""))
    )


def _cell(text: str) -> str:
    """Text of a page or a setting as one cell of a table: it must neither end it nor be markup."""
    plain = " ".join(text.split()).replace("\\", "\\\\")
    return "".join(f"\\{c}" if c in "|`*_<>[]" else c for c in plain)
