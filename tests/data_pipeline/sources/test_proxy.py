"""Fetches through a real proxy (proxy.py) on loopback that asks for credentials."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from headwater.cluster.errors import HeadwaterError
from headwater.data_pipeline.sources.proxy import proxy_of
from headwater.data_pipeline.sources.spec import FileSource
from tests.data_pipeline.conftest import WebServer
from tests.data_pipeline.crawl.conftest import Crawl, net, run
from tests.data_pipeline.crawl.web import Web, page
from tests.data_pipeline.reading import read_all, source_of

__all__ = ["net", "run"]  # fixtures
pytest.importorskip("proxy", reason="proxy.py is not installed")
USER, PASSWORD = "reader", "s3cr3t-w0rd"
ENCODED = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
HERE = {"resolve": {}, "allow_addresses": ["127.0.0.0/8", "::1"], "retries": 0, "sitemaps": False}


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of the proxy."""
    folder = tmp_path_factory.mktemp("proxy")
    port_file = folder / "port"
    command = [sys.executable, "-m", "proxy", "--hostname", "127.0.0.1", "--port", "0", "--num-workers", "1"]
    command += [
        "--port-file",
        str(port_file),
        "--basic-auth",
        f"{USER}:{PASSWORD}",
        "--data-dir",
        str(folder),
    ]
    there = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, cwd=folder, env=there, stdout=quiet, stderr=quiet) as process:
        for _ in range(600):
            if port_file.exists() and port_file.read_text().strip():
                break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port_file.read_text().strip()}"
        process.terminate()


@pytest.fixture
def credentials(tmp_path: Path) -> str:
    path = tmp_path / "credentials"
    path.write_text(f"{USER}:{PASSWORD}\n")
    return str(path)


def test_a_crawl_goes_through_the_proxy_and_keeps_its_credentials_to_itself(
    net: Web, run: Crawl, proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRAWL_PROXY", f"{USER}:{PASSWORD}")
    net.site("localhost", **{"/": page("/a"), "/a": page(text="Of mills.")})
    counts = run(net.url("localhost"), proxy=proxy, proxy_credentials="env:CRAWL_PROXY", **HERE)
    assert counts["page"] == 2
    first = net.requests[0][3]  # of a connection's later requests, proxy.py passes the headers on as they are
    assert "proxy.py" in first["Via"] and ENCODED not in str(first)
    written = [path for path in Path(run.output.location).parent.rglob("*") if path.is_file()]
    assert written and run.records("request")
    for secret in (PASSWORD, ENCODED):
        assert not any(secret.encode() in path.read_bytes() for path in written)
        assert not any(secret in str(head) for _, head, _ in run.records("request"))
    assert all(head.get_header("WARC-IP-Address") is None for head, _, _ in run.records())


def test_a_proxy_that_refuses_or_is_not_there_gives_no_page(net: Web, run: Crawl, proxy: str) -> None:
    net.site("localhost", **{"/": page()})
    seed = net.url("localhost")
    counts = run(seed, proxy=proxy, **HERE)
    assert (counts.get("page", 0), net.requests) == (0, [])
    assert "other credentials" in str(run.log()[seed])
    counts = run(seed, proxy="http://127.0.0.1:1", refresh=True, **HERE)
    assert (counts.get("page", 0), net.requests) == (0, [])


@pytest.mark.parametrize("settings", [{"allow_addresses": []}, {"resolve": {"localhost": "10.0.0.1"}}])
def test_a_crawl_checks_a_name_before_the_proxy_gets_it(
    net: Web, run: Crawl, proxy: str, credentials: str, settings: dict[str, object]
) -> None:
    net.site("localhost", **{"/": page()})
    seed = net.url("localhost")
    run(seed, **{"proxy": proxy, "proxy_credentials": credentials, **HERE, **settings})
    assert "forbidden_address" in str(run.log()[seed])
    assert net.requests == []


def test_a_file_is_downloaded_through_the_proxy_if_its_name_may_be_reached(
    web_server: WebServer, proxy: str, credentials: str
) -> None:
    web_server.files["/a.jsonl"] = b'{"text": "inside"}\n'
    url = web_server.url.replace("127.0.0.1", "localhost") + "/a.jsonl"
    given = {"proxy": proxy, "proxy_credentials": credentials}
    documents, _, error = read_all("jsonl", url, allow_addresses=["127.0.0.1", "::1"], **given)
    assert ([document.text for document in documents], error) == (["inside"], None)
    asked = len(web_server.requests)
    documents, _, error = read_all("jsonl", url, allow_addresses=[], **given)
    assert error is not None and error.reason == "forbidden_address"
    assert len(web_server.requests) == asked
    documents, _, error = read_all("jsonl", url, allow_addresses=["127.0.0.1", "::1"], proxy=proxy)
    assert error is not None and "407" in error.detail and len(web_server.requests) == asked


@pytest.mark.parametrize("place", ["env:NOT_SET_ANYWHERE", "/no/such/file"])
def test_missing_credentials_are_told_without_a_request(place: str) -> None:
    source = source_of("jsonl", paths=["a"], proxy="http://127.0.0.1:1", proxy_credentials=place)
    assert isinstance(source, FileSource)
    with pytest.raises(HeadwaterError, match=r"cannot be read|user:password") as raised:
        proxy_of(source)
    assert place in str(raised.value) or raised.value.where == place


def test_credentials_are_no_part_of_the_proxys_url_and_of_its_name() -> None:
    with pytest.raises(ValueError, match="pattern"):
        source_of("jsonl", paths=["a"], proxy="http://user:password@127.0.0.1:1")
    for scheme in ("socks5", "socks4a", "SOCKS5h"):
        with pytest.raises(ValueError, match=f"{scheme}://… is not supported: name an HTTP proxy"):
            source_of("crawl", seeds=["https://a.org/"], contact="a@b.org", proxy=f"{scheme}://127.0.0.1:1")
    assert "proxy" not in source_of("jsonl", paths=["a"]).model_dump(mode="json")
