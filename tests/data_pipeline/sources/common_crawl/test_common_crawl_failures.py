"""What fails of a `kind: common_crawl` source, and what each failure costs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.session import Session
from headwater.data_pipeline.parts import UNREAD
from tests.data_pipeline.sources.common_crawl.mirror import (
    CRAWL,
    GOOD,
    PAGES,
    SEGMENT,
    STEM,
    Served,
    acquired,
    build,
    rows,
    serving,
    urls,
)


def test_failures_of_the_server_are_tried_again(here: Session, served: Served) -> None:
    for part in ("paths.gz", ".parquet", "00000.warc.gz", "00001.warc.gz"):
        served.faults[part] = [503, 0]
    served.faults["00001.warc.gz"] = [1, 429]
    assert urls(acquired(here, served.url)) == sorted(page.url for page in GOOD)


@pytest.mark.parametrize("status", [403, 500, 0])
def test_a_file_that_cannot_be_reached_stops_the_run_which_goes_on_later(
    here: Session, served: Served, status: int
) -> None:
    served.faults["00001.warc.gz"] = [status] * 100
    with pytest.raises(HeadwaterError) as caught:
        acquired(here, served.url, requests_at_once=1)
    assert f"{STEM}-00001.warc.gz" in caught.value.where and "the next run goes on here" in caught.value.fix
    assert (f"status {status}" if status else "unreachable") in caught.value.what
    served.faults.clear()
    assert urls(acquired(here, served.url, requests_at_once=1)) == sorted(page.url for page in GOOD)


@pytest.mark.parametrize("faults", [[500] * 10, [200] + [500] * 10, [200, 200] + [403] * 10])
def test_an_index_file_that_cannot_be_reached_is_named(
    here: Session, served: Served, faults: list[int]
) -> None:
    served.faults["part-00001"] = faults  # the size, the footer, the rows
    with pytest.raises(HeadwaterError, match=f"status {faults[-1]}") as caught:
        acquired(here, served.url)
    assert "part-00001" in caught.value.where
    served.faults.clear()
    assert urls(acquired(here, served.url)) == sorted(page.url for page in GOOD)


def test_one_bad_record_costs_one(here: Session, built: Path, tmp_path: Path) -> None:
    shutil.copytree(built, tmp_path / "cut")
    places = build(tmp_path / "cut", PAGES)
    file = tmp_path / "cut" / SEGMENT / "warc" / f"{STEM}-00000.warc.gz"
    data = bytearray(file.read_bytes())
    data[places[4][0] : places[4][0] + 30] = b"\0" * 30
    file.write_bytes(data[: places[38][0] + 10])  # and the last one is cut off
    with serving(tmp_path / "cut") as served:
        artifact = acquired(here, served.url, gap_bytes=100_000)
    lost = {PAGES[4].url, PAGES[38].url}
    assert urls(artifact) == sorted(page.url for page in GOOD if page.url not in lost)
    unread = rows(artifact, UNREAD)
    assert [(row["position"], row["reason"]) for row in unread] == [
        (f"byte {places[4][0]}", "broken_record"),
        (f"byte {places[38][0]}", "truncated"),
    ]
    assert all(url in row["detail"] for url, row in zip((PAGES[4].url, PAGES[38].url), unread, strict=True))
    assert all(row["file"].endswith(f"{STEM}-00000.warc.gz") for row in unread)


def test_a_missing_file_costs_its_pages(here: Session, tmp_path: Path) -> None:
    build(tmp_path, PAGES)
    (tmp_path / SEGMENT / "warc" / f"{STEM}-00001.warc.gz").unlink()
    artifact = acquired(here, tmp_path)
    assert urls(artifact) == sorted(page.url for page in GOOD if page.file == 0)
    assert {row["reason"] for row in rows(artifact, UNREAD)} == {"not_found"}


@pytest.mark.parametrize("column", ["content_languages", "url_surtkey", "warc_record_offset"])
def test_a_column_that_the_index_lacks_is_named_with_the_file(
    here: Session, tmp_path: Path, column: str
) -> None:
    build(tmp_path, PAGES, without=column)
    with pytest.raises(HeadwaterError, match=f"the index has no column {column}") as caught:
        acquired(here, tmp_path, languages=["eng"], domains=["example.org"])
    assert "part-00000-d466b69e" in caught.value.where
    if column == "content_languages":
        assert len(rows(acquired(here, tmp_path))) == len(GOOD)


def test_what_matches_nothing_says_so_before_anything_is_fetched(here: Session, served: Served) -> None:
    with pytest.raises(HeadwaterError, match="no page of the index meets the conditions") as caught:
        acquired(here, served.url, domains=["absent.example"])
    assert f"crawl={CRAWL}" in caught.value.where and not served.of(".warc.gz")


def test_more_pages_than_allowed_are_an_error_before_anything_is_fetched(
    here: Session, served: Served
) -> None:
    with pytest.raises(HeadwaterError, match=r"38 pages meet the conditions, more than `max_records` \(10\)"):
        acquired(here, served.url, max_records=10)
    assert not served.of(".warc.gz")


def test_a_crawl_that_is_not_there_is_named(here: Session, served: Served) -> None:
    with pytest.raises(HeadwaterError) as caught:
        acquired(here, served.url, crawl="CC-MAIN-1999-01")
    assert "CC-MAIN-1999-01/cc-index-table.paths.gz" in caught.value.where and "crawl" in caught.value.fix


def test_a_damaged_index_file_is_named(here: Session, tmp_path: Path) -> None:
    build(tmp_path, PAGES)
    part = next(tmp_path.rglob("part-00001*"))
    part.write_bytes(part.read_bytes()[:500])
    with pytest.raises(HeadwaterError, match="not a readable index file") as caught:
        acquired(here, tmp_path)
    assert part.name in caught.value.where


def test_private_addresses_are_not_reached_unless_allowed(here: Session, served: Served) -> None:
    with pytest.raises(HeadwaterError, match="forbidden_address"):
        acquired(here, served.url, allow_addresses=[])
    assert not served.asked
