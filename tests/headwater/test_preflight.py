"""The preflight of a run: what is missing or does not fit is refused before the first stage."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import boto3
import pytest
from rich.console import Console

from headwater import pipeline, preflight
from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.needs import Actors, Moments, Need, first_fit, nodes, refuse_too_large
from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import Stage, StageConfig, execute
from headwater.cluster.storage.artifact import Artifact
from headwater.cluster.storage.store import Store
from headwater.recipe import Recipe, load, parse
from tests.headwater.command import in_a_process
from tests.headwater.sections import CHAIN
from tests.llm.models import foreign_model

QUICKSTART = Path(__file__).resolve().parents[2] / "recipes" / "quickstart.yaml"


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    folder = tmp_path / "pages"
    folder.mkdir()
    (folder / "one.txt").write_text("One page.")
    return folder


@pytest.fixture
def two_cores(tmp_path: Path) -> Iterator[Session]:
    """An embedded cluster of two cores that has not been started; nothing here may start it."""
    with Session(Store(str(tmp_path / "store")), num_cpus=2) as session:
        yield session


def own(pages: Path, **sections: Any) -> Recipe:
    sources = [{"kind": "folder", "paths": [str(pages)]}]
    return parse(CHAIN | {"name": "own", "acquire": {"sources": sources}} | sections, "test")


def check(recipe: Recipe, session: Session, **more: Any) -> None:
    preflight.check(recipe, list(pipeline.stages(recipe)), session, **more)


def test_learners_and_rollout_workers_that_do_not_fit_together_are_refused(
    pages: Path, two_cores: Session
) -> None:
    with pytest.raises(HeadwaterError) as refused:
        check(own(pages, rl={"cpus_per_worker": 1, "batch": 32}), two_cores)
    assert str(refused.value) == (
        "rl: 2 training workers of 1 CPU, 2 rollout workers of 0.5 CPUs at once: "
        "3 CPUs do not fit into 2 CPUs (lower `rl.workers` or `rl.cpus_per_worker` or `rl.rollout_workers` "
        "or `rl.cpus_per_rollout_worker`, or join a larger cluster with --address)"
    )


def test_a_base_without_a_usable_template_is_refused_before_acquire(
    tmp_path: Path, pages: Path, two_cores: Session
) -> None:
    folder = foreign_model(tmp_path / "llama", "llama").local("model")
    base = {"base": {"model": str(folder)}, "tokenizer": None, "pretrain": None}
    check(own(pages, **base), two_cores)
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    with pytest.raises(HeadwaterError, match=f"{folder}: sft needs a chat template, and the base has none"):
        check(own(pages, **base), two_cores)
    silent = dict.fromkeys(("sft", "reward", "rl"))
    check(own(pages, **base, **silent), two_cores)
    template = base | silent | {"base": {"model": str(folder), "chat_template": "chatml"}}
    check(own(pages, **template), two_cores)
    (tmp_path / "bad.jinja").write_text("{{ messages[0].content }}")
    template["base"]["chat_template"] = str(tmp_path / "bad.jinja")
    with pytest.raises(HeadwaterError, match=r"base\.chat_template: "):
        check(own(pages, **template), two_cores)


def test_every_default_and_the_quickstart_fit_on_two_cores(pages: Path, two_cores: Session) -> None:
    check(own(pages, dpo={}), two_cores)
    check(load(QUICKSTART), two_cores)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "pretrain.workers=3",
            r"pretrain: 3 training workers of 1 CPU at once: 3 CPUs do not fit into 2 CPUs",
        ),
        ("sft.gpus_per_worker=9", r"sft: .*2 CPUs and 18 GPUs do not fit .*`sft.workers` or `sft.gpus_per_w"),
        ("dpo.gpus_per_worker=9", r"dpo: 1 pool worker of 1 CPU and 1 GPU at once"),
        ("rl.cpus_per_rollout_worker=2", r"rl: .*2 rollout workers of 2 CPUs"),
    ],
)
def test_each_stage_states_what_it_runs_at_once(override: str, message: str, two_cores: Session) -> None:
    with pytest.raises(HeadwaterError, match=message):
        check(load(QUICKSTART, [override]), two_cores)


def test_evaluation_needs_rollout_workers_before_and_after_rl(pages: Path, two_cores: Session) -> None:
    recipe = own(pages, rl={"rollout_workers": 1, "cpus_per_rollout_worker": 1.5, "cpus_per_worker": 0.25})
    with pytest.raises(HeadwaterError, match=r"evaluate: 2 rollout workers of 1.5 CPUs .* `rl.rollout_work"):
        check(recipe, two_cores)


def test_an_elastic_stage_needs_its_fewest_workers(two_cores: Session) -> None:
    check(load(QUICKSTART, ["pretrain.workers=16", "pretrain.min_workers=2"]), two_cores)


def test_finished_stages_need_no_room_unless_they_run_again(pages: Path, tmp_path: Path) -> None:
    class Large(Stage[StageConfig]):
        name = "large"

        def resources(self, settings: Mapping[str, StageConfig]) -> Moments:
            return [[Actors("giants", 1, Need(10_000))]]

        def run(self, inputs: Mapping[str, Artifact], output: Artifact, session: Session) -> dict[str, Any]:
            return {}

    recipe, stage = own(pages), Large(StageConfig())
    with Session(Store(str(tmp_path / "store")), max_workers=0) as session:
        with pytest.raises(HeadwaterError, match="large: 1 giant of 10000 CPUs at once"):
            preflight.check(recipe, [stage], session)
        execute(stage, {}, session)
        preflight.check(recipe, [stage], session)
        with pytest.raises(HeadwaterError, match="large"):
            preflight.check(recipe, [stage], session, redo="large")


def test_a_stage_that_does_not_state_its_needs_is_a_bug() -> None:
    class Silent(Stage[StageConfig]):
        name = "silent"

    with pytest.raises(TypeError, match=r"stage silent does not define resources\(\)"):
        Silent(StageConfig()).resources({})
    for stage in pipeline.STAGES:
        assert stage.resources is not Stage.resources, stage.name


def test_files_that_a_recipe_names_must_exist(pages: Path, two_cores: Session, tmp_path: Path) -> None:
    with pytest.raises(HeadwaterError) as refused:
        check(
            own(
                pages,
                sft={"files": ["nowhere/chats.jsonl", str(pages / "one.txt")]},
                clean={"decontaminate": {"sets": ["nowhere/mmlu.jsonl"]}, "toxicity": {"model": "nowhere/m"}},
                index={"embedding": "nowhere/encoder"},
                serve={"api_keys": "nowhere/keys"},
            ),
            two_cores,
        )
    assert str(refused.value) == (
        "own: clean.toxicity: no such file nowhere/m/model.json; "
        "clean.decontaminate: no such file nowhere/mmlu.jsonl; "
        "index.embedding: no such file nowhere/encoder; "
        "sft.files: no such file nowhere/chats.jsonl; serve.api_keys: no such file nowhere/keys "
        "(correct the paths)"
    )
    off = own(pages, clean={"decontaminate": {"sets": ["nowhere/mmlu.jsonl"], "enabled": False}})
    check(off, two_cores)  # a step that is off reads nothing


def test_a_tracker_that_is_not_installed_is_named_before_the_first_stage(
    pages: Path, two_cores: Session
) -> None:
    if importlib.util.find_spec("mlflow"):
        pytest.skip("mlflow is installed")
    with pytest.raises(HeadwaterError, match=r"track\.mlflow: the package mlflow is not installed"):
        check(own(pages, sft={"track": {"mlflow": "http://localhost"}}), two_cores)


def test_patterns_and_remote_sources_count_as_files(pages: Path, two_cores: Session) -> None:
    def named(*paths: str) -> Recipe:
        sources = [{"kind": "folder", "paths": list(paths)}]
        return parse(CHAIN | {"name": "own", "acquire": {"sources": sources}}, "test")

    check(named(str(pages / "*.txt"), "https://example.invalid/x", "hf://datasets/o/n/*.txt"), two_cores)
    for missing in (str(pages / "*.html"), str(pages / "two.txt")):
        with pytest.raises(HeadwaterError, match=r"own: acquire\.sources\.0\.paths: no such file .*pages/"):
            check(named(missing), two_cores)


def test_a_missing_object_is_named_before_anything_starts(
    s3_server: str, pages: Path, two_cores: Session
) -> None:
    boto3.client("s3", endpoint_url=s3_server).create_bucket(Bucket="preflight")
    location = "s3://preflight/chats.jsonl"
    with pytest.raises(HeadwaterError, match=rf"sft\.files: no such file {location}"):
        check(own(pages, sft={"files": [location]}), two_cores)
    boto3.client("s3", endpoint_url=s3_server).put_object(Bucket="preflight", Key="chats.jsonl", Body=b"")
    check(own(pages, sft={"files": [location]}), two_cores)


def test_the_command_refuses_before_it_starts_ray_or_acquires(tmp_path: Path) -> None:
    store = tmp_path / "store"
    code, output = in_a_process(
        "run", QUICKSTART, "--set", f"store={store}", "--set", "rl.cpus_per_worker=1000"
    )
    assert code != 0 and "rl: 2 training workers of 1000 CPUs" in output
    assert not (store / "acquire").exists()
    log = "".join(file.read_text() for file in store.rglob("run.log"))
    assert "Ray" not in log


def test_a_joined_cluster_may_grow_and_the_run_says_what_it_will_wait_for(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shared cluster, as one that was joined by its address; its autoscaler publishes no limit."""
    screen = io.StringIO()
    monkeypatch.setattr(session, "console", Console(file=screen, width=200))
    monkeypatch.setattr(session, "address", "auto")
    rooms, open_ended = nodes(session, gpus=False)
    assert open_ended and rooms == [Need(2)]
    check(load(QUICKSTART, ["rl.cpus_per_worker=1"]), session)
    assert "rl will need 3 CPUs at once; the cluster has 2 CPUs now and has to grow" in screen.getvalue()


def test_actors_are_placed_whole() -> None:
    three = [Need(2)] * 3
    assert first_fit(three, [Need(3), Need(3)]) == ([Need(1), Need(1)], [Need(2)])  # not by the sum alone
    with pytest.raises(HeadwaterError, match="6 CPUs do not fit into 6 CPUs on 2 nodes"):
        refuse_too_large("x", [Actors("workers", 3, Need(2))], [Need(3), Need(3)], False)
    refuse_too_large("x", [Actors("workers", 3, Need(2))], [Need(3), Need(3)], True)
    assert (
        first_fit([Need(1, 1), Need(1)], [Need(1), Need(1, 1)])[1] == []
    )  # the GPU to the one that needs it
