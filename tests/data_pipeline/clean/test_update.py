"""A corpus after additions or removals equals one cleaned from scratch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.session import Session
from headwater.cluster.storage.artifact import Artifact
from headwater.cluster.storage.store import Store
from headwater.data_pipeline.clean import update as updating
from headwater.data_pipeline.clean.stage import CleanConfig
from headwater.data_pipeline.clean.standalone import CleanJob, clean
from headwater.data_pipeline.clean.update import Change, Gone, update
from headwater.data_pipeline.corpus import read_documents
from tests.data_pipeline.corpora import article, iter_texts, rejected, write_corpus


def second_crawl(path: Path) -> None:
    """New articles, a longer form of an old one (which it replaces), and a copy of one."""
    rows = [{"text": article(n), "url": f"https://b.example.net/{n}"} for n in range(100, 130)]
    longer = article(7) + " And there is one more sentence in this form of it."
    rows += [
        {"text": longer, "url": "https://b.example.net/longer"},
        {"text": article(9), "url": "https://b.example.net/copy"},
    ]
    rows += [{"text": "buy this now " * 80, "url": "https://shop.example.com/spam"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{broken\n")


def cleaned(session: Session, folder: Path, name: str, *inputs: Path) -> Artifact:
    job = CleanJob([str(path) for path in inputs], str(folder / name), CleanConfig())
    clean(job, session)
    return Artifact(job.output, "clean")


def whole(corpus: Artifact) -> dict[str, bytes]:
    """Every file but the manifest, which says when and how."""
    return {name: corpus.read_bytes(name) for name in corpus.files() if name != "manifest.json"}


def kept_rows(corpus: Artifact) -> list[dict[str, str]]:
    return [row for batch in read_documents(corpus) for row in batch.to_pylist()]


class Corpora:
    """Two crawls; the first cleaned alone, and both together."""

    def __init__(self, folder: Path, session: Session) -> None:
        self.crawls = folder / "a.jsonl", folder / "b.jsonl"
        write_corpus(self.crawls[0])
        second_crawl(self.crawls[1])
        self.first = cleaned(session, folder, "first", self.crawls[0])
        self.both = cleaned(session, folder, "both", *self.crawls)

    def copy(self, corpus: Artifact, folder: Path) -> Artifact:
        return Artifact(str(shutil.copytree(corpus.location, folder / "copy")), "clean")


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Corpora]:
    with Session(Store(str(tmp_path_factory.mktemp("store"))), max_workers=0) as session:
        yield Corpora(tmp_path_factory.mktemp("corpora"), session)


def adding(path: Path) -> Change:
    return Change(CleanJob([str(path)], "", CleanConfig(), skip_unreadable=False).acquire)


def test_a_crawl_that_is_added_gives_what_cleaning_both_gives(
    here: Session, tmp_path: Path, corpora: Corpora
) -> None:
    grown = corpora.copy(corpora.first, tmp_path)
    before = whole(grown)
    manifest, found = update(grown, adding(corpora.crawls[1]), here)
    assert not found and whole(grown) == whole(corpora.both) != before
    assert "https://example.org/7" in rejected(grown)
    assert manifest.metrics["documents_kept"] == len(list(iter_texts(corpora.both)))
    assert update(grown, adding(corpora.crawls[1]), here)[1]
    assert whole(grown) == whole(corpora.both)


def test_forgetting_a_source_equals_never_having_read_it(
    here: Session, tmp_path: Path, corpora: Corpora
) -> None:
    forgotten = "https://b.example.net/longer", "shop.example.com"
    corpus = corpora.copy(corpora.both, tmp_path)
    update(corpus, Change(forget=forgotten), here)
    left = []
    for path in corpora.crawls:
        rows = path.read_text().splitlines()
        urls = [json.loads(row)["url"] if row != "{broken" else "" for row in rows]
        stays = ~Gone(forgotten)(urls)
        left.append(tmp_path / path.name)
        left[-1].write_text("".join(row + "\n" for row, stay in zip(rows, stays, strict=True) if stay))
    never = cleaned(here, tmp_path, "never", *left)
    assert list(iter_texts(corpus)) == list(iter_texts(never))
    for row in (there := rejected(corpus)).values():
        row.pop("source")  # the line's number
    assert there == {url: {**row} for url, row in rejected(never).items() if row.pop("source")}
    assert corpus.read_json("funnel.json") == never.read_json("funnel.json")
    stored = b"".join(whole(corpus).values())
    assert "https://example.org/7" not in rejected(corpus)  # it is itself again
    assert not any(name.encode() in stored for name in forgotten)


def test_what_sites_exclude_today_is_forgotten_and_shown_by_domain(
    here: Session, tmp_path: Path, corpora: Corpora
) -> None:
    rules = tmp_path / "rules.jsonl"
    tdm = [{"location": "/1$", "tdm-reservation": 1}]
    rows: list[dict[str, object]] = [
        {"origin": "https://example.org", "robots": "User-agent: *\nDisallow: /3", "tdm": json.dumps(tdm)},
        {"origin": "https://shop.example.com", "ai": "User-agent: *\nDisallow: /"},
    ]
    rules.write_text("".join(json.dumps(row) + "\n" for row in rows))
    blocked = tmp_path / "blocked.txt"
    blocked.write_text("# our list\nhttps://b.example.net/lon\n")
    texts = {row["url"]: row["text"] for row in kept_rows(corpora.both)}
    org = [url for url in texts if url == "https://example.org/1" or url.startswith("https://example.org/3")]
    names = [*org, "https://b.example.net/longer", "shop.example.com"]
    (tmp_path / "other").mkdir()
    expected = corpora.copy(corpora.both, tmp_path / "other")
    update(expected, Change(forget=tuple(names)), here)
    corpus = corpora.copy(corpora.both, tmp_path)
    update(corpus, Change(opt_outs=(str(rules), str(blocked))), here)
    found = corpus.read_json("funnel.json").pop("opted_out")
    for name, content in whole(expected).items():
        assert name == "funnel.json" or corpus.read_bytes(name) == content, name
    assert found["reasons"] == {"block list": 1, "robots.txt": len(org) - 1, "tdm-reservation": 1}
    total = sum(map(len, texts.values()))
    sizes = {"example.org": sum(len(texts[url]) for url in org)}
    sizes["b.example.net"] = len(texts["https://b.example.net/longer"])
    assert {name: row["characters"] for name, row in found["domains"].items()} == sizes
    assert found["domains"]["example.org"]["share"] == round(sizes["example.org"] / total, 6)
    assert found["documents"] == len(org) + 1 and found["different_domains"] == 2
    rules.write_text('{"origin": "https://a.org", "robots": 3}\n')
    (tmp_path / "third").mkdir()
    untouched = corpora.copy(corpora.first, tmp_path / "third")
    with pytest.raises(HeadwaterError, match=r"line 1 is no rule of a site.*robots"):
        update(untouched, Change(opt_outs=(str(rules),)), here)
    assert untouched.manifest() is not None


def test_an_interrupted_update_resumes(
    here: Session, tmp_path: Path, corpora: Corpora, monkeypatch: pytest.MonkeyPatch
) -> None:
    grown = corpora.copy(corpora.first, tmp_path)
    places = ["_plan", "_decide", "_forget_scores", "report"]
    for place in places:
        with monkeypatch.context() as patched:
            patched.setattr(updating, place, _cut_off)
            with pytest.raises(KeyboardInterrupt):
                update(grown, adding(corpora.crawls[1]), here)
        assert grown.manifest() is None
    with pytest.raises(HeadwaterError, match="another change of this corpus is unfinished"):
        update(grown, Change(forget=("example.org",)), here)
    update(grown, adding(corpora.crawls[1]), here)
    assert whole(grown) == whole(corpora.both)


def _cut_off(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_domain_is_forgotten_with_its_subdomains_an_address_by_itself() -> None:
    urls = [
        "https://a.org/x",
        "http://www.A.org:80/",
        "https://ba.org/",
        "https://a.org.uk/",
        "https://[::1",
        "",
    ]
    assert Gone(["a.org"])(urls).tolist() == [True, True, False, False, False, False]
    assert Gone(["https://a.org/x"])(urls).tolist() == [True, False, False, False, False, False]
    assert not np.any(Gone([])(urls))


def test_a_folder_that_is_no_corpus_is_refused(here: Session, tmp_path: Path) -> None:
    with pytest.raises(HeadwaterError, match="no cleaned corpus here"):
        update(Artifact(str(tmp_path)), Change(forget=("a.org",)), here)
