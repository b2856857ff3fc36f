"""Main text from HTML: trafilatura (with its fallbacks) compared with both settings of `extract`.

    python -m benchmarks.corpus.extraction PAGES.parquet

The file has the columns `html` (bytes of the page) and one of `expected_html`, `text` (its main content), or
`with` and `without` (lists of snippets that it must and must not have). Scores are also told by `kind`, if
there is one. Word F1, precision and recall compare bags of lower-case words, averaged over pages. Those of
snippets count all pages' together: precision is the share of wanted ones among those found. Intervals
(95 %) are of the difference to trafilatura without comments, from 2,000 samples of pages. All run in this
process, alternating page by page. Times are CPU seconds, the median of `--passes` passes after a first;
ratios are to trafilatura without comments.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import trafilatura

from benchmarks.corpus.extraction.scores import gold_text, interval, means, of_counts, scores, snippets
from headwater.data_pipeline.text.main_text.extract import ExtractConfig, main_text
from headwater.data_pipeline.verdict import Rejection

PEER = "no-comments"


def report(
    name: str, values: dict[str, npt.NDArray[np.float64]], rows: npt.NDArray[np.bool_], counts: bool
) -> str:
    summary = of_counts if counts else means
    f1_mean, precision, recall = summary(values[name][rows])
    line = (
        f"precision {precision:.4f}  recall {recall:.4f}  {'snippet' if counts else 'word'} F1 {f1_mean:.4f}"
    )
    if name == PEER:
        return line
    low, high = interval(values[name][rows], values[PEER][rows], summary)
    return f"{line}  difference {low:+.4f} to {high:+.4f}"


def ours(config: ExtractConfig) -> Callable[[bytes], str]:
    def extract(html: bytes) -> str:
        result = main_text(html, "", config)
        return "" if isinstance(result, Rejection) else result[1]

    return extract


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.corpus.extraction", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--passes", type=int, default=3, help="passes that are timed; 0: scores alone")
    arguments = parser.parse_args()
    table = pq.read_table(arguments.file)
    logging.disable(logging.CRITICAL)
    pages = table["html"].to_pylist()
    engines: dict[str, Callable[[bytes], str]] = {
        "trafilatura": lambda html: trafilatura.extract(html) or "",
        PEER: lambda html: trafilatura.extract(html, include_comments=False) or "",
        "quality": ours(ExtractConfig(setting="quality")),
        "fast": ours(ExtractConfig(setting="fast")),
    }
    megabytes = sum(map(len, pages)) / 1e6
    print(f"{len(pages)} pages, {megabytes:.1f} MB")
    found = {name: [extract(html) for html in pages] for name, extract in engines.items()}
    values = {name: scored(texts, table) for name, texts in found.items()}
    kinds = np.array(table["kind"].to_pylist() if "kind" in table.column_names else [None] * len(pages))
    for kind in (None, *sorted({each for each in kinds if each})):
        rows = kinds == kind if kind else np.ones(len(pages), bool)
        for name in engines:
            told = report(name, values, rows, snippets_alone(table))
            print(f"{kind or 'all':<14} {rows.sum():4} pages  {name:<12} {told}")
    timed(engines, pages, arguments.passes)


def snippets_alone(table: pa.Table) -> bool:
    texts = [name for name in ("text", "expected_html") if name in table.column_names]
    return not texts or table[texts[0]].null_count == len(table)


def scored(found: list[str], table: pa.Table) -> npt.NDArray[np.float64]:
    """Shape (pages, 3): F1, precision and recall of words, or the counts of snippets."""
    if snippets_alone(table):
        sides = (table["with"].to_pylist(), table["without"].to_pylist())
        return np.array([snippets(*each) for each in zip(found, *sides, strict=True)], np.float64)
    if "text" in table.column_names:
        expected = table["text"].to_pylist()
    else:
        expected = [gold_text(html) for html in table["expected_html"].to_pylist()]
    return np.array([scores(*pair) for pair in zip(found, expected, strict=True)])


def timed(engines: dict[str, Callable[[bytes], str]], pages: list[bytes], passes: int) -> None:
    spent: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(passes):
        seconds = dict.fromkeys(engines, 0.0)
        for html in pages:
            for name, extract in engines.items():
                started = time.process_time()
                extract(html)
                seconds[name] += time.process_time() - started
        for name, value in seconds.items():
            spent[name].append(value)
    for name, values in spent.items() if passes else ():
        median, megabytes = statistics.median(values), sum(map(len, pages)) / 1e6
        print(
            f"{name:<12} {megabytes / median:6.2f} MB/s  {len(pages) / median:6.1f} pages/s  "
            f"{statistics.median(spent[PEER]) / median:5.2f}x"
        )


if __name__ == "__main__":
    main()
