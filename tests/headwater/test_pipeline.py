"""The whole pipeline as a user runs it: killed, resumed, finished, reused.

`make test` has its shortest form: texts to a model, in this process, without a kill.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.data_pipeline.corpora import article
from tests.headwater.command import headwater

QUICKSTART = Path(__file__).resolve().parents[2] / "recipes" / "quickstart.yaml"
WHOLE_RUN_SECONDS = 1100
"""Several times what two free cores need. Three runs count towards the first test that needs them."""
pytestmark = pytest.mark.timeout(2 * WHOLE_RUN_SECONDS)
STAGES = ["acquire", "clean", "index", "tokenizer", "tokenize", "pretrain", "sft", "reward", "rl", "evaluate"]
SMALL = {
    "tokenizer.vocab_size": 512,
    "tokenize.row_length": 64,
    "pretrain.model.depth": 2,
    "pretrain.model.width": 64,
    "pretrain.steps": 30,
    "pretrain.checkpoint_every": 5,
    "pretrain.evaluate_every": 100,
    "pretrain.learning_rate": 0.01,
    "sft.steps": 4,
    "sft.workers": 1,  # two are tried in pretrain and rl
    "reward.steps": 4,
    "reward.workers": 1,
    "reward.model_pairs": 16,
    "rl.steps": 3,
    "rl.batch": 16,
    "rl.group": 4,
    "rl.heldout_prompts": 8,
    "evaluate.heldout_prompts": 8,
    "evaluate.pairs": 16,
    "evaluate.samples": 2,
}


def command(store: Path, *more: str) -> list[str]:
    overrides = [f"--set={key}={value}" for key, value in (SMALL | {"store": store}).items()]
    return [sys.executable, "-m", "headwater", "run", str(QUICKSTART), *overrides, *more]


def finished(store: Path) -> set[str]:
    return {path.parts[-3] for path in store.glob("*/*/manifest.json")}


def kill_in(stage: str, store: Path) -> None:
    """Start the run and SIGKILL its driver once a stage has left something of its work behind."""
    process = subprocess.Popen(command(store), stdout=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        assert process.poll() is None, "the run ended before it could be killed"
        if any((store / stage).glob("*/_scratch/*/*")):
            break
        time.sleep(0.2)
    assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run") / "store"


@pytest.fixture(scope="module")
def first_run(store: Path) -> str:
    """What the run that goes through prints, after two that were killed."""
    kill_in("clean", store)
    assert "clean" not in finished(store)
    kill_in("pretrain", store)
    assert finished(store) == {"acquire", "clean", "index", "tokenizer", "tokenize"}
    done = subprocess.run(
        command(store), capture_output=True, text=True, timeout=WHOLE_RUN_SECONDS, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_short_run_makes_a_model_from_texts_and_reuses_it_the_next_time(
    ray_cluster: None, tmp_path: Path
) -> None:
    rows = [{"text": article(n), "url": f"https://example.org/{n}", "title": f"Page {n}"} for n in range(60)]
    (tmp_path / "pages.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    train = {"steps": 3, "batch": 4, "micro_batch": 4, "workers": 1, "precision": "fp32"}
    recipe = {
        "name": "short",
        "store": str(tmp_path / "store"),
        "acquire": {"sources": [{"kind": "jsonl", "paths": [str(tmp_path / "pages.jsonl")]}]},
        "clean": {},
        "tokenizer": {"vocab_size": 400},
        "tokenize": {"row_length": 32, "validation_share": 0.1},
        "pretrain": train | {"model": {"depth": 1, "width": 64}},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    stages = ["acquire", "clean", "tokenizer", "tokenize", "pretrain"]
    for state in (r"\d+ s", "found"):
        code, shown = headwater("run", tmp_path / "recipe.yaml")
        assert code == 0, shown
        assert finished(tmp_path / "store") == set(stages)
        assert all(re.search(rf"{name} +{state}", shown) for name in stages), shown
    record = json.loads((tmp_path / "store/runs/short/2/run.json").read_text())
    assert [stage["stage"] for stage in record["stages"]] == stages
    _, listing = headwater("show", "--store", tmp_path / "store")
    assert all(name in listing for name in stages)
    (promoted,) = json.loads((tmp_path / "store/promoted/short.json").read_text())["promotions"]
    assert (promoted["kind"], set(promoted["lineage"])) == ("run", set(stages))


@pytest.mark.soak
def test_a_run_killed_twice_resumes_and_completes(first_run: str, store: Path) -> None:
    assert finished(store) == set(STAGES)
    for name in ("acquire", "clean", "tokenizer", "tokenize"):
        assert re.search(rf"{name} +found", first_run)
    record = json.loads((store / "runs/quickstart/3/run.json").read_text())
    assert [stage["stage"] for stage in record["stages"]] == STAGES


@pytest.mark.soak
def test_the_answer_cites_a_source_with_its_link(first_run: str) -> None:
    answer = first_run[first_run.index("Headwater  ") :]
    assert "[1]" in answer
    assert re.search(r"\[1\] .+\n +https?://", answer)


@pytest.mark.soak
def test_the_report_card_and_its_pictures_are_in_the_runs_folder(first_run: str, store: Path) -> None:
    folder = store / "runs" / "quickstart"
    assert str(folder / "report.md") in first_run.replace("\n", "")
    card = (folder / "report.md").read_text()
    for picture in ("funnel.png", "losses.png", "reward.png"):
        assert picture in card
        assert (folder / picture).read_bytes().startswith(b"\x89PNG")
    assert "## Planned and actual" in card and "weights and optimizer, MB" in card
    assert json.loads((folder / "report.json").read_text())["metrics"]


@pytest.mark.soak
def test_transformers_opens_every_model_folder_as_it_is(first_run: str, store: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    for stage in ("pretrain", "sft", "rl"):
        (folder,) = store.glob(f"{stage}/*/model")
        model = AutoModelForCausalLM.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        ids = tokenizer("The president said", return_tensors="pt").input_ids
        assert model(ids).logits.shape[1] == ids.shape[1]
        assert tokenizer.decode(ids[0]) == "The president said"
        prompt = tokenizer.apply_chat_template([{"role": "user", "content": "Hello"}], tokenize=False)
        assert prompt.startswith("<|im_start|>user\nHello<|im_end|>")


@pytest.mark.soak
def test_a_second_run_reuses_every_artifact_and_gives_the_same_answer(first_run: str, store: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in store.glob("*/*/manifest.json")}
    done = subprocess.run(command(store), capture_output=True, text=True, timeout=300, check=True)
    assert {path: path.stat().st_mtime_ns for path in store.glob("*/*/manifest.json")} == before
    assert all(re.search(rf"{name} +found", done.stdout) for name in STAGES)

    def spoken(output: str) -> str:
        return output[output.index("Headwater  ") : output.index("Report card")]

    assert spoken(done.stdout) == spoken(first_run)


@pytest.mark.soak
def test_show_lists_artifacts_and_the_lineage_of_one(first_run: str, store: Path) -> None:
    show = [sys.executable, "-m", "headwater", "show"]
    listing = subprocess.run(
        [*show, "--store", str(store)], capture_output=True, text=True, check=True, timeout=60
    )
    assert all(name in listing.stdout for name in STAGES)
    (folder,) = store.glob("rl/*")
    one = subprocess.run(
        [*show, f"rl/{folder.name[:6]}", "--store", str(store)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    for name in ("lineage", "sft/", "reward/", "pretrain/", "clean/", "acquire/"):
        assert name in one.stdout


def test_starting_at_a_stage_needs_the_earlier_ones(tmp_path: Path) -> None:
    code, output = headwater("run", QUICKSTART, "--set", f"store={tmp_path / 'empty'}", "--from", "sft")
    assert code == 1
    assert "stage acquire has not finished" in output


def test_serving_before_a_model_has_finished_says_so(tmp_path: Path) -> None:
    code, output = headwater("serve", QUICKSTART, "--set", f"store={tmp_path / 'empty'}")
    assert code == 1
    assert "no model has finished yet: stage acquire has not finished" in output
    assert "run `headwater run` first" in output
