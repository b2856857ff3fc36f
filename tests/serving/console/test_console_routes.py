"""`/console/api/…`: who may look, what is found, and names that are no names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from headwater.cluster.storage.store import Store
from headwater.llm.examples import rankings
from headwater.llm.examples.system_prompts import SYSTEM_PROMPTS
from headwater.serving.api.extensions.console_routes import HANDLERS
from headwater.serving.config import AppConfig
from headwater.serving.views import prompts, runs
from tests.serving.console import console_store
from tests.serving.console.conftest import application
from tests.serving.in_process import served

STORE_VIEWS = [
    "runs",
    "runs/news/1",
    f"curves/rl/{console_store.RL}",
    "corpora",
    f"corpora/{console_store.CLEAN}/documents?text=x",
    "artifacts",
    f"artifacts/rl/{console_store.RL}",
]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(str(tmp_path_factory.mktemp("filled")))
    console_store.fill(store)
    return store


@pytest.fixture(scope="module")
def guarded(filled: Store, model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with keys: one may chat, one rank, one look."""
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text("plain\nranks ann rank\nlooks bob admin rank\n")
    config = AppConfig(
        model=str(model_folder), model_name="tiny", store=filled.location, api_keys=str(keys), threads=1
    )
    with served(application(config)) as url:
        yield url


def get(url: str, path: str, key: str) -> requests.Response:
    headers = {"authorization": f"Bearer {key}"}
    return requests.get(f"{url}/console/api/{path}", headers=headers, timeout=60)


def test_store_is_shown_to_admins_alone(guarded: str) -> None:
    for path in STORE_VIEWS:
        assert get(guarded, path, "wrong").status_code == 401, path
        assert get(guarded, path, "plain").status_code == 403, path
        assert get(guarded, path, "ranks").status_code == 403, path
        assert get(guarded, path, "looks").status_code == 200, path
    assert get(guarded, "rankings", "plain").status_code == 403
    assert get(guarded, "rankings", "ranks").status_code == 200
    shown = {key: get(guarded, "about", key).json() for key in ("plain", "ranks", "looks")}
    assert {key: (each["rankings"], each["store"]) for key, each in shown.items()} == {
        "plain": (False, False),
        "ranks": (True, False),
        "looks": (True, True),
    }
    assert shown["ranks"]["rater"] == "ann"


def test_every_route_reads_and_answers_json_that_is_not_kept(guarded: str) -> None:
    for path, _ in HANDLERS:
        refused = requests.post(f"{guarded}{path.replace('{attempt:int}', '1')}", timeout=60)
        assert refused.status_code == 405, path
    for path in ("about", "rankings", *STORE_VIEWS):
        found = get(guarded, path, "looks")
        assert found.headers["cache-control"] == "no-store"
        json.loads(found.text, parse_constant=pytest.fail)  # no NaN: JSON has none


@pytest.mark.parametrize(
    "path",
    [
        "artifacts/rl/..%2f..%2fkeys",
        "artifacts/../1111",
        "artifacts/rl/ffffffffffffffff",
        "curves/clean/0000000000000000",
        "curves/%2e%2e/0000",
        "runs/..%2fnews/1",
        "runs/news/7",
        "runs/%2e%2e/1",
        "corpora/..%2f..%2f/documents?text=x",
        "corpora/ffffffffffffffff/documents?text=x",
    ],
)
def test_names_that_the_store_does_not_have_are_404(guarded: str, path: str) -> None:
    session = requests.Session()
    request = session.prepare_request(
        requests.Request("GET", f"{guarded}/", headers={"authorization": "Bearer looks"})
    )
    request.url = f"{guarded}/console/api/{path}"  # as it is: not normalised
    assert session.send(request, timeout=60).status_code == 404


def test_search_without_text_is_refused_by_name(guarded: str) -> None:
    found = get(guarded, f"corpora/{console_store.CLEAN}/documents", "looks")
    assert (found.status_code, found.json()["error"]["param"]) == (400, "text")


def test_rater_is_named_by_the_key_where_there_are_keys(guarded: str, filled: Store) -> None:
    body = {
        "messages": [{"role": "user", "content": "What is new?"}],
        "answers": [{"text": "Rain."}, {"text": "Snow."}],
        "ranks": [1, 2],
    }

    def send(more: dict[str, str]) -> requests.Response:
        headers = {"authorization": "Bearer ranks"}
        return requests.post(f"{guarded}/v1/rankings", json=body | more, headers=headers, timeout=60)

    assert send({"rater": "carl"}).json()["error"]["param"] == "rater"
    assert send({}).status_code == 201
    assert [kept.ranking.rater for kept in rankings.read(filled)] == ["ann"]
    standing = get(guarded, "rankings", "ranks").json()
    assert (standing["rankings"], standing["own"], standing["alpha"]) == (1, 1, None)


def test_curves_are_thinned_out_with_both_ends_and_without_what_is_not_finite() -> None:
    history = [{"step": float(step), "loss": float(step), "rare": float("nan")} for step in range(1000)]
    found = runs.series(history, points=50)
    assert list(found) == ["loss"]
    assert len(found["loss"]) == 50
    assert (found["loss"][0], found["loss"][-1]) == ([0.0, 0.0], [999.0, 999.0])


def test_run_that_goes_on_shows_its_current_stage_with_curves(filled: Store) -> None:
    record = next(each for each in runs.all_runs(filled) if each["run"] == "again")
    assert record["done"] == 1 and record["expected"] == 4
    shown = runs.one_run(filled, "again", 1)
    assert shown is not None
    assert [(stage["stage"], stage["curves"]) for stage in shown["stages"]] == [
        ("clean", False),
        ("pretrain", True),
    ]
    assert runs.one_run(filled, "again", 2) is None


def test_prompts_show_what_was_measured_of_the_served_model(filled: Store) -> None:
    found = {each["name"]: each for each in prompts.presets(filled, f"rl/{console_store.RL}")}
    assert {name: each["text"] for name, each in found.items()} == SYSTEM_PROMPTS
    effect = found["careful"]["effects"][0]
    assert (effect["without"]["value"], effect["with"]["value"]) == (0.2, 0.6)
    assert effect["model"] == f"rl/{console_store.RL}"
    assert found["fair"]["effects"] == []
    assert all(each["effects"] == [] for each in prompts.presets(None, ""))
