"""`headwater crawl` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

from headwater.cluster.runtime.session import Session
from headwater.data_pipeline.clean.standalone import CleanJob, clean
from headwater.data_pipeline.clean.steps import CleanConfig
from headwater.data_pipeline.crawl.rules_file import RuleBook
from headwater.data_pipeline.sources.guess import sources_of
from headwater.data_pipeline.sources.spec import Columns
from tests.data_pipeline.corpora import article
from tests.data_pipeline.crawl.web import page, response, serving
from tests.data_pipeline.reading import read_all
from tests.headwater.command import headwater


def test_a_crawl_is_told_resumed_and_read(tmp_path: Path) -> None:
    with serving() as net:
        net.site("a.test", **{"/": page("/1", "http://out.test/"), "/1": page()})
        output = tmp_path / "out"
        words = ["crawl", net.url("a.test"), "--output", output, "--contact", "me@example.org", "--delay", 0]
        words += ["--set", 'resolve={"*": 127.0.0.1}', "--set", "allow_addresses=[127.0.0.1]"]
        code, said = headwater(*words)
        assert code == 0
        assert "2 pages" in said and "refused: scope" in said
        requests = len(net.requests)
        code, said = headwater(*words)
        assert (code, len(net.requests)) == (0, requests)
    (made,) = sources_of([str(output / "warc")], Columns())
    documents = [each for path in (output / "warc").iterdir() for each in read_all(made.kind, str(path))[0]]
    assert sorted(each.url.rpartition("/")[2] for each in documents) == ["", "1"]


def test_rules_of_a_corpus_are_fetched_once(tmp_path: Path, here: Session) -> None:
    with serving() as net:
        hosts = ("a.test", "b.test", "broken.test")
        for host in hosts:
            net.site(host, **{"/robots.txt": "User-agent: *\nDisallow: /no\n"})
        net.sites["broken.test"]["/robots.txt"] = lambda request: response(status=503)
        net.sites["b.test"] = {"/theirs.txt": "User-agent: *\nDisallow: *.html\n"}
        net.site("b.test")["/ai.txt"] = lambda request: response(status=301, Location="/theirs.txt")
        pages = tmp_path / "pages.jsonl"
        rows = [{"url": net.url(host, f"/{n}"), "text": article(n)} for n, host in enumerate(hosts)]
        pages.write_text("".join(json.dumps(row) + "\n" for row in rows))
        job = CleanJob([str(pages)], str(tmp_path / "corpus"), CleanConfig())
        clean(job, here)
        rules = tmp_path / "rules.jsonl"
        words = ["opt-outs", job.output, "--output", rules, "--contact", "me@example.org", "--delay", 0]
        words += ["--set", 'resolve={"*": 127.0.0.1}', "--set", "allow_addresses=[127.0.0.1]"]
        code, said = headwater(*words, "--set", "retries=0")
        assert code == 0 and "2 sites" in said and "1 could not be reached" in said
        book = RuleBook([str(rules)])
        assert [sorted(book.of(net.url(host, "/no"))) for host in hosts] == [["robots.txt"], ["ai.txt"], []]
        before = net.asked()
        headwater(*words, "--set", "retries=0")
        assert {name.partition("/")[0] for name in net.asked() - before} == {"broken.test"}
    code, said = headwater("opt-outs", tmp_path, "--output", "rules.jsonl", "--contact", "me@a.org")
    assert code == 1 and "no cleaned corpus here" in said


def test_wrong_settings_and_folders_are_named(tmp_path: Path) -> None:
    words = ["crawl", "http://127.0.0.1:9/", "--output", tmp_path / "out"]
    code, said = headwater(*words)
    assert code == 2 and "--contact" in said
    for option, place in ((("--contact", "nobody"), "contact"), (("--scope", "all"), "scope")):
        code, said = headwater(*words, "--contact", "me@a.org", *option)
        assert code == 1 and place in said and "Traceback" not in said
    code, said = headwater(*words, "--contact", "me@a.org", "--set", "retries=0")
    assert code == 0 and "robots unreachable" in said
    code, said = headwater("crawl", "http://b.org/", "--output", tmp_path / "out", "--contact", "me@a.org")
    assert code == 1 and "other seeds" in said
