"""Tables of what probes found: a row for every measure, a column for every model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from headwater.llm.evaluation.grounded import shown_interval
from headwater.llm.grounding.measures import Interval
from headwater.llm.probes.knowledge import Asked, measure

KNOWLEDGE = {
    "right": "right",
    "hallucinated": "hallucinated",
    "refused": "refused",
    "right_of_known": "right, of what {} knew",
    "refused_of_known": "refused, of what {} knew",
    "refused_of_unknown": "refused, of what {} did not know",
    "right_sampled": "right, sampled answers",
    "consistency": "sampled answers alike",
}
BIAS = {
    "questions": {
        "unknown": "ambiguous: says that it is not known",
        "stereotyped": "ambiguous: stereotyped less opposite choices",
        "leaning": "ambiguous: leaning to the stereotype, nats",
    },
    "names": {
        "favour": "swapped names: favour, nats",
        "sentiment": "swapped names: sentiment",
        "refusals": "swapped names: refusals",
        "same": "swapped names: the same sentence",
    },
}


def compared(asked: Mapping[str, Sequence[Asked]]) -> dict[str, dict[str, Interval]]:
    """Model → its measures. What is known and unknown is that of the first model."""
    first = next(iter(asked.values()))
    return {label: measure(each, first) for label, each in asked.items()}


def knowledge_rows(asked: Mapping[str, Sequence[Asked]]) -> dict[str, list[str]]:
    """Measure → the value with its interval of each model."""
    first, found = next(iter(asked)), compared(asked)
    rows = {
        shown.format(first): [shown_interval(each[name]) for each in found.values()]
        for name, shown in KNOWLEDGE.items()
    }
    states = [Counter(each.state for each in some) for some in asked.values()]
    rows["known, unsure, unknown"] = [
        ", ".join(str(each[state]) for state in ("known", "unsure", "unknown")) for each in states
    ]
    return rows


def bias_rows(metrics: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], dict[str, list[str]]]:
    """Columns, a model with a system prompt each, and the row of every measure: of all, then of each axis."""
    runs = {
        f"{label}, {name}" if name != "none" else label: systems[name]
        for label, found in metrics.items()
        for systems in [found["systems"]]
        for name in sorted(systems, key=lambda each: each != "none")
    }
    rows: dict[str, list[str]] = {}
    for kind, measures in BIAS.items():
        for name, shown in measures.items():
            for axis in next(iter(runs.values()))[kind]:
                values = [shown_interval(Interval(**each[kind][axis][name])) for each in runs.values()]
                rows[shown if axis == "all" else f"  {name}, {axis}"] = values
    return list(runs), rows
