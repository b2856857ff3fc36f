"""The corpus's data card: where its documents come from, what they are, and what was dropped.

`card.json` has the numbers, `card.md` is for readers, and `croissant.json` for tools.
"""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pyarrow.parquet as pq

from headwater.cluster.storage.artifact import Artifact
from headwater.cluster.storage.filesystem import filesystem
from headwater.data_pipeline.clean.croissant import croissant
from headwater.data_pipeline.corpus import kept_files

CARD, CARD_PAGE, CROISSANT = "card.json", "card.md", "croissant.json"
READERS = 16
SHOWN = 50
"""Domains and licences that the card lists; of the others it has the number."""
DESCRIBED = {
    *("kind", "paths", "crawl", "domains", "urls", "languages", "sample", "seed", "format", "root"),
    *("package", "member", "seeds", "scope", "base_url"),
}
"""Settings of a source that say where its documents are from. The contact of a crawl is not among them."""


def write_card(
    output: Artifact, sources: Sequence[Mapping[str, Any]], steps: Sequence[Mapping[str, Any]], replaced: Any
) -> dict[str, Any]:
    """Write the three files of a corpus whose documents are written. Returns the card.

    `sources`: what `described` returns; `steps`: rows of the funnel, `replaced`: identifiers by kind.
    """
    card = {
        "created": datetime.now(UTC).date().isoformat(),
        **_documents(output),
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


def _documents(output: Artifact) -> dict[str, Any]:
    """Numbers of the kept documents by language, licence, year and domain."""
    names = kept_files(output)
    count, size = 0, 0
    languages, licences, years, domains = (collections.Counter[str]() for _ in range(4))
    dates: list[str] = []
    with ThreadPoolExecutor(READERS) as readers:
        for rows, stored in readers.map(lambda name: _columns(output, name), names):
            count, size = count + len(rows["url"]), size + stored
            languages.update(rows["language"])
            licences.update(rows["licence"])
            known = [date for date in rows["fetched_at"] if date]
            years.update(date[:4] for date in known)
            dates = [min([*dates, *known]), max([*dates, *known])] if known else dates
            domains.update(map(_domain, rows["url"]))
    return {
        "documents": count,
        "bytes": size,
        "files": len(names),
        "fetched": {"first": dates[0], "last": dates[-1]} if dates else {},
        "years": dict(sorted(years.items())),
        "languages": dict(_most(languages)),
        "licences": dict(_most(licences)[:SHOWN]),
        "domains": dict(_most(domains)[:SHOWN]),
        "different_domains": len(domains),
        "different_licences": len(licences),
    }


def _columns(output: Artifact, name: str) -> tuple[dict[str, list[str]], int]:
    fs, path = filesystem(output.path(name))
    names = pq.read_schema(path, filesystem=fs).names
    wanted = ["url", "fetched_at", "language", "licence"]
    table = pq.read_table(path, columns=[each for each in wanted if each in names], filesystem=fs)
    rows = {each: table[each].to_pylist() if each in names else [""] * table.num_rows for each in wanted}
    return rows, fs.get_file_info(path).size


def _domain(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").removeprefix("www.")
    except ValueError:
        return ""


def _most(counts: collections.Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


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
