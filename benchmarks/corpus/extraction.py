"""Main text from HTML: trafilatura (with its fallbacks) compared with both settings of `extract`.

    python -m benchmarks.corpus.extraction PAGES.parquet

The file has the columns `html` (bytes of the page) and `expected_html` or `text` (its main content). Word F1,
precision and recall compare bags of lower-case words, averaged over pages. All extractors run in this
process, alternating page by page. Times are CPU seconds, the median of three passes after a warm-up pass;
ratios are to trafilatura without comments.
"""

from __future__ import annotations

import argparse
import collections
import logging
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import lxml.html
import pyarrow.parquet as pq
import trafilatura

from headwater.data_pipeline.text.extract import ExtractConfig, main_text
from headwater.data_pipeline.verdict import Rejection

PASSES = 3
WORD = re.compile(r"\w+")


def gold_text(html: str) -> str:
    return " ".join(lxml.html.fromstring(html).itertext())


def words(text: str) -> collections.Counter[str]:
    return collections.Counter(WORD.findall(text.lower()))


def f1(found: str, expected: str) -> float:
    """F1 over bags of words: 2 * common / (found + expected)."""
    return scores(found, expected)[0]


def scores(found: str, expected: str) -> tuple[float, float, float]:
    """F1, precision and recall over bags of words."""
    a, b = words(found), words(expected)
    common = (a & b).total()
    return (
        2 * common / max(1, a.total() + b.total()),
        common / max(1, a.total()),
        common / max(1, b.total()),
    )


def ours(config: ExtractConfig) -> Callable[[bytes], str]:
    def extract(html: bytes) -> str:
        result = main_text(html, "", config)
        return "" if isinstance(result, Rejection) else result[1]

    return extract


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("file", type=Path)
    table = pq.read_table(parser.parse_args().file)
    logging.disable(logging.CRITICAL)
    pages = table["html"].to_pylist()
    if "text" in table.column_names:
        expected = table["text"].to_pylist()
    else:
        expected = [gold_text(html) for html in table["expected_html"].to_pylist()]
    engines: dict[str, Callable[[bytes], str]] = {
        "trafilatura": lambda html: trafilatura.extract(html) or "",
        "no-comments": lambda html: trafilatura.extract(html, include_comments=False) or "",
        "quality": ours(ExtractConfig(setting="quality")),
        "fast": ours(ExtractConfig(setting="fast")),
    }
    megabytes = sum(map(len, pages)) / 1e6
    print(f"{len(pages)} pages, {megabytes:.1f} MB")
    found = {name: [extract(html) for html in pages] for name, extract in engines.items()}
    spent: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(PASSES):
        seconds = dict.fromkeys(engines, 0.0)
        for html in pages:
            for name, extract in engines.items():
                started = time.process_time()
                extract(html)
                seconds[name] += time.process_time() - started
        for name, value in seconds.items():
            spent[name].append(value)
    peer = statistics.median(spent["no-comments"])
    for name in engines:
        median = statistics.median(spent[name])
        pairs = zip(found[name], expected, strict=True)
        means = map(statistics.mean, zip(*(scores(*pair) for pair in pairs), strict=True))
        f1_mean, precision, recall = means
        print(
            f"{name:<12} {megabytes / median:6.2f} MB/s  {len(pages) / median:6.1f} pages/s  "
            f"{peer / median:5.2f}x  precision {precision:.4f}  recall {recall:.4f}  word F1 {f1_mean:.4f}"
        )


if __name__ == "__main__":
    main()
