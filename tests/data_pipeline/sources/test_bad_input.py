"""Bad input: every unreadable record is reported with file and position and counted; the rest is read."""

from __future__ import annotations

import codecs
import gzip
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from fastwarc.warc import WarcRecord, WarcRecordType

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import execute
from headwater.cluster.storage.artifact import Artifact
from headwater.data_pipeline.acquire import Acquire, AcquireConfig, PartWriter, ReadWorker, _units
from headwater.data_pipeline.documents import Document
from headwater.data_pipeline.sources.guess import sources_of
from headwater.data_pipeline.sources.items import Unread, UnreadableFile
from headwater.data_pipeline.sources.readers.csv import csv_rows
from headwater.data_pipeline.sources.spec import Columns
from tests.data_pipeline.reading import read_all
from tests.data_pipeline.sources.readers.test_sources_files import warc_record


def archive(pages: int) -> list[bytes]:
    body = b"<p>" + os.urandom(3000).hex().encode() + b"</p>"
    return [warc_record(f"https://example.org/{n}", body) for n in range(pages)]


@pytest.mark.parametrize("cut", [-900, -9, -1, 1, 5, 12, 300, 900])
def test_a_truncated_gzip_warc_is_named_and_what_was_read_is_kept(tmp_path: Path, cut: int) -> None:
    """Cut off around the end of the third of six records, which are six gzip members."""
    members = list(map(gzip.compress, archive(6)))
    path, end = tmp_path / "cut.warc.gz", sum(map(len, members[:3]))
    path.write_bytes(b"".join(members)[: end + cut])
    documents, unread, error = read_all("warc", str(path))
    assert len(documents) == (2 if cut == -900 else 3)  # the other cuts leave its last byte
    assert unread == []
    assert error is not None and error.reason == "truncated"
    assert f"record {len(documents)}," in error.position or f"record {len(documents) + 1}," in error.position


def test_no_record_of_an_archive_is_lost_in_silence(tmp_path: Path) -> None:
    """A status that is no number, resources, revisits and zstd bodies: pages in = documents + unread."""
    html = b"<html><body><p>hello</p></body></html>"
    zstd = "Content-Type: text/html\r\nContent-Encoding: zstd"
    records = [
        warc_record("https://example.org/0", b"<p>x</p>").replace(
            b"HTTP/1.1 200", "HTTP/1.1 2²".encode("latin-1") + b"0"
        ),
        warc_record("https://example.org/1", html),
        *(_record(kind, n, html) for n, kind in ((2, WarcRecordType.resource), (3, WarcRecordType.revisit))),
        warc_record("https://example.org/4", zstandard.compress(html), zstd),
        warc_record("https://example.org/5", zstandard.compress(html)[:5] + b"damaged", zstd),
        warc_record("https://example.org/6", zstandard.compress(bytes(30_000_000)), zstd),
        _record(WarcRecordType.metadata, 7, b"no page, and not counted"),
    ]
    path = tmp_path / "a.warc"
    path.write_bytes(b"".join(records))
    documents, unread, error = read_all("warc", str(path))
    assert error is None
    assert [(d.url[-1], d.html) for d in documents] == [("1", html), ("2", html), ("4", html)]
    assert [(u.detail[-1], u.reason) for u in unread] == [
        ("0", "http_status"),
        ("3", "revisit"),
        ("5", "broken_record"),
        ("6", "too_large"),
    ]


def _record(kind: WarcRecordType, number: int, body: bytes) -> bytes:
    record, buffer = WarcRecord(), io.BytesIO()
    record.init_headers(kind)
    record.headers.append("WARC-Target-URI", f"https://example.org/{number}")
    record.headers.append("Content-Type", "text/html")
    record.set_bytes_content(body)
    record.write(buffer)
    return buffer.getvalue()


def test_a_byte_order_mark_does_not_cost_the_first_document(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(codecs.BOM_UTF8 + b'{"text": "one"}\n{"text": "two"}\n')
    documents, unread, _ = read_all("jsonl", str(path))
    assert ([d.text for d in documents], unread) == (["one", "two"], [])


def test_an_unpacked_warc_that_ends_in_the_middle_of_a_record_keeps_the_whole_ones(tmp_path: Path) -> None:
    path, records = tmp_path / "cut.warc", archive(3)
    path.write_bytes(b"".join(records)[:-500])
    documents, _, error = read_all("warc", str(path))
    assert len(documents) == 2
    assert error is not None and (error.reason, error.position.split(",")[0]) == ("truncated", "record 3")


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_a_damaged_member_of_an_archive_costs_its_record(
    tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    path, members = tmp_path / "hurt.warc.gz", list(map(pack, archive(20)))
    members[15] = members[15][:40] + b"\0" * 400 + members[15][440:]
    path.write_bytes(b"".join(members))
    documents, _, error = read_all("warc", str(path))
    assert [int(document.url.rpartition("/")[2]) for document in documents] == [*range(15), *range(16, 20)]
    assert error is not None and error.reason == "truncated"


def test_broken_lines_and_invalid_utf8_cost_only_themselves(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [
        b'{"text": "one"}',
        b'{"text": "two"',
        b'{"text": "caf\xe9"}',
        b"[1, 2]",
        b'{"text": 7}',
        b'{"body": "x"}',
        b'{"text": "half \\ud83d"}',
        b"",
        b'{"text": "last"}',
    ]
    path.write_bytes(b"\n".join(lines))
    documents, unread, error = read_all("jsonl", str(path))
    assert error is None
    assert [document.text for document in documents] == ["one", "last"]
    assert [(u.position.split(",")[0], u.reason) for u in unread] == [
        ("line 2", "broken_line"),
        ("line 3", "invalid_utf8"),
        ("line 4", "broken_line"),
        ("line 5", "not_text"),
        ("line 6", "no_text"),
        ("line 7", "invalid_utf8"),
    ]
    assert unread[0].position == "line 2, byte 16"


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_a_truncated_jsonl_keeps_its_whole_lines(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "a.jsonl.packed"
    rows = [json.dumps({"text": os.urandom(200).hex()}) for _ in range(2000)]
    packed = pack("\n".join(rows).encode())
    path.write_bytes(packed[:300_000])
    documents, unread, error = read_all("jsonl", str(path))
    assert len(documents) > 0.8 * 2000 * 300_000 / len(packed) and unread == []
    assert [document.text for document in documents] == [
        json.loads(row)["text"] for row in rows[: len(documents)]
    ]
    assert error is not None
    assert (error.reason, error.position.split(",")[0]) == ("truncated", f"line {len(documents) + 1}")


def test_a_line_of_50_mb_is_rejected_in_little_memory_and_the_next_one_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with path.open("wb") as stream:
        stream.write(b'{"text": "first"}\n{"text": "' + b"x" * 50_000_000 + b'"}\n{"text": "last"}\n')
    program = (
        "import resource, sys; from tests.data_pipeline.reading import read_all\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "documents, unread, _ = read_all('jsonl', sys.argv[1], max_document_bytes=1_000_000)\n"
        "reasons = [(problem.reason, problem.position) for problem in unread]\n"
        "after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print([d.text for d in documents], reasons, after - before < 20_000)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "['first', 'last'] [('too_large', 'line 2, byte 18')] True"


@pytest.mark.parametrize(
    ("kind", "name"),
    [("jsonl", "a.jsonl"), ("warc", "a.warc.gz"), ("parquet", "a.parquet"), ("folder", "a.txt")],
)
def test_an_empty_file_is_named(tmp_path: Path, kind: str, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    documents, _, error = read_all(kind, str(tmp_path / name))
    assert documents == []
    assert error is not None and error.reason == "empty_file"


@pytest.mark.parametrize(("kind", "name"), [("warc", "a.warc"), ("parquet", "a.parquet")])
def test_a_file_of_another_kind_is_named(tmp_path: Path, kind: str, name: str) -> None:
    (tmp_path / name).write_bytes(b"this is something else\n" * 1000)
    documents, _, error = read_all(kind, str(tmp_path / name))
    assert documents == []
    assert error is not None and error.reason == "unreadable"


def test_parquet_without_the_column_names_those_that_are_there(tmp_path: Path) -> None:
    pq.write_table(pa.table({"content": ["x"]}), tmp_path / "a.parquet")
    _, _, error = read_all("parquet", str(tmp_path / "a.parquet"))
    assert error is not None and error.reason == "missing_column"
    assert "content" in error.detail


OUT_OF_RANGE = {
    "date": pa.array([0, 2**30, 1], pa.int32()).view(pa.date32()),
    "date64": pa.array([0, 2**46 * 86_400, 1], pa.int64()).view(pa.date64()),
    "timestamp": pa.array([0, 2**62, 1], pa.int64()).view(pa.timestamp("us", "UTC")),
    "time": pa.array([0, 2**62, 1], pa.int64()).view(pa.time64("us")),
    "duration": pa.array([0, 2**60, 1], pa.int64()).view(pa.duration("ms")),
    "list": pa.ListArray.from_arrays([0, 1, 2, 3], pa.array([0, 2**30, 1], pa.int32()).view(pa.date32())),
    "bytes": pa.array([b"a", b"caf\xe9", b"b"]).view(pa.string()),
}


@pytest.mark.parametrize("column", OUT_OF_RANGE.values(), ids=OUT_OF_RANGE.keys())
def test_a_table_value_that_python_cannot_hold_skips_only_its_row(tmp_path: Path, column: pa.Array) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["one", "two", "three"], "fetched_at": column}), path)
    documents, unread, error = read_all("parquet", str(path))
    assert error is None
    assert [document.text for document in documents] == ["one", "three"]
    assert [(problem.position, problem.reason) for problem in unread] == [
        ("row 1", "invalid_utf8" if column.type == pa.string() else "broken_row")
    ]


def test_a_time_zone_that_nobody_knows_is_named_with_file_and_row(session: Session, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    column = pa.array([0], pa.int64()).view(pa.timestamp("us", "Nowhere/None"))
    pq.write_table(pa.table({"text": ["one"], "fetched_at": column}), path)
    config = AcquireConfig.model_validate({"sources": [{"kind": "parquet", "paths": [str(path)]}]})
    with pytest.raises(HeadwaterError, match=r"a\.parquet \(row 0\): broken_row, .*Nowhere/None"):
        execute(Acquire(config), {}, session)


def test_a_file_whose_name_is_not_utf8_is_named_and_the_next_one_read(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "b.txt").write_text("fine")
    (tmp_path / "in" / os.fsdecode(b"caf\xe9.txt")).write_text("lost")
    source = {"kind": "folder", "paths": [str(tmp_path / "in")]}
    config = AcquireConfig.model_validate({"sources": [source]})
    (unit,) = _units(config)
    result = ReadWorker(config, Artifact(str(tmp_path / "out")))(unit)
    assert (result["documents"], result["rejected"]) == (1, {"invalid_name": 1})
    assert result["unopened"] == result["problems"]
    assert result["problems"][0]["file"] == str(tmp_path / "in" / "caf?.txt")
    with pytest.raises(HeadwaterError, match="not UTF-8"):
        sources_of([os.fsdecode(b"caf\xe9.txt")], Columns())


def test_an_http_status_that_is_no_number_costs_only_its_record(tmp_path: Path) -> None:
    path = tmp_path / "a.warc"
    odd = warc_record("u:1", b"<p>odd</p>").replace(b"HTTP/1.1 200", b"HTTP/1.1 \xb200")
    path.write_bytes(odd + warc_record("u:2", b"<p>fine</p>"))
    documents, unread, error = read_all("warc", str(path))
    assert error is None
    assert ([document.url for document in documents], [u.reason for u in unread]) == (
        ["u:2"],
        ["http_status"],
    )


def test_an_invalid_csv_header_is_reported() -> None:
    with pytest.raises(UnreadableFile, match=r"broken_line.*line 1"):
        list(csv_rows(io.BytesIO(b"text,a\rb\nfine,x\n"), "a.csv", Columns(), 1000))


def test_a_table_with_a_column_whose_name_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["one"], "caf_": ["x"]}), path, store_schema=False)
    path.write_bytes(path.read_bytes().replace(b"caf_", b"caf\xe9"))
    documents, _, error = read_all("parquet", str(path))
    assert (documents, error and error.reason) == ([], "unreadable")


def test_a_document_over_the_limit_is_rejected_by_every_reader(tmp_path: Path) -> None:
    text = "x" * 5000
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": text}) + "\n" + json.dumps({"text": "ok"}))
    pq.write_table(pa.table({"text": [text, "ok"]}), tmp_path / "a.parquet")
    (tmp_path / "a.warc").write_bytes(warc_record("u:1", text.encode()) + warc_record("u:2", b"<p>ok</p>"))
    for kind in ("jsonl", "parquet", "warc"):
        documents, unread, _ = read_all(kind, str(tmp_path / f"a.{kind}"), max_document_bytes=2000)
        assert (len(documents), [problem.reason for problem in unread]) == (1, ["too_large"]), kind
    (tmp_path / "a.txt").write_text(text)
    assert read_all("folder", str(tmp_path / "a.txt"), max_document_bytes=2000)[1][0].reason == "too_large"


def test_text_that_is_not_utf8_in_a_folder_is_named_with_its_byte(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"fine until caf\xe9")
    _, unread, _ = read_all("folder", str(tmp_path / "a.txt"))
    assert [(problem.reason, problem.position) for problem in unread] == [("invalid_utf8", "byte 14")]


def test_parts_respect_their_limit_and_leftovers_of_an_interrupted_run_are_removed(tmp_path: Path) -> None:
    output = Artifact(str(tmp_path))
    output.write_bytes("documents/00000-ab-0007.parquet", b"from an earlier, longer run")
    parts = PartWriter(output, "00000-ab", documents_per_part=4)
    for number in range(10):
        parts.add(Document(str(number), "", "", f"text {number}"))
    parts.reject(Unread("f", "line 1", "broken_line"))
    result = parts.close()
    assert [entry["documents"] for entry in result["files"]] == [4, 4, 2]
    assert output.files("documents", ".parquet") == [entry["name"] for entry in result["files"]]
    unread = pq.read_table(tmp_path / "unread" / "00000-ab.parquet").to_pylist()
    assert unread == [{"file": "f", "position": "line 1", "reason": "broken_line", "detail": ""}]


def test_the_stage_counts_what_it_could_not_read_and_goes_on(
    here: Session, jsonl_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty.jsonl").write_bytes(b"")
    with jsonl_file.open("a") as stream:
        stream.write("{broken\n")
    paths = [str(jsonl_file), str(tmp_path / "empty.jsonl"), "http://127.0.0.1:9/unreachable.jsonl"]
    config = AcquireConfig.model_validate({"sources": [{"kind": "jsonl", "paths": paths}]})
    artifact, _ = execute(Acquire(config), {}, here)
    manifest = artifact.manifest()
    assert manifest is not None
    assert manifest.metrics["documents"] == 10
    assert manifest.metrics["rejected"] == {"broken_line": 1, "empty_file": 1, "forbidden_address": 1}
    assert len(artifact.files("unread", ".parquet")) == 3
    _, found = execute(Acquire(config), {}, here)
    assert found


def test_a_source_of_which_nothing_can_be_read_fails_and_is_tried_again(
    here: Session, tmp_path: Path
) -> None:
    path = tmp_path / "a.jsonl"
    mended = '{"text": "mended"}\n'
    path.write_text("{" + "x" * (len(mended) - 1))
    config = AcquireConfig.model_validate({"sources": [{"kind": "jsonl", "paths": [str(path)]}]})
    with pytest.raises(HeadwaterError, match=r"no document could be read.*line 1") as caught:
        execute(Acquire(config), {}, here)
    assert caught.value.where == str(path)
    stamp = path.stat()
    path.write_text(mended)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # the same key as before
    artifact, found = execute(Acquire(config), {}, here)
    assert not found
    assert artifact.files("documents", ".parquet")


def test_on_error_fail_stops_at_a_file_that_cannot_be_opened(tmp_path: Path, jsonl_file: Path) -> None:
    (tmp_path / "empty.jsonl").write_bytes(b"")
    paths = [str(jsonl_file), str(tmp_path / "empty.jsonl")]
    settings = {"sources": [{"kind": "jsonl", "paths": paths}], "on_error": "fail"}
    config = AcquireConfig.model_validate(settings)
    output, units = Artifact(str(tmp_path / "out")), _units(config)
    results = [ReadWorker(config, output)(unit) for unit in units]
    with pytest.raises(HeadwaterError, match="empty_file") as caught:
        Acquire(config)._check(units, results, output)
    assert caught.value.where == paths[1]
