"""`kind: common_crawl` on a small mirror with the real layout: which pages, and which bytes."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import boto3
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import execute, locate
from headwater.cluster.storage.artifact import Artifact
from headwater.cluster.storage.store import Store
from headwater.data_pipeline.acquire import Acquire, AcquireConfig, _units
from headwater.data_pipeline.parts import DOCUMENTS, UNREAD
from headwater.data_pipeline.sources.common_crawl import ranges, selection
from headwater.data_pipeline.sources.common_crawl.index import sampled
from headwater.data_pipeline.sources.common_crawl.selection import Selection
from headwater.data_pipeline.sources.spec import CommonCrawlSource
from tests.data_pipeline.sources.common_crawl.mirror import (
    CRAWL,
    GOOD,
    PAGES,
    SEGMENT,
    Page,
    Served,
    acquired,
    build,
    config,
    rows,
    serving,
    urls,
)

EXAMPLE = ("example.org", "docs.example.org", "www.example.org")


def host(page: Page) -> str:
    return page.url.split("/")[2]


def test_documents_are_those_of_the_files_with_their_place_and_date(here: Session, built: Path) -> None:
    artifact = acquired(here, built)
    found = {row["url"]: row for row in rows(artifact)}
    assert sorted(found) == sorted(page.url for page in GOOD)
    warc = [{"kind": "warc", "paths": [str(built / SEGMENT / "warc")]}]
    whole, _ = execute(Acquire(AcquireConfig.model_validate({"sources": warc})), {}, here)
    for row in rows(whole):
        if row["url"] in found:
            assert found[row["url"]] == row | {"source": found[row["url"]]["source"]}
    file, _, place = found[PAGES[0].url]["source"].rpartition(":byte ")
    with Path(file).open("rb") as stream:
        stream.seek(int(place))
        assert stream.read(2) == b"\x1f\x8b"
    assert found[PAGES[0].url]["fetched_at"] == "2026-01-02T03:04:05Z"


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"domains": ["Example.org"]}, lambda p: host(p) in EXAMPLE),
        ({"domains": ["www.example.org"]}, lambda p: host(p) == "www.example.org"),
        (
            {"domains": ["co.uk", "münchen.test"]},
            lambda p: host(p) in ("news.example.co.uk", "xn--mnchen-3ya.test"),
        ),
        ({"languages": ["deu"]}, lambda p: p.languages == "deu,eng"),
        ({"languages": ["eng"]}, lambda p: p.languages in ("eng", "eng,fra")),
        (
            {"urls": ["https://example.org/docs/*?q=a.b"]},
            lambda p: p.url.startswith("https://example.org/docs/"),
        ),
        (
            {"urls": ["https://*/blog/*", "https://example.com/*"]},
            lambda p: "/blog/" in p.url or host(p) == "example.com",
        ),
        (
            {"domains": ["example.org"], "languages": ["deu"], "urls": ["*/docs/*"]},
            lambda p: host(p) in EXAMPLE and "/docs/" in p.url and p.languages == "deu,eng",
        ),
    ],
)
def test_conditions_select_exactly(here: Session, built: Path, settings: Any, wanted: Any) -> None:
    expected = sorted(page.url for page in GOOD if wanted(page))
    assert expected and urls(acquired(here, built, **settings)) == expected


def test_a_dot_of_a_pattern_is_a_dot(here: Session, built: Path) -> None:
    with pytest.raises(HeadwaterError, match="no page of the index meets the conditions"):
        acquired(here, built, urls=["https://example.org/docs/*?q=aXb", "https://exampleXorg/*"])


def test_status_and_media_type_are_conditions(here: Session, built: Path) -> None:
    artifact = acquired(here, built, statuses=[200, 404], mime_types=["text/html", "application/pdf"])
    assert len(rows(artifact)) == 39  # the pdf's record says text/html, the other has status 404
    assert [row["reason"] for row in rows(artifact, UNREAD)] == ["http_status"]


def test_a_sample_depends_on_seed_and_url_alone() -> None:
    names = [f"https://example.org/{n}" for n in range(10_000)]
    tenth, third = sampled(names, 0.1, 7), sampled(names, 0.3, 7)
    assert abs(tenth.mean() - 0.1) < 0.01 and abs(third.mean() - 0.3) < 0.02
    assert not (tenth & ~third).any()  # nested
    assert (sampled(names[::-1], 0.1, 7)[::-1] == tenth).all()
    assert (sampled(names, 0.1, 8) != tenth).any()
    assert sampled(["https://example.org/"], 0.66, 0)[0] == sampled(["https://example.org/"], 0.66, 0)[0]


def test_a_sample_of_pages_is_the_same_however_the_index_is_divided(here: Session, tmp_path: Path) -> None:
    found = []
    for files in (1, 3):
        build(tmp_path / str(files), PAGES, index_files=files)
        found.append(urls(acquired(here, tmp_path / str(files), sample=0.5, seed=3)))
    taken = sampled([page.url for page in GOOD], 0.5, 3)
    assert found[0] == found[1] == sorted(p.url for p, t in zip(GOOD, taken, strict=True) if t)


def test_only_the_bytes_of_the_pages_are_fetched(here: Session, served: Served) -> None:
    artifact = acquired(here, served.url, domains=["example.org"])
    chosen = Selection(**artifact.read_json("common_crawl/0/selection.json"))
    assert chosen.pages == len(rows(artifact)) == 15
    fetched = served.of(".warc.gz")
    assert sum(length for *_, length in fetched) == chosen.bytes == chosen.fetched_bytes
    assert len(fetched) == chosen.requests == 15


def test_an_index_file_without_the_domain_is_not_read_beyond_its_footer(
    here: Session, tmp_path: Path
) -> None:
    random = Random(1)
    many = [Page(f"https://h{n:04}.example.org/{random.randbytes(250).hex()}") for n in range(900)]
    build(tmp_path, many, index_files=3)
    with serving(tmp_path) as served:
        assert urls(acquired(here, served.url, domains=["h0000.example.org"])) == [many[0].url]
    read = served.of(".parquet")
    begins = [
        min(start for name, start, _ in read if name == path) for path in sorted({name for name, *_ in read})
    ]
    unread = begins[1:]
    assert len(unread) == 2 and min(unread) > 50_000  # the footer is at the end


def test_neighbours_are_fetched_together(here: Session, served: Served) -> None:
    apart = acquired(here, served.url)
    fetched = served.of(".warc.gz")
    served.asked.clear()
    together = acquired(here, served.url, gap_bytes=1_000)
    assert rows(together) == rows(apart)
    assert len(served.of(".warc.gz")) < len(fetched) / 5
    chosen = Selection(**together.read_json("common_crawl/0/selection.json"))
    assert sum(length for *_, length in served.of(".warc.gz")) == chosen.fetched_bytes > chosen.bytes
    assert len(served.of(".warc.gz")) == chosen.requests


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 5_000), st.integers(1, 100)), max_size=40),
    st.integers(0, 200),
)
def test_requests_cover_every_page_once_and_no_wider_gap(
    places: list[tuple[str, int, int]], gap: int
) -> None:
    ordered = sorted(places)
    files, offsets, lengths = ([each[n] for each in ordered] for n in range(3))
    made = list(ranges.merged(files, offsets, lengths, gap))  # type: ignore[arg-type]
    assert [row for each in made for row in range(each.first, each.last)] == list(range(len(ordered)))
    for each in made:
        inside = ordered[each.first : each.last]
        assert {file for file, *_ in inside} == {each.file}
        assert each.offset == inside[0][1]
        assert each.offset + each.length == max(offset + length for _, offset, length in inside)
        end = inside[0][1]
        for _, offset, length in inside:
            assert offset - end <= gap
            end = max(end, offset + length)
    resumed = list(ranges.merged(files, offsets, lengths, gap, 3))  # type: ignore[arg-type]
    assert [row for each in resumed for row in range(each.first, each.last)] == list(range(3, len(ordered)))


def test_units_are_consecutive_and_of_bounded_size() -> None:
    lengths = np.array([40, 40, 40, 500, 1, 1])
    assert ranges.bounds(lengths, 100) == [(0, 3), (3, 4), (4, 6)]
    assert ranges.bounds(lengths[:0], 100) == []


class Killed(BaseException):
    """Ends a run as a signal does."""


def test_a_killed_run_goes_on_after_its_last_part_and_gives_the_same_bytes(
    here: Session, served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"documents_per_part": 5, "requests_at_once": 1}
    stage = Acquire(config(served.url, **settings))
    whole = contents(execute(stage, {}, here)[0])
    served.asked.clear()
    with Session(Store(str(tmp_path / "other")), max_workers=0) as session:
        parts = 0
        create = Artifact.create

        def killing(self: Artifact, name: str) -> Any:
            nonlocal parts
            parts += name.startswith(DOCUMENTS)
            if parts == 4:
                raise Killed
            return create(self, name)

        with monkeypatch.context() as patched, pytest.raises(Killed):
            patched.setattr(Artifact, "create", killing)
            execute(stage, {}, session)
        begun = locate(stage, {}, session)
        assert begun.manifest() is None and len(begun.files(DOCUMENTS, ".parquet")) == 3
        lookups, before = len(served.of(".parquet")), len(served.of(".warc.gz"))
        assert contents(execute(stage, {}, session)[0]) == whole
    assert len(served.of(".parquet")) == lookups  # the index is not read again
    assert before == 21 and len(served.of(".warc.gz")) - before == len(GOOD) - 15


def contents(artifact: Artifact) -> dict[str, bytes]:
    return {name: artifact.read_bytes(name) for name in artifact.files(DOCUMENTS)}


def test_a_folder_needs_no_list_of_its_index(here: Session, tmp_path: Path) -> None:
    build(tmp_path, PAGES)
    (tmp_path / f"crawl-data/{CRAWL}/cc-index-table.paths.gz").unlink()
    assert len(rows(acquired(here, tmp_path))) == len(GOOD)


@pytest.mark.parametrize("remote", [False, True])
def test_wet_files_give_their_texts_of_the_same_pages(
    here: Session, built: Path, served: Served, remote: bool
) -> None:
    artifact = acquired(here, served.url if remote else built, format="wet", languages=["eng"])
    wanted = sorted(page.url for page in GOOD if (page.languages or "").startswith("eng"))
    found = rows(artifact)
    assert sorted(row["url"] for row in found) == wanted
    assert all(
        row["text"] and row["html"] is None and ".warc.wet.gz:record " in row["source"] for row in found
    )
    assert not served.of(".warc.gz")


def test_a_bucket_is_read_with_keys_and_not_without(here: Session, built: Path, s3_server: str) -> None:
    client = boto3.client("s3", endpoint_url=s3_server)
    client.create_bucket(Bucket="mirror")
    for path in built.rglob("*"):
        if path.is_file():
            client.upload_file(str(path), "mirror", str(path.relative_to(built)))
    artifact = acquired(here, "s3://mirror", domains=["example.com"])
    assert urls(artifact) == sorted(page.url for page in GOOD if "//example.com/" in page.url)
    assert rows(artifact)[0]["source"].startswith(f"s3://mirror/{SEGMENT}/warc/")
    with pytest.raises(HeadwaterError, match="no_permission") as caught:
        acquired(here, "s3://mirror", anonymous=True)
    assert caught.value.where.startswith("s3://mirror/crawl-data")
    with pytest.raises(HeadwaterError, match=r"cc-index-table\.paths\.gz"):
        acquired(here, "s3://no-such-bucket")


def test_the_names_of_parts_do_not_depend_on_the_store(tmp_path: Path) -> None:
    made = []
    for store in (tmp_path / "a", tmp_path / "b"):
        (store / "ranges").mkdir(parents=True)
        made.append(_units(config("r"), {0: [f"{store}/ranges/000000.parquet"]}, str(store))[0]["unit"])
    assert made[0] == made[1]


@pytest.mark.parametrize(
    "wrong",
    [
        {"crawl": "2024-10"},
        {"domains": ["https://example.org/"]},
        {"languages": ["en"]},
        {"sample": 0},
        {"statuses": [99]},
        {"format": "wat"},
    ],
)
def test_what_cannot_work_is_refused_with_the_recipe(wrong: dict[str, Any]) -> None:
    given = {"kind": "common_crawl", "crawl": CRAWL}
    assert CommonCrawlSource.model_validate(given)
    with pytest.raises(ValidationError):
        CommonCrawlSource.model_validate(given | wrong)


def test_a_folder_as_root_is_one_of_the_recipes_files(built: Path) -> None:
    assert list(Acquire(config(built)).files()) == [("sources.0.root", str(built))]
    assert list(Acquire(config("https://data.commoncrawl.org/")).files()) == []


def test_units_of_many_pages_are_divided(here: Session, built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "UNIT_BYTES", 4_000)
    artifact = acquired(here, built)
    chosen = Selection(**artifact.read_json("common_crawl/0/selection.json"))
    assert chosen.units > 3 and len(rows(artifact)) == chosen.pages == len(GOOD)
