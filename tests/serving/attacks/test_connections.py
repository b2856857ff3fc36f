"""Hostile connections: what HTTP itself is used for, sent as raw bytes to a real server behind the door."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import httpx
import pytest

from headwater.serving.api import door, limits
from headwater.serving.config import AppConfig
from tests.serving.in_process import ingress_of, served

BODY = b'{"prompt": "x"}'
SMUGGLED = b"GET /console/api/about HTTP/1.1\r\nhost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def url(news_config: AppConfig) -> Iterator[str]:
    app = ingress_of(news_config)
    with served(door.Door(app, most=2, max_body_bytes=news_config.max_body_bytes)) as url:
        yield url


def told(url: str, *pieces: bytes, silence: float = 10) -> bytes:
    """All that the server says to these bytes, until it closes or is silent for some seconds."""
    host, port = url.removeprefix("http://").split(":")
    said = b""
    with socket.create_connection((host, int(port)), timeout=silence) as connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
            while piece := connection.recv(65_536):
                said += piece
        except (TimeoutError, ConnectionError):
            pass
    return said


def post(*headers: str, body: bytes = BODY, path: str = "/tokenize", host: str = "localhost") -> bytes:
    lines = [f"POST {path} HTTP/1.1", f"host: {host}", "content-type: application/json", *headers]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


LENGTH = f"content-length: {len(BODY)}"
CHUNKED = b"f\r\n" + BODY + b"\r\n0\r\n\r\n"
SMUGGLING = {
    "a length and chunks": post(LENGTH, "transfer-encoding: chunked", body=b"0\r\n\r\n" + SMUGGLED),
    "chunks and a length": post("transfer-encoding: chunked", LENGTH, body=b"0\r\n\r\n" + SMUGGLED),
    "two lengths": post("content-length: 0", LENGTH, body=SMUGGLED),
    "a length twice in one line": post("content-length: 0, 15", body=SMUGGLED),
    "a length with a sign": post("content-length: +0", body=SMUGGLED),
    "a negative length": post("content-length: -1", body=SMUGGLED),
    "a length in hexadecimal": post("content-length: 0x0", body=SMUGGLED),
    "chunks by another name": post("transfer-encoding: xchunked", body=b"0\r\n\r\n" + SMUGGLED),
    "a blank before the colon": post("transfer-encoding : chunked", body=b"0\r\n\r\n" + SMUGGLED),
    "a chunk of a negative size": post("transfer-encoding: chunked", body=b"-1\r\n" + SMUGGLED),
    "a chunk of a size beyond all": post("transfer-encoding: chunked", body=b"f" * 20 + b"\r\n" + SMUGGLED),
    "a line that goes on": post("x: a\r\n transfer-encoding: chunked", LENGTH),
    "ends of lines without a return": post().replace(b"\r\n", b"\n"),
    "a null byte in a header": post("x: a\x00b", LENGTH),
    "a return alone in a header": post("x: a\rtransfer-encoding: chunked", LENGTH),
}


@pytest.mark.parametrize("request_", SMUGGLING.values(), ids=SMUGGLING)
def test_no_second_request_hides_in_the_first(url: str, request_: bytes) -> None:
    """One answer at most is a success; what was hidden is not answered as a request of its own."""
    said = told(url, request_, silence=0.3)
    assert b'"presets"' not in said
    assert b" 500 " not in said and said.count(b"HTTP/1.1 200 ") <= 1


ODD = {
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "HTTP/0.9": b"GET /\r\n",
    "another protocol": b"GET / HTTP/9.9\r\nhost: localhost\r\n\r\n",
    "HTTP/2 at once": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a null byte in the path": b"GET /\x00 HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "a path of 200 kB": b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "a header of 200 kB": b"GET / HTTP/1.1\r\nhost: localhost\r\nx: " + b"a" * 200_000 + b"\r\n\r\n",
    "5,000 headers": b"GET /version HTTP/1.1\r\nhost: localhost\r\n" + b"x: y\r\n" * 5_000 + b"\r\n",
    "TRACE": b"TRACE / HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer secret\r\n\r\n",
    "CONNECT": b"CONNECT 169.254.169.254:80 HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "another server's address": b"GET http://169.254.169.254/latest HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "a websocket": b"GET / HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
}


@pytest.mark.parametrize("request_", ODD.values(), ids=ODD)
def test_what_is_no_proper_request_gets_nothing_of_the_server(url: str, request_: bytes) -> None:
    said = told(url, request_, silence=0.3)
    assert b" 500 " not in said and b"secret" not in said and b"Traceback" not in said
    assert b" 101 " not in said
    assert httpx.get(f"{url}/version").status_code == 200


NAMES = (
    "evil.example",
    "localhost.evil.example",
    "evil.example#localhost",
    "localhost@evil.example",
    "evil.example:80@localhost:x",
    "127.0.0.1.nip.io",
    "0.0.0.0",
    "10.0.0.1",
    "2130706433",
    "0x7f.1",
    "",
)


@pytest.mark.parametrize("host", NAMES)
@pytest.mark.parametrize("path", ["/", "/v1/models", "/healthz", "/console/api/about"])
def test_a_page_of_another_name_reaches_nothing_without_keys(url: str, host: str, path: str) -> None:
    """DNS rebinding: the browser sends the attacker's name."""
    httpx.get(f"{url}/healthz", headers={"host": "localhost"})  # told again to this name alone
    said = told(url, f"GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n".encode())
    assert said.startswith((b"HTTP/1.1 421 ", b"HTTP/1.1 400 ")), said[:200]


@pytest.mark.parametrize("names", [("localhost", "evil.example"), ("evil.example", "localhost")])
def test_two_names_are_none(url: str, names: tuple[str, str]) -> None:
    hosts = "".join(f"host: {name}\r\n" for name in names)
    said = told(url, f"GET /v1/models HTTP/1.1\r\n{hosts}connection: close\r\n\r\n".encode())
    assert said.startswith((b"HTTP/1.1 421 ", b"HTTP/1.1 400 ")), said[:200]


PATHS = (
    "/console/../config.py",
    "/console/..%2fconfig.py",
    "/console/%2e%2e/config.py",
    "/console/..%5cconfig.py",
    "/console/....//config.py",
    "/console/%252e%252e%252fconfig.py",
    "/console/style.css%00.py",
    "/console//etc/passwd",
    "/console/%2fetc%2fpasswd",
    "/console/.git",
    "/console/CON",
    "//etc/passwd",
    "/..%c0%afetc/passwd",
    "/console/api/artifacts/..%2f..%2f/x",
    "/console/api/curves/rl/..%2f..%2fkeys",
    "/console/api/runs/..%2f../1",
    "/console/api/corpora/..%2f..%2fx/documents?text=a",
    "/v1/models/..%2f..%2fetc%2fpasswd",
)


@pytest.mark.parametrize("path", PATHS)
def test_no_path_leads_out_of_the_console(url: str, path: str) -> None:
    said = told(url, f"GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode())
    assert said.startswith((b"HTTP/1.1 404 ", b"HTTP/1.1 400 ", b"HTTP/1.1 307 ")), said[:300]
    assert b"root:" not in said and b"import " not in said


RETURNS = {
    "in a path": "/v1/models/%0d%0aset-cookie:%20a=b",
    "in a query": "/v1/documents?url=x%0d%0aset-cookie:%20a=b",
    "in a rater": "/console/api/rankings?rater=%0d%0aset-cookie:%20a=b",
    "in a page's name": "/console/%0d%0aset-cookie:a=b",
}


@pytest.mark.parametrize("path", RETURNS.values(), ids=RETURNS)
def test_no_header_is_added_by_what_was_sent(url: str, path: str) -> None:
    assert "set-cookie" not in httpx.get(f"{url}{path}").headers


KEYS = (
    "",
    "Bearer",
    "Bearer null",
    "Bearer undefined",
    "bearer sk-ones",
    "Bearer sk-on",
    "Bearer SK-ONE",
    "Bearer sk-one,sk-two",
    "Bearer sk-one sk-two",
    "Bearer *",
    "Bearer ' OR 1=1 --",
    "Basic c2stb25lOg==",
    "Token sk-one",
    "Bearer sha256:5a1e",
    "Bearer " + "a" * 20_000,
    "Bearer sk-one\u00a0x",
)


@pytest.fixture(scope="module")
def guarded(news_config: AppConfig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text("sk-one anna\n")
    with served(ingress_of(news_config.model_copy(update={"api_keys": str(file)}))) as url:
        yield url


@pytest.mark.parametrize("header", KEYS)
def test_a_guessed_key_opens_nothing(guarded: str, header: str) -> None:
    for path in ("/v1/models", "/console/api/about", "/v1/models?api_key=sk-one&key=sk-one"):
        sent = {"authorization": header.encode(), "x-api-key": b"sk-one", "cookie": b"key=sk-one"}
        response = httpx.get(f"{guarded}{path}", headers=sent)  # type: ignore[arg-type]
        assert response.status_code == 401 and "sk-one" not in response.text
        assert response.headers["www-authenticate"] == "Bearer"


def test_a_header_that_is_sent_slowly_holds_up_nobody(url: str) -> None:
    """Slow-loris: many connections, none of which ends its request."""
    host, port = url.removeprefix("http://").split(":")
    held = [socket.create_connection((host, int(port))) for _ in range(100)]
    for number, connection in enumerate(held):
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"[: 10 + number])
    assert httpx.get(f"{url}/version").status_code == 200
    assert httpx.post(f"{url}/tokenize", json={"prompt": "x"}).status_code == 200
    for connection in held:
        connection.close()


def test_a_body_that_dribbles_is_given_up_by_the_application_itself(
    guarded: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no door stands before it (HAProxy)."""
    monkeypatch.setattr(limits, "BODY_SECONDS", 0.05)
    said = told(guarded, post("authorization: Bearer sk-one", "content-length: 100"))
    assert said.startswith(b"HTTP/1.1 408 ")
