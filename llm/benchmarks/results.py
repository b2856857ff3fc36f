"""Results of benchmarks: accuracies with their intervals, one mean, and a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from headwater.llm.benchmarks.scoring import Answers
from headwater.llm.benchmarks.tasks import CORE_TASKS, TASKS, Item
from headwater.llm.grounding.measures import wilson

CENTRED = "centred_mean"


def outcome(name: str, items: Sequence[Item], given: Answers, shots: int = 0) -> dict[str, Any]:
    """The measures of one benchmark, each a share with Wilson's 95 % interval, and what they cost.

    `centred`: of the first measure, where there is a chance of guessing. `shots`: examples before a question.
    """
    task = TASKS[name]
    judged = [task.judge(item, answer) for item, answer in zip(items, given.answers, strict=True)]
    shares = {
        measure: asdict(wilson(sum(each[measure] for each in judged), len(judged)))
        for measure in task.measures
    }
    cost = {"seconds": given.seconds, "tokens": given.tokens, "shortened": given.shortened}
    chance = {"centred": centred(name, shares)} if task.chance else {}
    return shares | chance | {"shots": shots} | cost


def centred(name: str, measured: Mapping[str, Any]) -> float:
    """(accuracy - chance) / (1 - chance) of a benchmark's first measure: 0 is guessing, 1 perfect."""
    chance = TASKS[name].chance
    accuracy: float = measured[TASKS[name].measures[0]]["value"]
    return (accuracy - chance) / (1 - chance)


def centred_mean(outcomes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """Mean of the centred accuracies over the measured tasks of CORE.

    None if no such task was measured. CORE itself (Li et al. 2024, DCLM, section 3.5; nanochat reports it)
    is the mean over 22 tasks, with prompts of its own, so its values are others.
    """
    tasks = [name for name in outcomes if TASKS[name].core]
    if not tasks:
        return None
    value = sum(centred(name, outcomes[name]) for name in tasks) / len(tasks)
    return {"value": value, "tasks": len(tasks), "of": CORE_TASKS}


def table(metrics: Mapping[str, Any]) -> tuple[list[str], dict[str, list[str]]]:
    """Columns, and the row of every measure, of a stage's metrics: `{models: {label: outcomes}, …}`."""
    models: Mapping[str, Mapping[str, Any]] = metrics["models"]
    first = next(iter(models.values()))
    contamination: Mapping[str, Any] = metrics.get("contamination", {})
    columns = ["questions", "chance", *models, *(["in the corpus"] if contamination else [])]
    rows: dict[str, list[str]] = {}
    for name in first:
        if name == CENTRED:
            continue
        shots = first[name].get("shots", 0)
        shown_as = f"{name} ({shots} shots)" if shots else name
        for measure in TASKS[name].measures:
            shown = [_share(outcomes[name][measure]) for outcomes in models.values()]
            count, chance = f"{first[name][measure]['count']:,}", f"{TASKS[name].chance:.2f}"
            rows[f"{shown_as}, {measure}"] = [count, chance, *shown]
            if contamination:
                rows[f"{shown_as}, {measure}"].append(_found(contamination[name]))
        if TASKS[name].chance:
            shown = [f"{centred(name, outcomes[name]):.3f}" for outcomes in models.values()]
            rows[f"{shown_as}, centred"] = ["", "0", *shown, *([""] if contamination else [])]
    if CENTRED in first:
        label = f"centred mean of {first[CENTRED]['tasks']} of CORE's {first[CENTRED]['of']} tasks"
        values = [f"{outcomes[CENTRED]['value']:.3f}" for outcomes in models.values()]
        rows[label] = ["", "0", *values, *([""] if contamination else [])]
    return columns, rows


def _share(interval: Mapping[str, float]) -> str:
    return f"{interval['value']:.3f} ({interval['low']:.3f} to {interval['high']:.3f})"


def _found(counts: Mapping[str, int]) -> str:
    return f"{counts['found']} of {counts['checked']}"
