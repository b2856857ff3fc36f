"""Pages of the live web: time to read one, and whether the right one of several is found.

    python -m benchmarks.serving.live_web PAGES.parquet [--pages 60]

PAGES has a column `html`, such as Mozilla's 130 test pages of Readability. Each page is served from a host
of its own on loopback, and read as for a question. Then the question about its title is asked of it and three
others, and of four others without it, where nothing must be found.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import time
from collections import Counter

import pyarrow.parquet as pq

from headwater.llm.examples.conversations import clean_title, question_about
from headwater.serving.retrieval.embed import WORDLLAMA
from headwater.serving.retrieval.search import MIN_RELEVANCE
from headwater.serving.web.config import WebConfig
from headwater.serving.web.live import LiveWeb
from headwater.serving.web.pages import Page, Read
from tests.data_pipeline.crawl.web import serving

SETTINGS = {
    "contact": "live@example.org",
    "allow_addresses": ["127.0.0.1"],
    "resolve": {"*": "127.0.0.1"},
    "seconds": 60,
}


async def timed(live: LiveWeb, url: str) -> tuple[Read, float]:
    """What was read of a URL, and the milliseconds."""
    started = time.perf_counter()
    return await live.read([url]), 1000 * (time.perf_counter() - started)


async def measure(live: LiveWeb, urls: list[str]) -> None:
    first = [await timed(live, url) for url in urls]
    pages = [page for read, _ in first for page in read.pages]
    times = sorted(milliseconds for _, milliseconds in first)
    why = Counter(failure.reason for read, _ in first for failure in read.failures)
    print(f"{len(pages)} of {len(urls)} pages read; not read: {dict(why)}")
    kept = statistics.mean([(await timed(live, url))[1] for url in urls])
    most = times[len(times) * 9 // 10]
    print(f"median {statistics.median(times):.0f} ms, 90 % {most:.0f} ms, kept {kept:.1f} ms")
    chosen = random.Random(0)
    found: Counter[str] = Counter()
    for page in pages:
        title = clean_title(page.title, page.url)
        if not title:
            continue
        others = chosen.sample([each for each in pages if each.title != page.title], 4)
        found["asked"] += 1
        found[_first(live, title, [page, *others[:3]], page.url)] += 1
        found[f"without it: {_first(live, title, others, page.url)}"] += 1
    print(*(f"{what}: {count}" for what, count in found.items()), sep="\n")


def _first(live: LiveWeb, title: str, pages: list[Page], right: str) -> str:
    passages = live.rank(question_about(title), 4, 2, MIN_RELEVANCE, pages)
    if not passages:
        return "nothing found"
    return "right page" if passages[0].url == right else "another page"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--pages", type=int, default=60)
    given = parser.parse_args()
    bodies = pq.read_table(given.file, columns=["html"])["html"].to_pylist()[: given.pages]
    live = LiveWeb(WebConfig.model_validate(SETTINGS), WORDLLAMA, 80, 20)
    live.warm()
    with serving() as web, asyncio.Runner() as runner:
        for number, body in enumerate(bodies):
            web.site(f"h{number}.example", **{"/": body})
        urls = [web.url(f"h{number}.example") for number in range(len(bodies))]
        runner.run(measure(live, urls))
        runner.run(live.close())


if __name__ == "__main__":
    main()
