"""The plots of the report card, drawn by matplotlib without a display or global state."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from headwater.llm.evaluation.measures import FunnelStep, Points, Report

INK, QUIET, RULE = "#2b2f36", "#7a8088", "#e6e8eb"
BLUE, AMBER, GREEN, RED = "#2f6f9f", "#d08a2e", "#4c8c5b", "#b5524a"
STYLE: Any = {  # matplotlib's type for this is a literal of all its 300 keys
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": "#b9bdc3",
    "axes.labelcolor": QUIET,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
}
PANEL = (4.6, 3.0)
"""Size of one panel, in inches."""
SMOOTHED_FROM = 60
"""Curves with more points than this are drawn faint, with their moving average on top."""


def draw(folder: Path, report: Report) -> dict[str, str]:
    """Draw all plots that have data; returns plot name → file name."""
    made = {}
    with mpl.rc_context(STYLE):
        for name, figure in (
            ("funnel", funnel_figure(report.funnel) if report.funnel else None),
            ("losses", losses_figure(report)),
            ("reward", reward_figure(report)),
        ):
            if figure is not None:
                figure.savefig(
                    folder / f"{name}.png",
                    dpi=144,
                    facecolor="white",
                    bbox_inches="tight",  # a long label widens the picture
                    metadata={"Software": None},
                )
                made[name] = f"{name}.png"
    return made


def losses_figure(report: Report) -> Figure | None:
    """Panels with data: pretraining loss, bits per byte, fine-tuning, reward model, speed."""
    wanted = [bool(report.pretrain_loss), bool(report.validation_bits_per_byte)]
    wanted += [
        bool(report.sft_loss or report.sft_heldout_loss),
        bool(report.reward_loss or report.reward_accuracy),
        bool(report.pretrain_speed),
    ]
    if not any(wanted):
        return None
    count = sum(wanted)
    columns = 1 if count == 1 else 2
    figure, axes = _panels(math.ceil(count / columns), columns, count)
    panels = iter(axes)
    if wanted[0]:
        panel = next(panels)
        _titled(panel, "Pretraining: loss", "nats per token")
        _curve(panel, report.pretrain_loss, BLUE, "training")
    if wanted[1]:
        panel = next(panels)
        _titled(panel, "Pretraining: validation", "bits per byte")
        _curve(panel, report.validation_bits_per_byte, BLUE, "model", markers=True)
        if report.unigram_bits_per_byte is not None:
            _level(panel, report.unigram_bits_per_byte, f"unigram model {report.unigram_bits_per_byte:.3f}")
        _last_value(panel, report.validation_bits_per_byte, BLUE)
    if wanted[2]:
        panel = next(panels)
        _titled(panel, "Fine-tuning: loss on the answers", "nats per token")
        _curve(panel, report.sft_loss, BLUE, "training")
        _curve(panel, report.sft_heldout_loss, AMBER, "held out", markers=True)
        _legend(panel)
    if wanted[3]:
        panel = next(panels)
        _titled(panel, "Reward model", "loss per pair, accuracy")
        _curve(panel, report.reward_loss, BLUE, "training loss")
        _curve(panel, report.reward_accuracy, GREEN, "held-out accuracy", markers=True)
        _level(panel, math.log(2), "chance, ln 2")
        _legend(panel)
    if wanted[4]:
        panel = next(panels)
        _titled(panel, "Pretraining: speed", "tokens per second")
        _curve(panel, report.pretrain_speed, BLUE, "all workers")
    return figure


def reward_figure(report: Report) -> Figure | None:
    """Reward model score, verifiable reward and KL per iteration of reinforcement learning."""
    curves = [
        (report.rl_reward, "Reward model's score", "mean per iteration", BLUE),
        (report.rl_verifiable, "Verifiable reward", "mean per iteration", GREEN),
        (report.rl_kl, "KL to the SFT model", "nats per token", RED),
    ]
    curves = [curve for curve in curves if curve[0]]
    if not curves:
        return None
    figure, axes = _panels(1, len(curves), len(curves))
    for panel, (points, title, unit, colour) in zip(axes, curves, strict=True):
        _titled(panel, title, unit, "iteration")
        _curve(panel, points, colour, title, markers=True)
        _last_value(panel, points, colour)
    return figure


def funnel_figure(funnel: list[FunnelStep]) -> Figure:
    """One bar per step: the documents left, and pale next to it what the step dropped and why."""
    figure = Figure(figsize=(9.2, 0.9 + 0.46 * len(funnel)), layout="constrained")
    panel = figure.add_subplot()
    panel.grid(False)
    start = max(1, *(step.documents + sum(step.reasons.values()) for step in funnel))
    for row, step in enumerate(funnel):
        dropped = sum(step.reasons.values())
        panel.barh(row, step.documents, height=0.62, color=BLUE, alpha=0.9)
        panel.barh(row, dropped, left=step.documents, height=0.62, color=AMBER, alpha=0.45)
        inside = step.documents > 0.18 * start
        panel.text(
            step.documents - 0.01 * start if inside else step.documents + dropped + 0.01 * start,
            row,
            f"{step.documents:,}",
            ha="right" if inside else "left",
            va="center",
            color="white" if inside else INK,
            fontweight="bold",
        )
        panel.text(1.02 * start, row, _reasons(step.reasons), va="center", fontsize=8, color=QUIET)
    panel.set_yticks(range(len(funnel)), [step.name.replace("_", " ") for step in funnel], color=INK)
    panel.set_ylim(len(funnel) - 0.4, -0.6)
    panel.set_xlim(0, 1.62 * start)
    panel.set_xticks([])
    panel.tick_params(length=0)
    for side in ("bottom", "left"):
        panel.spines[side].set_visible(False)
    panel.set_title("Documents left after each step, and what was dropped")
    return figure


def _reasons(reasons: dict[str, int], most: int = 2) -> str:
    ranked = sorted(((count, name) for name, count in reasons.items() if count), key=lambda r: (-r[0], r[1]))
    shown = ", ".join(f"{name.replace('_', ' ')} {count:,}" for count, name in ranked[:most])
    rest = sum(count for count, _ in ranked[most:])
    return f"−{sum(reasons.values()):,}: {shown}" + (f", others {rest:,}" if rest else "") if ranked else ""


def _panels(rows: int, columns: int, count: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(PANEL[0] * columns, PANEL[1] * rows), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)  # type: ignore[union-attr, call-arg]
    grid = figure.add_gridspec(rows, columns)
    places = [(number // columns, number % columns) for number in range(count)]
    if count % columns:  # a single last panel spans the row
        return figure, [
            figure.add_subplot(grid[r, c] if number < count - 1 else grid[r, :])
            for number, (r, c) in enumerate(places)
        ]
    return figure, [figure.add_subplot(grid[r, c]) for r, c in places]


def _titled(panel: Axes, title: str, unit: str, along: str = "step") -> None:
    panel.set_title(title)
    panel.set_ylabel(unit)
    panel.set_xlabel(along)
    panel.grid(False, axis="x")
    panel.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    panel.yaxis.set_major_locator(MaxNLocator(nbins=6))


def _curve(panel: Axes, points: Points, colour: str, label: str, markers: bool = False) -> None:
    finite = [(x, y) for x, y in points if math.isfinite(y)]
    if not finite:
        return
    x, y = (np.array(values, float) for values in zip(*finite, strict=True))
    if len(y) > SMOOTHED_FROM and not markers:
        panel.plot(x, y, color=colour, alpha=0.22, linewidth=0.9)
        width = max(3, len(y) // 30)
        kernel = np.ones(width)
        y = np.convolve(y, kernel, "same") / np.convolve(np.ones_like(y), kernel, "same")
    dots = {"marker": "o", "markersize": 3.5} if markers and len(y) <= SMOOTHED_FROM else {}
    panel.plot(x, y, color=colour, label=label, **dots)  # type: ignore[arg-type]
    panel.margins(x=0.03, y=0.1)


def _level(panel: Axes, height: float, text: str) -> None:
    panel.axhline(height, color=QUIET, linewidth=1.1, linestyle=(0, (4, 3)))
    panel.annotate(
        text,
        (1, height),
        xycoords=("axes fraction", "data"),
        xytext=(0, 4),
        textcoords="offset points",
        ha="right",
        fontsize=8,
        color=QUIET,
    )


def _last_value(panel: Axes, points: Points, colour: str) -> None:
    x, y = points[-1]
    if math.isfinite(y):
        panel.annotate(
            f"{y:.3f}",
            (x, y),
            xytext=(0, 8),
            textcoords="offset points",
            ha="right",
            color=colour,
            fontweight="bold",
        )


def _legend(panel: Axes) -> None:
    if len(panel.get_legend_handles_labels()[0]) > 1:
        panel.legend(fontsize=8, labelcolor=QUIET)
