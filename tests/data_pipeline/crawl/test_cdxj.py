"""The index of a crawl equals the one that `cdxj-indexer` (pywb's indexer) makes of its WARC files."""

from __future__ import annotations

import io
import warnings

import pytest

from headwater.data_pipeline.crawl.archive import INDEX
from headwater.data_pipeline.crawl.run import warc_files
from tests.data_pipeline.crawl.conftest import Crawl
from tests.data_pipeline.crawl.web import Web, page, response

main = pytest.importorskip("cdxj_indexer.main", reason="cdxj-indexer is not installed")


def test_pywbs_indexer_reads_a_crawl_without_warnings_and_makes_the_same_index(
    net: Web, run: Crawl, capsys: pytest.CaptureFixture[str]
) -> None:
    net.site(
        "a.example.org",
        **{
            "/": page("/b?x=1&a=2", "/C/ü", "/text", "/gone", "/moved", "/old"),
            "/b": page(text="Of mills."),
            "/C/%C3%BC": page(text="Über Mühlen."),
            "/text": lambda request: response("plain", Content_Type="text/plain"),
            "/moved": lambda request: response(status=301, Location="/b"),
            "/old": lambda request: (
                response("", 200, ETag='"1"')
                if "If-None-Match" not in request.headers
                else response(status=304)
            ),
        },
    )
    seed = net.url("a.example.org")
    run(seed)
    run(seed, refresh=True)
    ours = [
        line for name in run.output.files(INDEX) for line in run.output.read_bytes(name).decode().splitlines()
    ]
    out = io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for path in warc_files(run.output):
            main.CDXJIndexer(out, [path], dir_root=run.output.location).process_all()
    theirs = [line for line in out.getvalue().splitlines() if line.strip()]
    assert sorted(ours) == sorted(theirs) and len(ours) == 16
    assert capsys.readouterr().err == ""
