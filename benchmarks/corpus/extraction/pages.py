"""Makes the pages that train and measure `extract.setting=quality` from public labelled sets.

    git clone https://github.com/Murrough-Foley/web-content-extraction-benchmark  # WCXB, CC-BY-4.0: c039d5e
    git clone https://github.com/flairNLP/fundus                                  # MIT: 18da6e5
    git clone https://github.com/scrapinghub/article-extraction-benchmark         # only measures: 4a3bc97
    git clone https://github.com/adbar/trafilatura                                # only measures: e90b0ef
    python -m benchmarks.corpus.extraction.pages . --also-unseen readability-130.parquet

It writes train.parquet (WCXB's development set and the pages of Fundus' parser tests), and, to measure,
wcxb-test.parquet, scrapinghub.parquet and trafilatura.parquet. A site with a page in any set that measures
has none in train.parquet.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

Row = dict[str, Any]
SCHEMA = pa.schema(
    [("html", pa.binary()), ("text", pa.string()), ("site", pa.string()), ("kind", pa.string())]
    + [(name, pa.list_(pa.string())) for name in ("with", "without")]
)
"""`with` and `without`: snippets of a page that its main text must and must not have."""
SECOND_LEVEL = {"ac", "co", "com", "edu", "gov", "go", "gob", "ne", "net", "or", "org"}
OWN_URL = re.compile(rb"<(?:link|meta)\s[^>]*(?:canonical|og:url)[^>]*>", re.IGNORECASE)
URL = re.compile(rb"https?://[^\s\"'>]+")


def site(url: str) -> str:
    """The registered name in a URL: news.example.co.uk is example.co.uk. Empty if it has none."""
    parts = (urlsplit(url).hostname or "").split(".")
    size = 3 if len(parts) > 2 and len(parts[-1]) == 2 and parts[-2] in SECOND_LEVEL else 2
    return ".".join(parts[-size:])


def own_site(html: bytes) -> str:
    """The site that a page names as its own; empty if it names none."""
    for tag in OWN_URL.findall(html):
        if found := URL.search(tag):
            return site(found.group().decode("utf-8", "replace"))
    return ""


def wcxb(folder: Path, split: str) -> Iterator[Row]:
    for file in sorted((folder / split / "ground-truth").glob("*.json")):
        page = json.loads(file.read_bytes())
        truth, html = page["ground_truth"], folder / split / "html" / f"{file.stem}.html.gz"
        if not (truth.get("main_content") or "").strip():
            continue
        yield {
            "html": gzip.decompress(html.read_bytes()),
            "text": truth["main_content"],
            "site": site(page.get("url") or "") or f"wcxb-{file.stem}",
            "kind": page["_internal"]["page_type"]["primary"],
            "with": truth.get("with"),
            "without": truth.get("without"),
        }


def fundus(folder: Path) -> Iterator[Row]:
    """Each version of a publisher's parser has one page; both are named in the order of time."""
    for file in sorted((folder / "tests/resources/parser/test_data").glob("*/*.json")):
        about = json.loads((file.parent / "meta.info").read_bytes())
        pages = sorted(file.parent.glob(f"{file.stem}_[0-9][0-9][0-9][0-9]_*.html.gz"))
        expected = [value["body"] for _, value in sorted(json.loads(file.read_bytes()).items())]
        for page, body in zip(pages, expected, strict=True):
            parts = list(body["summary"])
            for section in body["sections"]:
                parts += [*section["headline"], *section["paragraphs"]]
            text = "\n\n".join(parts)
            if text.strip():
                yield {
                    "html": gzip.decompress(page.read_bytes()),
                    "text": text,
                    "site": site(about[page.name]["url"]),
                    "kind": "news",
                }


def scrapinghub(folder: Path) -> Iterator[Row]:
    for name, page in sorted(json.loads((folder / "ground-truth.json").read_bytes()).items()):
        html = gzip.decompress((folder / "html" / f"{name}.html.gz").read_bytes())
        yield {"html": html, "text": page["articleBody"], "site": site(page["url"]), "kind": "article"}


def trafilatura(folder: Path) -> Iterator[Row]:
    tests = folder / "tests"
    for url, page in sorted(json.loads((tests / "evaldata.json").read_bytes()).items()):
        files = [tests / place / page["file"] for place in ("cache", "eval")]
        html = next(file for file in files if file.exists()).read_bytes()
        yield {"html": html, "site": site(url), "with": page["with"], "without": page["without"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", type=Path, help="holds the four repositories; gets the Parquet files")
    parser.add_argument("--also-unseen", type=Path, nargs="*", default=[], help="pages that also measure")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    labelled = folder / "web-content-extraction-benchmark"
    measure = {
        "wcxb-test": list(wcxb(labelled, "test")),
        "scrapinghub": list(scrapinghub(folder / "article-extraction-benchmark")),
        "trafilatura": list(trafilatura(folder / "trafilatura")),
    }
    unseen = {row["site"] for rows in measure.values() for row in rows}
    for file in arguments.also_unseen:
        unseen |= {own_site(html) for html in pq.read_table(file)["html"].to_pylist()}
    known = [*wcxb(labelled, "dev"), *fundus(folder / "fundus")]
    for name, rows in (("train", [row for row in known if row["site"] not in unseen]), *measure.items()):
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), folder / f"{name}.parquet", compression="zstd")
        print(f"{name}: {len(rows)} pages of {len({row['site'] for row in rows})} sites")
    print(f"{len(known)} labelled pages before the sites of pages that measure were left out")


if __name__ == "__main__":
    main()
