"""Every packaged recipe: read, planned, rendered for Kubernetes, and run with a tiny model."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from headwater import pipeline
from headwater.cluster.runtime.session import Session
from headwater.cluster.storage.artifact import Artifact
from headwater.cluster.storage.store import Store
from headwater.data_pipeline.corpus import iter_documents
from headwater.data_pipeline.tokens.chat_template import CHAT_TEMPLATE
from headwater.llm.rl.rollouts.worker import RolloutWorker, WeightBoard
from headwater.llm.training import loop
from headwater.llm.training.job import TrainJob
from headwater.recipe import load, packaged
from tests.data_pipeline.corpora import article
from tests.data_pipeline.sources.common_crawl.mirror import build, some_pages
from tests.headwater.command import headwater
from tests.k8s.conftest import kubectl as kubectl  # the fixture
from tests.llm.actors import actors_here, at_once
from tests.llm.examples.own_data.test_formats import json_lines
from tests.llm.examples.template_tokenizers import family
from tests.llm.jobs import Screen, work
from tests.llm.models import foreign_model
from tests.llm.ranks import on_ranks

RUN_ELSEWHERE = {"quickstart", "assistant"}
"""Recipes whose runs have test modules of their own."""
PLANNED = {
    "speedrun-8xh100": ("8xH100", 0.92e9, 11.2, 267),
    "pretrain-64gpu": ("64xH100", 6.7e9, 80.6, 15_430),
}
"""GPUs, and the parameters, hours and dollars that the recipes' comments state."""
OWN_FILES = {
    "chat": ["sft.data=[s3://b/chats.jsonl]"],
    "continue": ["acquire.sources.0.paths=[s3://b/pages/]"],
    "preferences": [f"{key}=[s3://b/pairs.jsonl]" for key in ("dpo.data", "reward.data", "rl.prompts")],
    "math": [f"{key}.0.files=[s3://b/problems.jsonl]" for key in ("sft.data", "rl.prompts")],
}
"""Overrides that name files of one's own where pods reach them."""
ONE_STEP = {
    "steps": 1,
    "batch": 4,
    "micro_batch": 4,
    "workers": 1,
    "cpus_per_worker": 0.5,
    "gpus_per_worker": 0,
    "precision": "fp32",
    "torch_compile": False,
}
FINE_TUNING = ONE_STEP | {"max_length": 128}
RL = ONE_STEP | {"group": 2, "rollout_workers": 1, "max_new_tokens": 8, "heldout_prompts": 2}
PRETRAINING = {
    "depth": 1,
    "tokenizer.vocab_size": 400,
    "tokenize.row_length": 32,
    "tokenize.validation_share": 0.1,
    "pretrain.model.width": 64,
}


def sets(section: str, values: dict[str, object]) -> list[str]:
    prefix = f"{section}." if section else ""
    return [f"{prefix}{key}={json.dumps(value)}" for key, value in values.items()]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two layers with SmolLM2's template, in place of the packaged recipes' base."""
    return foreign_model(tmp_path_factory.mktemp("base"), "llama").local("model")


@pytest.fixture
def trains_here(here: Session, ray_cluster: None, monkeypatch: pytest.MonkeyPatch) -> Session:
    """A session that trains on one forked rank, with the rollout workers of RL in it: processes of Ray would
    take most of the time."""

    def train(job: TrainJob, session: Session) -> list[dict[str, float]]:
        job.board = Screen(Path(os.devnull))
        on_ranks(1, _work, job)
        return loop.read_history(job.output)

    monkeypatch.setattr(loop, "train", train)
    actors_here(monkeypatch, RolloutWorker, WeightBoard)
    return here


def _work(job: TrainJob) -> None:
    at_once()
    work(job)


def articles(path: Path, count: int) -> Path:
    return json_lines(path, [{"text": article(n), "url": f"https://example.org/{n}"} for n in range(count)])


def dry_run(name: str, session: Session, overrides: Sequence[str]) -> dict[str, Artifact]:
    """The artifacts of a run through all stages of a recipe; each has finished."""
    results = pipeline.run(load(name, overrides), session)
    assert [result.name for result in results] == [stage.name for stage in pipeline.stages(load(name))]
    assert all(result.artifact.manifest() for result in results)
    return {result.name: result.artifact for result in results}


def opens(model: Artifact, template: str) -> None:
    """transformers opens a model with this chat template, and its tokenizer fits."""
    folder = model.local("model")
    opened, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template == template
    talk = [{"role": "user", "content": "Why?"}]
    ids = tokenizer.apply_chat_template(
        talk, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    assert opened.generate(**ids, max_new_tokens=2).shape[1] <= ids["input_ids"].shape[1] + 2


def measures(made: dict[str, Artifact]) -> set[str]:
    """Names of the figures on the report card."""
    return {figure["name"] for figure in made["evaluate"].read_json("report/report.json")["metrics"]}


def test_every_recipe_is_read_says_what_it_needs_takes_and_gives_and_has_stages() -> None:
    assert set(packaged()) >= {*OWN_FILES, *PLANNED, "clean-common-crawl"}
    for name, file in packaged().items():
        recipe = load(name)
        assert recipe.name == name and pipeline.stages(recipe)
        head = re.match(r"(?:#.*\n)+", file.read_text())
        assert head, name
        for word in ("Needs", "Takes", "Gives"):
            assert re.search(rf"^# {word}: \w", head[0], re.MULTILINE), f"{name}: {word}"
        assert len(head[0].splitlines()[0]) <= 110


def test_recipes_lists_them_with_what_each_needs() -> None:
    code, shown = headwater("recipes")
    assert code == 0
    lines = {line.split()[0]: line for line in shown.splitlines()[1:]}
    assert set(lines) == set(packaged())
    assert "chats.jsonl" in lines["chat"] and "GPT-2" in lines["speedrun-8xh100"]
    assert lines["quickstart"].rstrip().endswith("nothing")


@pytest.mark.parametrize("name", sorted(set(packaged()) - RUN_ELSEWHERE - set(PLANNED)))
def test_what_cannot_be_planned_says_so(name: str) -> None:
    code, shown = headwater("plan", name, "--gpus", "8xH100")
    assert code == 1 and shown.count("\n") == 1, shown
    wanted = "this recipe has a base" if load(name).base else "has no section `pretrain`"
    assert wanted in shown


@pytest.mark.parametrize("name", PLANNED)
def test_what_trains_a_new_model_is_planned_and_fits(name: str, tmp_path: Path) -> None:
    gpus, parameters, hours, dollars = PLANNED[name]
    code, shown = headwater("plan", name, "--gpus", gpus, "--json", "--set", f"store={tmp_path}")
    assert code == 0, shown
    made, pretrain = json.loads(shown), load(name).pretrain
    assert pretrain is not None
    (row,) = (r for r in made["memory"] if r["zero"] == pretrain.zero.stage and not r["offload"])
    assert row["fits"] and row["micro_batch"] >= pretrain.micro_batch
    assert made["parameters"] == pytest.approx(parameters, rel=0.02)
    assert made["seconds"] / 3600 == pytest.approx(hours, rel=0.03)
    assert made["dollars"] == pytest.approx(dollars, rel=0.03)


@pytest.mark.parametrize("name", sorted(packaged()))
def test_every_recipe_is_rendered_for_kubernetes_by_name(name: str, kubectl: Path) -> None:
    changed = ["store=s3://bucket/runs", *OWN_FILES.get(name, [])]
    code, shown = headwater("k8s", "render", name, *(f"--set={each}" for each in changed))
    assert code == 0, shown
    config, job, *_ = yaml.safe_load_all(shown)
    assert yaml.safe_load(config["data"]["recipe.yaml"])["store"] == "s3://bucket/runs"
    pools = {group["groupName"]: group for group in job["spec"]["rayClusterSpec"]["workerGroupSpecs"]}
    gpus = {"speedrun-8xh100": 1, "pretrain-64gpu": 8}.get(name)  # pods of eight
    assert pools.get("gpu", {}).get("maxReplicas") == gpus


@pytest.mark.parametrize(
    ("name", "file"), [("chat", "chats.jsonl"), ("preferences", "pairs.jsonl"), ("continue", "pages/")]
)
def test_a_missing_file_of_the_users_is_named_before_anything_starts(
    name: str, file: str, tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, shown = headwater("run", name, "--set", f"base={{model: {base}}}")
    assert code == 1
    assert f"no such file {file}" in shown or f"{file}: no such file" in shown
    assert not list(tmp_path.glob("store/*/*/manifest.json"))


def test_chat_is_run(trains_here: Session, base: Path, tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "It rained."}]
    chats = json_lines(tmp_path / "chats.jsonl", [{"messages": talk}] * 40)
    own = [f"base={{model: {base}}}", f"sft.data=[{chats}]", "evaluate.samples=1"]
    made = dry_run("chat", trains_here, own + sets("sft", FINE_TUNING))
    opens(made["sft"], family("smollm2").chat_template)
    assert (made["sft"].local("model") / "adapter/adapter_config.json").is_file()
    assert "Why?" in made["evaluate"].read_bytes("report/report.md").decode()


def test_continue_is_run(trains_here: Session, base: Path, tmp_path: Path) -> None:
    (tmp_path / "pages").mkdir()
    for n in range(40):
        (tmp_path / f"pages/{n}.txt").write_text(article(n))
    news = {"kind": "jsonl", "paths": [str(articles(tmp_path / "NewsArticles.zip.jsonl", 80))]}
    own = [
        f"base={{model: {base}}}",
        f"acquire.sources.0.paths=[{tmp_path}/pages/]",
        f"acquire.sources.1={json.dumps(news)}",
        "clean.minhash_dedup.enabled=false",
        "tokenize.row_length=64",
        "tokenize.validation_share=0.1",
    ]
    made = dry_run("continue", trains_here, own + sets("pretrain", ONE_STEP))
    opens(made["pretrain"], family("smollm2").chat_template)
    manifest = made["pretrain"].manifest()
    assert manifest is not None and {"epochs_own", "epochs_replay"} <= manifest.metrics.keys()
    assert "bits_per_byte" in measures(made)


def test_preferences_is_run(trains_here: Session, base: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"Why {n}?", "chosen": "It rained.", "rejected": "No."} for n in range(40)]
    pairs = json_lines(tmp_path / "pairs.jsonl", rows)
    own = [f"base={{model: {base}}}", "evaluate.heldout_prompts=2", "evaluate.samples=1"]
    own += [f"{key}=[{pairs}]" for key in ("dpo.data", "reward.data", "rl.prompts")]
    own += sets("dpo", FINE_TUNING) + sets("reward", FINE_TUNING) + sets("rl", RL)
    own += ["dpo.loss=kto", "dpo.keep_best=true", "reward.keep_best=true", "reward.lora={rank: 2}"]
    made = dry_run("preferences", trains_here, own)
    for stage in ("dpo", "reward"):
        last = loop.read_history(made[stage])[-1]
        assert 0 <= last["heldout_accuracy"] <= 1 and math.isfinite(last["heldout_loss"])
    assert made["reward"].exists("model/adapter/adapter_model.safetensors")
    opens(made["rl"], family("smollm2").chat_template)
    rl = made["rl"].manifest()
    assert rl is not None and set(rl.inputs) == {"base", "dpo", "reward"}
    assert "verifiable_reward" not in measures(made)


def test_math_is_run(trains_here: Session, base: Path, tmp_path: Path) -> None:
    rows = [{"question": f"What is {n} + 1?", "answer": f"It is.\n#### {n + 1}"} for n in range(40)]
    problems = json_lines(tmp_path / "problems.jsonl", rows)
    own = [f"base={{model: {base}}}", "evaluate.heldout_prompts=2", "evaluate.samples=1"]
    own += [f"{key}.0.files=[{problems}]" for key in ("sft.data", "rl.prompts")]
    made = dry_run("math", trains_here, own + sets("sft", FINE_TUNING) + sets("rl", RL))
    opens(made["rl"], family("smollm2").chat_template)
    assert "verifiable_reward" in measures(made)


def test_addition_is_run(trains_here: Session) -> None:
    own = ["evaluate.heldout_prompts=2", "evaluate.samples=1", "base.fresh.width=64"]
    made = dry_run("addition", trains_here, own + sets("sft", ONE_STEP) + sets("rl", RL))
    opens(made["rl"], CHAT_TEMPLATE)
    assert {"verifiable_reward", "verifiable_reward before RL"} <= measures(made)
    assert "What is" in made["evaluate"].read_bytes("report/report.md").decode()


def test_clean_common_crawl_is_run_on_a_bucket_with_the_crawls_layout(s3_server: str, tmp_path: Path) -> None:
    client = boto3.client("s3", endpoint_url=s3_server)
    client.create_bucket(Bucket="commoncrawl")
    pages = some_pages()[:12]
    build(tmp_path, pages)
    for path in tmp_path.rglob("*.gz*"):
        client.upload_file(str(path), "commoncrawl", str(path.relative_to(tmp_path)))
    with Session(Store("s3://corpus/crawl"), max_workers=0) as session:
        own = ["store=s3://corpus/crawl", "acquire.sources.0.sample=1"]
        made = dry_run("clean-common-crawl", session, own)
        kept = {document["url"] for document in iter_documents(made["clean"])}
    assert kept == {page.url for page in pages if page.languages in ("eng", "eng,fra") and page.status == 200}


def test_speedrun_is_run(trains_here: Session, tmp_path: Path) -> None:
    rows = [{"text": article(n), "url": "", "id": str(n), "date": "2024-02-20T21:10:55Z"} for n in range(60)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "000_00000.parquet")
    own = [f"acquire.sources.0.paths=[{tmp_path}/*.parquet]", *sets("", PRETRAINING)]
    made = dry_run("speedrun-8xh100", trains_here, own + sets("pretrain", ONE_STEP))
    opens(made["pretrain"], CHAT_TEMPLATE)
    assert "bits_per_byte" in measures(made)


def test_pretrain_64gpu_is_run(trains_here: Session, tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": [article(n) for n in range(60)]}), tmp_path / "kept.parquet")
    own = [f"acquire.sources.0.paths=[{tmp_path}/*.parquet]", *sets("", PRETRAINING)]
    made = dry_run("pretrain-64gpu", trains_here, own + sets("pretrain", ONE_STEP))
    opens(made["pretrain"], CHAT_TEMPLATE)
    funnel = made["clean"].read_json("funnel.json")["steps"]
    assert funnel[-1]["documents_out"] == len(list(iter_documents(made["clean"]))) == 60
