"""Quotas of keys, what is recorded of their usage, and the file of keys that changes."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from headwater.cli import app
from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.store import Store
from headwater.serving.answers.events import Delta, Finished, Started
from headwater.serving.api.backend import Meter
from headwater.serving.api.keys import key_file
from headwater.serving.api.keys.auth import Key, Limits, read_keys
from headwater.serving.api.keys.key_file import KeyFile, add_key, revoke_key
from headwater.serving.api.keys.quotas import DAY, Quotas
from headwater.serving.api.keys.usage import Ledger, Used, read_usage
from headwater.serving.api.limits import Window
from headwater.serving.config import AppConfig
from headwater.serving.errors import ApiError
from tests.serving.in_process import ingress_of, served

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "What about the bridge?"}], "max_tokens": 8}
NOON = 20_000 * DAY + DAY / 2
ANNA, BEN = Key(b"\x01" * 32, "anna"), Key(b"\x02" * 32, "ben")


class Clock:
    now = NOON

    def __call__(self) -> float:
        return self.now


def refused(call: Any, *args: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        call(*args)
    assert (caught.value.status, caught.value.code) == (429, "rate_limit_exceeded")
    return caught.value


def test_a_window_waits_until_enough_has_gone_by() -> None:
    window = Window()
    for now, amount in ((0.0, 50), (10.0, 30), (20.0, 20)):
        window.add("a", amount, now)
    assert (window.used("a", 30.0), window.wait("a", 101, 30.0)) == (100, 0.0)
    assert (window.wait("a", 100, 30.0), window.wait("a", 50, 30.0)) == (30.0, 40.0)
    assert (window.used("a", 60.0), window.used("b", 60.0)) == (50, 0)


def test_tokens_of_a_minute_and_a_day_are_limited_apart_from_other_keys() -> None:
    clock = Clock()
    quotas = Quotas(Limits(tokens_per_minute=100, tokens_per_day=150), Ledger(), clock)
    quotas.spent(ANNA, "m", prompt=60, completion=39)
    quotas.check_tokens(ANNA)
    quotas.spent(ANNA, "m", completion=1)
    assert refused(quotas.check_tokens, ANNA).retry_after == 60
    quotas.check_tokens(BEN)
    clock.now += 60
    quotas.check_tokens(ANNA)
    quotas.spent(ANNA, "m", prompt=50)
    error = refused(quotas.check_tokens, ANNA)
    assert "150 tokens in a day" in error.message and error.retry_after == DAY / 2 - 60
    clock.now += DAY / 2 - 60
    quotas.check_tokens(ANNA)


def test_a_keys_own_limits_stand_before_the_servers() -> None:
    own = Key(b"\x03" * 32, "own", limits=Limits(tokens_per_day=10))
    quotas = Quotas(Limits(requests_per_minute=1, tokens_per_day=1000), Ledger(), Clock())
    quotas.spent(own, "m", prompt=10)
    refused(quotas.check_tokens, own)
    quotas.request(own)
    assert refused(quotas.request, own).retry_after == 60


def test_headers_are_openais_and_tell_the_limit_that_is_nearer() -> None:
    clock = Clock()
    limits = Limits(requests_per_minute=3, tokens_per_minute=100, tokens_per_day=1000)
    quotas = Quotas(limits, Ledger(), clock)
    quotas.request(ANNA)
    quotas.spent(ANNA, "m", prompt=40)
    clock.now += 20
    assert quotas.headers(ANNA) == {
        "x-ratelimit-limit-requests": "3",
        "x-ratelimit-remaining-requests": "2",
        "x-ratelimit-reset-requests": "40s",
        "x-ratelimit-limit-tokens": "100",
        "x-ratelimit-remaining-tokens": "60",
        "x-ratelimit-reset-tokens": "40s",
    }
    clock.now += 60
    quotas.spent(ANNA, "m", prompt=950)
    clock.now += 60
    told = quotas.headers(ANNA)
    assert (told["x-ratelimit-limit-tokens"], told["x-ratelimit-remaining-tokens"]) == ("1000", "10")
    assert told["x-ratelimit-reset-tokens"] == "11h57m40s"
    assert Quotas(Limits(), Ledger(), clock).headers(ANNA) == {}


def test_an_answer_that_is_not_read_to_its_end_counts_all_the_same() -> None:
    ledger = Ledger()
    meter = Meter(Quotas(Limits(), ledger, Clock()), ANNA, "m")
    for event in (Started(7), Delta(0, "a"), Delta(1, "b"), Delta(1, "c"), Finished(0, "stop", 5)):
        meter.read(event)
    assert ledger.tokens_today(ANNA.id, NOON) == 12
    meter.close()
    assert ledger.tokens_today(ANNA.id, NOON) == 14


def test_a_days_tokens_are_those_of_all_replicas_and_of_those_before(tmp_path: Path) -> None:
    store = str(tmp_path)
    first, second = Ledger(store, alone=False), Ledger(store, alone=False)
    first.add("a", Used("anna", 1, 10, 1), NOON)
    second.add("a", Used("anna", 1, 20, 2), NOON)
    for each in (first, second, first):
        each.sync(NOON)
        each.sync(NOON)  # again adds nothing
    assert first.tokens_today("a", NOON) == second.tokens_today("a", NOON) == 33
    restarted = Ledger(store)
    restarted.sync(NOON)
    assert restarted.tokens_today("a", NOON) == 33
    first.add("a", Used("anna", 1, 5, 0), NOON + DAY)
    first.sync(NOON + DAY)
    assert first.tokens_today("a", NOON + DAY) == 5
    assert [used["a"].tokens for used in read_usage(Store(store)).values()] == [5, 33]


def test_tokens_are_told_by_model_also_beside_those_of_earlier_versions(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    old = {ANNA.id: {"name": "anna", "requests": 3, "prompt_tokens": 100, "completion_tokens": 50}}
    store.folder("usage").write_json("2024-10-04/old.json", old)
    assert read_usage(store)["2024-10-04"][ANNA.id].by_model() == {"": tokens(100, 50)}
    ledger = Ledger(str(tmp_path))
    for model, spent in (("law", 7), ("tone", 20), ("law", 1)):
        meter = Meter(Quotas(Limits(), ledger, Clock()), ANNA, model)
        for event in (Started(spent), Finished(0, "stop", 2)):
            meter.read(event)
    ledger.sync(NOON)
    used = read_usage(store)["2024-10-04"][ANNA.id]
    assert used.by_model() == {"law": tokens(8, 4), "tone": tokens(20, 2), "": tokens(100, 50)}
    assert (used.requests, used.tokens) == (3, 184)
    told = CliRunner().invoke(app, ["key", "usage", "--store", str(tmp_path)]).output
    rows = [re.findall(r"[\w,]+", line) for line in told.splitlines() if "│" in line]
    assert [row[-3:] for row in rows if row[-1].isdigit()] == [
        ["3", "128", "56"],
        ["law", "8", "4"],
        ["tone", "20", "2"],
        ["recorded", "100", "50"],
    ]


def tokens(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion}


def test_what_a_failing_store_did_not_take_is_written_later(tmp_path: Path) -> None:
    (tmp_path / "usage").write_text("no folder")
    ledger = Ledger(str(tmp_path))
    ledger.add("a", Used("anna", 1, 10, 1), NOON)
    asyncio.run(ledger.sync_now())
    (tmp_path / "usage").unlink()
    ledger.sync(NOON)
    assert read_usage(Store(str(tmp_path))) == {"2024-10-04": {"a": Used("anna", 1, 10, 1)}}


@pytest.fixture
def limited(news_config: AppConfig, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """An endpoint with a file of keys: one limited to few tokens, one admin."""
    file = tmp_path / "keys"
    file.write_text("sk-one anna tokens_per_day=1\nsk-boss boss admin\nsk-two ben\n")
    changes = {"api_keys": str(file), "store": str(tmp_path / "store")}
    with served(ingress_of(news_config.model_copy(update=changes))) as url:
        yield url, file


def ask(url: str, key: str, **body: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"}
    return httpx.post(f"{url}/v1/chat/completions", json=CHAT | body, headers=headers, timeout=60)


def test_a_key_without_tokens_left_is_refused_and_what_all_used_is_shown(limited: tuple[str, Path]) -> None:
    url, file = limited
    first, then = ask(url, "sk-one"), ask(url, "sk-one")
    assert (first.status_code, then.status_code) == (200, 429)
    assert first.headers["x-ratelimit-limit-tokens"] == then.headers["x-ratelimit-limit-tokens"] == "1"
    assert int(then.headers["retry-after"]) > 0 and then.json()["error"]["code"] == "rate_limit_exceeded"
    with httpx.stream(
        "POST",
        f"{url}/v1/chat/completions",
        json=CHAT | {"stream": True},
        headers={"authorization": "Bearer sk-two"},
    ) as streamed:
        assert streamed.read()
    embedded = {"model": "tiny", "input": "stone bridge"}
    assert (
        httpx.post(
            f"{url}/v1/embeddings", json=embedded, headers={"authorization": "Bearer sk-one"}
        ).status_code
        == 429
    )
    found = httpx.get(f"{url}/console/api/keys", headers={"authorization": "Bearer sk-boss"}).json()
    used = {each["name"]: each for each in found["usage"]}
    expected = first.json()["usage"]
    assert used["anna"]["requests"] == 3 and used["ben"]["completion_tokens"] > 0
    assert used["anna"]["prompt_tokens"] == expected["prompt_tokens"]
    assert used["anna"]["completion_tokens"] == expected["completion_tokens"]
    assert used["anna"]["models"] == {
        "tiny": tokens(expected["prompt_tokens"], expected["completion_tokens"])
    }
    shown = CliRunner().invoke(app, ["key", "usage", "--store", str(file.parent / "store"), "--json"])
    (day,) = json.loads(shown.output)["days"].values()
    assert day[used["ben"]["id"]]["prompt_tokens"] == used["ben"]["prompt_tokens"]
    kept = "".join(path.read_text() for path in (file.parent / "store" / "usage").rglob("*.json"))
    assert "bridge" not in kept and "sk-" not in kept


def test_an_admin_adds_and_revokes_keys_and_no_key_is_shown_again(limited: tuple[str, Path]) -> None:
    url, file = limited
    path, boss = f"{url}/console/api/keys", {"authorization": "Bearer sk-boss"}
    body = {"name": "carl", "roles": ["rank"], "tokens_per_day": 5000}
    for other in ("sk-one", "sk-two"):
        headers = {"authorization": f"Bearer {other}"}
        assert httpx.get(path, headers=headers).status_code == 403
        assert httpx.post(path, headers=headers, json=body).status_code == 403
        assert httpx.delete(f"{path}/x", headers=headers).status_code == 403
    made = httpx.post(path, headers=boss, json=body)
    secret = made.json()["key"]
    assert made.status_code == 201 and made.headers["cache-control"] == "no-store"
    assert ask(url, secret).status_code == 200  # at once
    shown = httpx.get(path, headers=boss).text
    assert secret not in shown and "sk-" not in shown and secret not in file.read_text()
    keys = {each["name"]: each for each in json.loads(shown)["keys"]}
    assert keys["carl"]["roles"] == ["rank"] and keys["carl"]["limits"] == ["tokens_per_day=5000"]
    assert httpx.delete(f"{path}/{keys['boss']['id']}", headers=boss).status_code == 400
    assert httpx.delete(f"{path}/{keys['carl']['id']}", headers=boss).status_code == 200
    assert ask(url, secret).status_code == 401
    assert httpx.delete(f"{path}/{keys['carl']['id']}", headers=boss).status_code == 404
    assert httpx.post(path, headers=boss, json={"name": "x\nsk-mine evil admin"}).status_code == 400


def test_a_file_that_changes_is_read_again_and_a_wrong_one_keeps_the_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_file, "LOOK_SECONDS", 0.0)
    file = tmp_path / "keys"
    file.write_text("sk-one anna\n")
    keys = KeyFile(str(file))
    secret = add_key(str(file), "ben", ["rank", "tokens_per_day=9"])
    assert [key.name for key in keys.now()] == ["anna", "ben"] and secret not in file.read_text()
    assert keys.now()[1].limits == Limits(tokens_per_day=9)
    file.write_text("sk-one a/b\n")
    assert [key.name for key in keys.now()] == ["anna", "ben"]
    file.unlink()
    assert [key.name for key in keys.now()] == ["anna", "ben"]


def test_a_revoked_key_leaves_the_file_and_all_else_in_it(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# mine\nsk-one anna\n\nsk-two ben rank\nsk-three ben\n")
    with pytest.raises(HeadwaterError, match="2 keys have this name"):
        revoke_key(str(file), "ben")
    with pytest.raises(HeadwaterError, match="no key has this name"):
        revoke_key(str(file), "carl")
    revoke_key(str(file), read_keys(str(file))[1].id)
    assert file.read_text() == "# mine\nsk-one anna\n\nsk-three ben\n"
    revoke_key(str(file), "ben")
    with pytest.raises(HeadwaterError, match="the last key"):
        revoke_key(str(file), "anna")


@pytest.mark.parametrize("word", ["tokens_per_day=", "tokens_per_day=-1", "tokens=5", "tokens_per_day=1e9"])
def test_a_limit_that_is_none_is_refused(tmp_path: Path, word: str) -> None:
    with pytest.raises(HeadwaterError, match="is no limit"):
        add_key(str(tmp_path / "keys"), "anna", [word])


def test_the_command_makes_lists_and_revokes_keys(tmp_path: Path) -> None:
    file = str(tmp_path / "keys")

    def run(*args: str) -> str:
        result = CliRunner().invoke(app, ["key", *args])
        assert result.exit_code == 0, result.exception
        return result.output

    assert run("--file", file, "anna", "rank").startswith("hw-")  # `add` is implied
    assert run("add", "ben", "tokens_per_day=50", "--file", file).startswith("hw-")
    listed = json.loads(run("list", "--file", file, "--json"))["keys"]
    assert [(each["name"], each["roles"], each["limits"]) for each in listed] == [
        ("anna", ["rank"], []),
        ("ben", [], ["tokens_per_day=50"]),
    ]
    assert re.search(rf"{listed[0]['id']}\W+anna", run("list", "--file", file))
    run("revoke", "anna", "--file", file)
    assert [key.name for key in read_keys(file)] == ["ben"]
