"""Accuracy of a reward model that adapters make of SmolLM2-135M, on people's pairs that it has not seen.

    python -m benchmarks.alignment.reward_model PAIRS.jsonl.gz [--set reward.steps=80 …] [--store DIR]

PAIRS are transcripts or prompts with two answers, such as Anthropic's hh-rlhf. A fifth of the prompts is put
aside. The stage trains on the rest, of which it holds out a tenth itself. The base model is fetched once per
store, which is not timed. The time includes the whole stage: start of Ray Train's workers, DeepSpeed, all
steps, evaluations, export. The goal is 60 % in 20 minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

GOAL, MINUTES = 0.60, 20.0
TEST_SHARE = 0.2

REWARD: dict[str, Any] = {
    "corpus_pairs": 0,
    "model_pairs": 0,
    "rankings": False,
    "max_length": 256,
    "steps": 80,
    "batch": 16,
    "micro_batch": 2,
    "workers": 1,
    "cpus_per_worker": 2,
    "lora": {"rank": 16},
    "learning_rate": 3.0e-4,
    "weight_decay": 0.0,
    "decay_share": 0.9,
    "evaluate_every": 40,
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


def headwater(path: Path, until: str, overrides: list[str]) -> None:
    settings = [f"--set={override}" for override in overrides]
    subprocess.run(
        [sys.executable, "-m", "headwater", "run", str(path), "--until", until, *settings], check=True
    )


def measured(store: Path, max_length: int) -> tuple[Any, int]:
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
        _, left_out = write_pairs(Artifact(folder), {"heldout/test": pairs}, tokenizer, max_length)
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
    started = time.monotonic()
    headwater(path, "reward", options.set)
    minutes = (time.monotonic() - started) / 60
    made = json.loads(newest(store).read_text())
    metrics, stage = made["metrics"], made["seconds"] / 60
    share, left_out = measured(store, made["config"]["max_length"])
    print(
        f"{share['value']:.1%} ({share['low']:.1%} to {share['high']:.1%}) of {share['count']} pairs put "
        f"aside (goal {GOAL:.0%}; {left_out} more do not fit), after {stage:.1f} minutes of the stage "
        f"(goal {MINUTES:g}), {minutes:.1f} with the command's start; {metrics['pairs']} of {counts}, "
        f"{metrics['heldout_accuracy']:.1%} on the stage's own held-out pairs, "
        f"{metrics['median_tokens_per_second']:,.0f} tokens/s, median, MFU {metrics['median_mfu']:.2f}"
    )
    raise SystemExit(share["value"] < GOAL or stage > MINUTES)


if __name__ == "__main__":
    main()
