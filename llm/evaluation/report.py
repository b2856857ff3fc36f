"""The report card: what a run made, how good it is, and where everything came from.

Pure functions over plain data: `write_report` turns a `Report` into `report.md`, `report.json` and PNG plots
in one folder. Nothing is read from a store here; missing data is omitted.
"""

from __future__ import annotations

import dataclasses
import json
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headwater.llm.evaluation.measures import (
    FunnelStep,
    GroundedSample,
    GroundedTable,
    Metric,
    Planned,
    Report,
    Sample,
    StageSummary,
)

MEANINGS = {
    "bits_per_byte": "Cross-entropy on the validation text in bits, per byte of UTF-8. Lower is better; "
    "unlike a loss per token it can be compared between tokenizers.",
    "unigram_bits_per_byte": "Bits per byte of a model that only knows how frequent each token is.",
    "bytes_per_token": "Mean bytes of text per token.",
    "heldout_loss": "Loss on the assistant's tokens of conversations that were not trained on, in nats.",
    "reward_accuracy": "Share of held-out pairs in which the reward model scores the better answer higher. "
    "Chance is 0.5. In brackets the 95 % interval (Wilson).",
    "dpo_accuracy": "Share of held-out pairs in which preference optimisation has raised the better answer's "
    "log-probability more than the other's; with `simpo` and `orpo`, in which it is likelier per token.",
    "reward": "Mean score of the reward model over answers to held-out prompts.",
    "verifiable_reward": "Mean of the verifier's reward over answers to held-out prompts. In brackets the "
    "95 % interval (Wilson, over prompts).",
    "kl": "How far the policy has moved from the SFT model, in nats per token.",
    "parameters": "Trained weights of the model.",
    "mfu": "Model FLOPs in pretraining as a share of the peak of the workers' matrix products, median of the "
    "steps.",
    "documents_kept": "Documents left after cleaning.",
}

GROUNDED_METHOD = """\
Held-out questions, each with numbered passages that a search found. Values are means or shares with 95 %
intervals (bootstrap for means, Wilson's for shares of answers). Citation recall is the share of an answer's
sentences that the passages cited in them support, citation precision the share of its citations that this
support needs (ALCE, Gao et al. 2023). Both, and the words, are over the answers to answerable questions that
do not refuse. Rules judge support, not a model: a passage must have 60 % of a sentence's content words, and
agree with it in names, numbers, negations and subject. They know no synonyms, so a faithful paraphrase can
count as unsupported. The reward and the check of training answers use the same rules. Fabricated is the share
of answers that do not refuse and have a number or name that neither passages nor question have."""

BENCHMARKS_METHOD = """\
Accuracies without examples in the prompt, with Wilson's 95 % intervals; prompts and rules are those of
lm-evaluation-harness 0.4.13. acc takes the choice with the highest log-likelihood, acc_norm the one with the
highest per character. Chance is the accuracy of guessing. The centred mean is that of
(accuracy - chance) / (1 - chance) over the first measure of those benchmarks that CORE has (Li et al. 2024);
CORE has more tasks and gives examples, so its values cannot be compared with this one. In the corpus are
questions with 13 words in a row (or the whole question, of 8 words or more) that occur in the cleaned
documents, of those that are long enough to tell."""


def write_report(folder: Path, report: Report) -> list[str]:
    """Write the card into a folder; returns the names of the files."""
    from headwater.llm.evaluation import plots

    folder.mkdir(parents=True, exist_ok=True)
    pictures = plots.draw(folder, report)
    (folder / "report.json").write_text(to_json(report), encoding="utf-8")
    (folder / "report.md").write_text(to_markdown(report, pictures), encoding="utf-8")
    return ["report.md", "report.json", *pictures.values()]


def to_json(report: Report) -> str:
    """The whole card as JSON; values that are not finite become null, which every JSON reader accepts."""
    plain = _finite(dataclasses.asdict(report))
    return json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def to_markdown(report: Report, plots: dict[str, str]) -> str:
    """`plots` maps funnel, losses and reward to the picture's file name, if drawn."""
    parts = [f"# {_inline(report.title)}"]
    if report.summary:
        parts.append("\n".join(_inline(line) for line in report.summary))
    if report.metrics:
        parts += ["## Measures", _metrics_table(report.metrics)]
    if report.benchmarks:
        parts += ["## Benchmarks", BENCHMARKS_METHOD, _benchmarks_table(*report.benchmarks)]
    if report.grounded:
        parts += ["## Answers from sources", GROUNDED_METHOD, _grounded_table(report.grounded)]
        parts += [_grounded_sample(each) for each in report.grounded_samples]
    if report.funnel:
        parts.append("## Corpus")
        if "funnel" in plots:
            parts.append(f"![Documents left after each step of cleaning]({plots['funnel']})")
        parts.append(_funnel_table(report.funnel))
    if "losses" in plots:
        what = "Losses of pretraining, fine-tuning and reward model; speed of pretraining"
        parts += ["## Training", f"![{what}]({plots['losses']})"]
    if report.planned:
        parts += ["## Planned and actual", _planned_table(report.planned)]
    if "reward" in plots:
        what = "Reward and distance from the SFT model by iteration"
        parts += ["## Reinforcement learning", f"![{what}]({plots['reward']})"]
    if report.samples:
        parts += [
            "## Answers to held-out prompts",
            *(_sample(each, report.trained) for each in report.samples),
        ]
    if report.stages:
        parts += ["## Where it came from", _stage_table(report.stages)]
    if report.machine or report.versions:
        rows = [[name, value] for name, value in [*report.machine.items(), *sorted(report.versions.items())]]
        parts += ["## Machine and versions", _table(["", ""], rows)]
    return "\n\n".join(parts) + "\n"


def _metrics_table(metrics: Sequence[Metric]) -> str:
    rows = []
    for metric in metrics:
        against = ""
        if metric.baseline is not None:
            against = f"{_figure(metric.baseline)} {metric.baseline_name}".strip()
        meaning = metric.meaning or MEANINGS.get(metric.name, "")
        value = _figure(metric.value)
        if metric.interval is not None:
            value += " ({} to {})".format(*map(_figure, metric.interval))
        rows.append([metric.name.replace("_", " "), value, against, meaning])
    return _table(["measure", "value", "against", "what it says"], rows, "lrll")


def _benchmarks_table(columns: list[str], values: dict[str, list[str]]) -> str:
    rows = [[name, *cells] for name, cells in values.items()]
    return _table(["benchmark, measure", *columns], rows, "l" + "r" * len(columns))


def _grounded_table(table: GroundedTable) -> str:
    counts = f"{table.answerable} answerable, {table.unanswerable} unanswerable questions"
    rows = [[name, *values] for name, values in table.rows.items()]
    return _table([counts, *table.models], rows, "l" + "r" * len(table.models))


def _grounded_sample(sample: GroundedSample) -> str:
    """A literal text block, as `_sample`."""
    sources = [(f"[{number}]", text) for number, text in enumerate(sample.passages, start=1)]
    return _literal(
        [("question", sample.question), *sources, *sample.answers.items(), ("reference", sample.reference)]
    )


def _literal(lines: Sequence[tuple[str, str]]) -> str:
    """(label, text) pairs as a fenced block that no text can leave; empty texts are left out."""
    margin = max(len(label) for label, _ in lines) + 2
    wrapped: list[str] = []
    for label, text in lines:
        if text:
            shown = textwrap.shorten(text, 400, placeholder=" …")
            wrapped += textwrap.wrap(
                shown, 100, initial_indent=f"{label:<{margin}}", subsequent_indent=" " * margin
            )
    body = "\n".join(wrapped)
    fence = "```"
    while fence in body:
        fence += "`"
    return f"{fence}text\n{body}\n{fence}"


def _funnel_table(funnel: Sequence[FunnelStep]) -> str:
    rows = []
    for step in funnel:
        reasons = sorted(step.reasons.items(), key=lambda item: (-item[1], item[0]))
        dropped = ", ".join(f"{name} {count:,}" for name, count in reasons if count)
        rows.append([step.name, f"{step.documents:,}", f"{sum(step.reasons.values()):,}", dropped])
    return _table(["step", "documents left", "dropped", "for"], rows, "lrrl")


def _planned_table(planned: Sequence[Planned]) -> str:
    rows = []
    for row in planned:
        bounds = ""
        if row.low is not None and row.high is not None:
            bounds = f" ({_figure(row.low)} to {_figure(row.high)})"
        apart = f"{row.actual / row.planned - 1:+.1%}" if row.planned else ""
        rows.append([row.name, _figure(row.planned) + bounds, _figure(row.actual), apart])
    return _table(["pretraining", "planned", "actual", "apart"], rows, "lrrr")


def _stage_table(stages: Sequence[StageSummary]) -> str:
    rows = [
        [
            stage.stage,
            f"`{stage.key}`",
            ", ".join(f"{name} `{key[:8]}`" for name, key in stage.inputs.items()),
            duration(stage.seconds),
        ]
        for stage in stages
    ]
    total = duration(sum(stage.seconds for stage in stages))
    rows.append(["all", "", "", total])
    return _table(["stage", "artifact", "made from", "wall time"], rows, "lllr")


def _sample(sample: Sample, trained: str) -> str:
    """A literal text block: answers cannot inject Markdown into the card."""
    answers = [
        ("prompt", sample.prompt, None),
        (f"before {trained}", sample.before, sample.before_reward),
        (f"after {trained}", sample.after, sample.after_reward),
        ("reference", sample.reference, None),
    ]
    return _literal(
        [
            (label, text and (text if reward is None else f"(reward {reward:+.2f}) {text}"))
            for label, text, reward in answers
        ]
    )


def duration(seconds: float) -> str:
    """Seconds in readable form: `4.2 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], align: str = "") -> str:
    rules = {"r": "---:", "l": "---"}
    marks = [rules[letter] for letter in align] or ["---"] * len(head)
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join(marks) + " |"]
    lines += ["| " + " | ".join(_inline(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def _inline(text: str) -> str:
    """Text on one line of a table cell or paragraph, with Markdown and HTML escaped."""
    safe = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;")
    return safe.replace("|", "\\|").replace("[", "\\[").replace("*", "\\*")


def _figure(value: float | int | str | None) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if not math.isfinite(value):
        return str(value)
    return f"{value:,.4g}" if abs(value) < 10_000 else f"{value:,.0f}"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
