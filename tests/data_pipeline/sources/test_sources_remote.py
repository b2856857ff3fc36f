"""Sources behind HTTP and in an object store, against real servers on this machine."""

from __future__ import annotations

from pathlib import Path

import boto3
import pytest
from huggingface_hub import constants

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.artifact import Artifact
from headwater.data_pipeline.acquire import Acquire, AcquireConfig, ReadWorker, _units
from headwater.data_pipeline.sources import read_source
from headwater.data_pipeline.sources.guess import sources_of
from headwater.data_pipeline.sources.items import UnreadableFile
from headwater.data_pipeline.sources.listing import InputFile, fingerprint, input_files
from headwater.data_pipeline.sources.spec import Columns
from tests.data_pipeline.conftest import WebServer
from tests.data_pipeline.reading import read_all, source_of
from tests.hub import REPOSITORY, hub
from tests.ports import free_ports


def test_a_url_is_read(web_server: WebServer, jsonl_file: Path) -> None:
    web_server.files["/pages.jsonl"] = jsonl_file.read_bytes()
    documents, _, error = read_all("jsonl", f"{web_server.url}/pages.jsonl")
    assert (len(documents), error) == (10, None)
    assert documents[0].source == f"{web_server.url}/pages.jsonl:line 1, byte 0"


def test_a_broken_connection_goes_on_where_it_broke(web_server: WebServer, jsonl_file: Path) -> None:
    web_server.files["/pages.jsonl"] = jsonl_file.read_bytes()
    web_server.breaks["/pages.jsonl"] = 2
    documents, _, error = read_all("jsonl", f"{web_server.url}/pages.jsonl")
    assert (len(documents), error) == (10, None)
    assert [wanted[:6] for _, wanted in web_server.requests] == ["", "bytes=", "bytes="]


@pytest.mark.parametrize(
    ("path", "reason"),
    [("/absent.jsonl", "not_found"), ("/forbidden", "no_permission"), ("/to-file", "unreachable")],
)
def test_a_url_without_an_answer_is_named_with_its_reason(
    web_server: WebServer, path: str, reason: str
) -> None:
    documents, _, error = read_all("jsonl", web_server.url + path)
    assert documents == []
    assert error is not None and error.reason == reason


def test_a_server_that_is_not_there_is_unreachable() -> None:
    _, _, error = read_all("jsonl", f"http://127.0.0.1:{free_ports(1)[0]}/a.jsonl")
    assert error is not None and error.reason == "unreachable"


def test_a_download_is_stopped_at_its_limit(web_server: WebServer) -> None:
    web_server.files["/big.jsonl"] = b"x" * 3_000_000
    _, _, error = read_all("jsonl", f"{web_server.url}/big.jsonl", max_download_bytes=1_000_000)
    assert error is not None and error.reason == "too_large"


def test_objects_are_listed_read_and_fingerprinted(s3_server: str, jsonl_file: Path) -> None:
    client = boto3.client("s3", endpoint_url=s3_server)
    client.create_bucket(Bucket="crawl")  # of its own: the listing must be no other test's
    for key in ("web/b.jsonl", "web/a.jsonl", "web/other.bin"):
        client.upload_file(str(jsonl_file), "crawl", key)
    source = source_of("jsonl", paths=["s3://crawl/web"])
    paths = [file.path for file in input_files(source, "jsonl")]
    assert paths == ["s3://crawl/web/a.jsonl", "s3://crawl/web/b.jsonl"]
    assert [f.path for f in input_files(source_of("jsonl", paths=["s3://crawl/*/a*"]), "jsonl")] == paths[:1]
    assert len(read_all("jsonl", paths[0])[0]) == 10
    before = fingerprint([source])
    client.put_object(Bucket="crawl", Key="web/a.jsonl", Body=b'{"text": "changed"}\n')
    assert fingerprint([source]) != before


def test_a_store_in_s3_receives_the_parts(s3_server: str, jsonl_file: Path) -> None:
    config = AcquireConfig.model_validate({"sources": [{"kind": "jsonl", "paths": [str(jsonl_file)]}]})
    output = Artifact("s3://corpus/store/acquire/0123")
    result = ReadWorker(config, output)(_units(config)[0])
    assert result["documents"] == 10
    assert output.files("documents", ".parquet") == [result["files"][0]["name"]]


@pytest.mark.parametrize("path", ["s3://no-such-bucket/a.jsonl", "s3://corpus/no-such-key.jsonl"])
def test_a_missing_bucket_or_key_fails_with_its_name(s3_server: str, tmp_path: Path, path: str) -> None:
    config = AcquireConfig.model_validate({"sources": [{"kind": "jsonl", "paths": [path]}]})
    fingerprint(config.sources)
    units, output = _units(config), Artifact(str(tmp_path / "out"))
    results = [ReadWorker(config, output)(unit) for unit in units]
    assert results[0]["rejected"] == {"not_found": 1}
    with pytest.raises(HeadwaterError, match=path) as caught:
        Acquire(config)._check(units, results, output)
    assert "not_found" in str(caught.value)


def test_wrong_s3_keys_are_reported_as_permission_denied(
    s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headwater.cluster.storage.object_store import s3

    s3.cache_clear()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    try:
        _, _, error = read_all("jsonl", "s3://corpus/web/a.jsonl")
    finally:
        s3.cache_clear()
    assert error is not None and error.reason == "no_permission"


def test_a_wheel_that_pip_cannot_fetch_says_what_pip_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    source = source_of("wheel", package="no-such-package==1.0", sha256="0" * 64, member="a.csv")
    with pytest.raises(UnreadableFile) as caught:
        list(read_source(source, "no-such-package==1.0"))
    assert caught.value.reason == "unreachable"
    assert "no-such-package" in caught.value.detail


def test_files_of_a_dataset_are_listed_and_read(
    tmp_path: Path, jsonl_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("data/b.jsonl", "data/a.jsonl", "data/other.bin"):
        (tmp_path / "hub" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "hub" / name).write_bytes(jsonl_file.read_bytes())
    with hub(tmp_path / "hub") as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # as in every worker of a session
        folder = f"hf://datasets/{REPOSITORY}"
        (source,) = sources_of([folder], Columns())
        assert source.kind == "jsonl"
        paths = [file.path for file in input_files(source, "jsonl")]
        assert paths == [f"{folder}/data/a.jsonl", f"{folder}/data/b.jsonl"]
        matching = source_of("jsonl", paths=[f"{folder}/data/a*"])
        assert [file.path for file in input_files(matching, "jsonl")] == paths[:1]
        assert len(read_all("jsonl", paths[0])[0]) == 10
        assert constants.HF_HUB_OFFLINE is True  # for all that no path asked for
        for missing in ("hf://datasets/nobody/nothing/a.jsonl", f"{folder}/data/c.jsonl"):
            assert isinstance(input_files(source_of("jsonl", paths=[missing]), "jsonl")[0], InputFile)
            _, _, error = read_all("jsonl", missing)
            assert error is not None and error.reason == "not_found"
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    _, _, error = read_all("jsonl", paths[0])
    assert error is not None and error.reason == "unreachable"
