"""Accuracy of a reward model that adapters make of SmolLM2-135M, on people's pairs that it has not seen.

    python -m benchmarks.alignment.reward_model PAIRS.jsonl.gz [--set reward.steps=158 …] [--store DIR]

PAIRS are transcripts or prompts with two answers, such as Anthropic's hh-rlhf. A fifth of the prompts is put
aside. The stage trains on the rest, of which it holds out a tenth itself. The base model is fetched once per
store, which is not timed. CPU minutes are those of the whole command, of all its threads and processes:
Ray, DeepSpeed, all steps, evaluations, export. Other work on the machine disturbs them least. The goal is
60 % in 20 of them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import yaml

GOAL, MINUTES = 0.60, 20.0
TEST_SHARE = 0.2
TEST_LENGTH = 512
"""Tokens of a pair put aside: longer than those of training, so that nearly all are measured."""

REWARD: dict[str, Any] = {
    "corpus_pairs": 0,
    "model_pairs": 0,
    "rankings": False,
    "max_length": 192,
    "steps": 158,
    "batch": 8,
    "micro_batch": 4,
    "workers": 2,
    "cpus_per_worker": 1,
    "lora": {"rank": 16, "layers": 10},
    "learning_rate": 5.0e-4,
    "weight_decay": 0.0,
    "decay_share": 0.9,
    "evaluate_every": 158,
    "checkpoint_every": 40,
}


def split(pairs: Path, folder: Path) -> dict[str, int]:
    """Write `train.jsonl` and `test.jsonl`, all pairs of a prompt in one. Returns the number of pairs."""
    from headwater.data_pipeline.sources.items import Unread
    from headwater.data_pipeline.split import document_fraction
    from headwater.llm.examples.own_data.reading import OwnFile
    from headwater.llm.examples.own_data.source import DataSource

    rows: dict[str, list[str]] = {"train": [], "test": []}
    for _, pair in OwnFile(DataSource(files=(str(pairs),)), str(pairs)).preferences():
        if not isinstance(pair, Unread):
            prompt = json.dumps(pair.prompt)
            row = {"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected}
            rows["test" if document_fraction(prompt) < TEST_SHARE else "train"].append(json.dumps(row))
    for name, lines in rows.items():
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return {name: len(lines) for name, lines in rows.items()}


def recipe(store: Path, base: dict[str, Any]) -> dict[str, Any]:
    data = [str(store / "train.jsonl")]
    return {"name": "reward", "store": str(store / "store"), "base": base, "reward": REWARD | {"data": data}}


def headwater(path: Path, until: str, overrides: list[str]) -> float:
    """Run the recipe. Returns the CPU seconds of the process and all below it."""
    settings = [f"--set={override}" for override in overrides]
    command = [sys.executable, "-m", "headwater", "run", str(path), "--until", until, *settings]
    process, used = psutil.Popen(command), dict[int, float]()
    while process.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            for each in [process, *process.children(recursive=True)]:
                times = each.cpu_times()
                used[each.pid] = times.user + times.system
        time.sleep(0.5)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return sum(used.values())


def measured(store: Path) -> tuple[Any, int]:
    """The share of the pairs put aside that the newest model orders rightly, and how many do not fit."""
    from headwater.cluster.storage.artifact import Artifact
    from headwater.data_pipeline.sources.items import Unread
    from headwater.data_pipeline.tokens.tokenizer import load_tokenizer
    from headwater.llm.examples.own_data.reading import OwnFile
    from headwater.llm.examples.own_data.source import DataSource
    from headwater.llm.stages.data.preference_pairs import write_pairs
    from headwater.llm.stages.evaluations.evaluate import pair_accuracies

    made = newest(store).parent
    test = str(store / "test.jsonl")
    found = OwnFile(DataSource(files=(test,)), test).preferences()
    pairs = [pair for _, pair in found if not isinstance(pair, Unread)]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "model").symlink_to(made / "model")
        tokenizer = load_tokenizer(made / "model")
        _, left_out = write_pairs(Artifact(folder), {"heldout/test": pairs}, tokenizer, TEST_LENGTH)
        return pair_accuracies(Artifact(folder), len(pairs))["test"], sum(left_out.values())


def newest(store: Path) -> Path:
    return max((store / "store").glob("reward/*/manifest.json"), key=lambda path: path.stat().st_mtime)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("pairs", type=Path)
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="as for headwater run"
    )
    parser.add_argument("--store", type=Path, help="folder to keep and reuse artifacts")
    parser.add_argument("--model", help="folder of the base model; default: the package of preferences.yaml")
    options = parser.parse_args()
    store = options.store or Path(tempfile.mkdtemp(prefix="reward-"))
    store.mkdir(parents=True, exist_ok=True)
    counts = split(options.pairs, store)
    packaged = yaml.safe_load(Path("recipes/preferences.yaml").read_text())["base"]
    path = store / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe(store, {"model": options.model} if options.model else packaged)))
    headwater(path, "base", [])
    minutes = headwater(path, "reward", options.set) / 60
    made = json.loads(newest(store).read_text())
    metrics, stage = made["metrics"], made["seconds"] / 60
    share, left_out = measured(store)
    print(
        f"{share['value']:.1%} ({share['low']:.1%} to {share['high']:.1%}) of {share['count']} pairs put "
        f"aside (goal {GOAL:.0%}; {left_out} more do not fit), after {minutes:.1f} CPU minutes (goal "
        f"{MINUTES:g}), {stage:.1f} by the clock; {metrics['pairs']} of {counts}, "
        f"{metrics['heldout_accuracy']:.1%} on the stage's own held-out pairs, "
        f"{metrics['median_tokens_per_second']:,.0f} tokens/s, median, MFU {metrics['median_mfu']:.2f}"
    )
    raise SystemExit(share["value"] < GOAL or minutes > MINUTES)


if __name__ == "__main__":
    main()
