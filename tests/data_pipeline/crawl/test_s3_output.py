"""A crawl whose output is an S3 bucket: stored, resumed, and read as a source."""

from __future__ import annotations

from collections import Counter

from headwater.cluster.runtime.session import Session
from headwater.cluster.storage.artifact import Artifact
from headwater.data_pipeline.crawl.run import crawl, warc_files
from headwater.data_pipeline.documents import Document
from headwater.data_pipeline.sources import read_source
from tests.data_pipeline.crawl.web import Web, page, source


def pages(output: Artifact) -> Counter[str]:
    """How often each page is in the WARC files of the bucket."""
    made = source("https://a.test/")
    items = [item for path in warc_files(output) for item in read_source(made, path)]
    return Counter(item.url for item in items if isinstance(item, Document))


def test_a_crawl_into_a_bucket_resumes_there_and_stores_no_page_twice(
    s3_server: str, net: Web, here: Session
) -> None:
    net.site("a.test", **{f"/{n}": page(f"/{n + 1}") for n in range(8)})
    output = Artifact("s3://corpus/crawled")
    seed = net.url("a.test", "/0")
    for most in (3, 7):  # each with a frontier made anew from the logs in the bucket
        counts = crawl(source(seed, max_pages=most), output, "s3://corpus/crawled/frontier", here)
        assert counts["page"] == most
    assert pages(output) == Counter({net.url("a.test", f"/{n}"): 1 for n in range(7)})
    assert output.files("cdxj", ".cdxj") and output.exists("crawl.json")
