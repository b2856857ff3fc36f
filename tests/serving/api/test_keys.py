"""API keys: how they are compared, read from a file and made."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

import pytest
from typer.testing import CliRunner

from headwater.cli import app
from headwater.cluster.errors import HeadwaterError
from headwater.serving.api.keys.auth import Key, check_key, read_keys
from headwater.serving.errors import ApiError


def test_keys_are_compared_whole(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# mine\nsk-one\n\n sk-two anna rank\n")
    keys = read_keys(str(file))
    one, two = (hashlib.sha256(secret).digest() for secret in (b"sk-one", b"sk-two"))
    assert keys == (Key(one), Key(two, "anna", frozenset({"rank"})))
    assert "sk-one" not in repr(vars(keys[0]))
    assert "sk-" not in repr(keys)
    assert check_key("Bearer sk-two", keys).name == "anna"
    assert check_key(None, ()).name == "local"
    for header in (
        None,
        "",
        "Bearer",
        "Bearer sk-on",
        "Bearer sk-onee",
        "Basic sk-one",
        "Bearer \udcff",
        "sk-one",
    ):
        with pytest.raises(ApiError) as caught:
            check_key(header, keys)
        assert caught.value.status == 401
    file.write_text("# none\n")
    with pytest.raises(HeadwaterError, match="no key"):
        read_keys(str(file))


def test_every_key_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """`==` ends at the first byte that differs: its time tells how much of a key was guessed."""
    compared, compare = [], hmac.compare_digest

    def watched(one: bytes, other: bytes) -> bool:
        compared.append({one, other})
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", watched)
    own, *others = (hashlib.sha256(secret).digest() for secret in (b"sk-one", b"sk-two", b"sk-three"))
    keys = tuple(map(Key, (own, *others)))
    check_key("Bearer sk-one", keys)
    assert compared == [{own, key.digest} for key in keys]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("sk-one a/b", "the name is not of letters"),
        ("sk-one anna owner", "no role owner"),
        ("sha256:sk-one anna", "not 64 hexadecimal digits"),
    ],
)
def test_a_line_that_is_no_key_is_named_by_its_number_alone(tmp_path: Path, line: str, fault: str) -> None:
    file = tmp_path / "keys"
    file.write_text(f"sk-two\n{line}\n")
    with pytest.raises(HeadwaterError, match=f"keys, line 2: .*{fault}") as caught:
        read_keys(str(file))
    assert "sk-one" not in str(caught.value)


def test_a_new_key_is_known_by_its_hash_alone(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    result = CliRunner().invoke(app, ["key", "anna", "rank", "--file", str(file)])
    assert result.exit_code == 0
    secret = result.output.split()[0]
    assert secret not in file.read_text() and file.stat().st_mode & 0o077 == 0
    keys = read_keys(str(file))
    assert check_key(f"Bearer {secret}", keys).name == "anna"
    assert check_key(f"Bearer {secret}", keys).roles == {"rank"}
    with pytest.raises(ApiError, match="Incorrect API key"):
        check_key(f"Bearer {file.read_text().split()[0]}", keys)  # the hash is no key
    again = CliRunner().invoke(app, ["key", "ben", "--file", str(file)])
    assert again.exit_code == 0 and [key.name for key in read_keys(str(file))] == ["anna", "ben"]
    assert isinstance(CliRunner().invoke(app, ["key", "ben", "owner"]).exception, HeadwaterError)
