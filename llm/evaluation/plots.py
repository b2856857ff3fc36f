"""The plots of the report card, drawn by matplotlib without a display or global state."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from headwater.data_pipeline.clean.funnel import StepCount, picture

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


@dataclass(frozen=True)
class Curve:
    points: Points
    colour: str
    label: str
    evaluated: bool = False
    """Few points: each has a marker."""


@dataclass(frozen=True)
class Panel:
    title: str
    unit: str
    curves: Sequence[Curve]
    along: str = "step"
    level: tuple[float, str] | None = None
    """A horizontal line for comparison, with its label."""
    last: bool = False
    """Label the last value of the first curve."""


def draw(folder: Path, report: Report) -> dict[str, str]:
    """Draw all plots that have data; returns plot name → file name."""
    made = {}
    if report.funnel:
        (folder / "funnel.png").write_bytes(picture([_count(step) for step in report.funnel]))
        made["funnel"] = "funnel.png"
    with mpl.rc_context(STYLE):
        for name, panels in (("losses", loss_panels(report)), ("reward", reward_panels(report))):
            panels = [panel for panel in panels if any(curve.points for curve in panel.curves)]
            if panels:
                figure = _drawn(panels, columns=min(len(panels), 2 if name == "losses" else 3))
                figure.savefig(
                    folder / f"{name}.png",
                    dpi=144,
                    facecolor="white",
                    bbox_inches="tight",  # a long label widens the picture
                    metadata={"Software": None},
                )
                made[name] = f"{name}.png"
    return made


def loss_panels(report: Report) -> list[Panel]:
    """Pretraining loss, bits per byte, fine-tuning, reward model, speed."""
    unigram = report.unigram_bits_per_byte
    validation = Curve(report.validation_bits_per_byte, BLUE, "model", evaluated=True)
    fine_tuning = (
        Curve(report.sft_loss, BLUE, "training"),
        Curve(report.sft_heldout_loss, AMBER, "held out", evaluated=True),
    )
    reward = (
        Curve(report.reward_loss, BLUE, "training loss"),
        Curve(report.reward_accuracy, GREEN, "held-out accuracy", evaluated=True),
    )
    return [
        Panel("Pretraining: loss", "nats per token", [Curve(report.pretrain_loss, BLUE, "training")]),
        Panel(
            "Pretraining: validation",
            "bits per byte",
            [validation],
            level=None if unigram is None else (unigram, f"unigram model {unigram:.3f}"),
            last=True,
        ),
        Panel("Fine-tuning: loss on the answers", "nats per token", fine_tuning),
        Panel("Reward model", "loss per pair, accuracy", reward, level=(math.log(2), "chance, ln 2")),
        Panel("Pretraining: speed", "tokens per second", [Curve(report.pretrain_speed, BLUE, "all workers")]),
    ]


def reward_panels(report: Report) -> list[Panel]:
    """Reward model score, verifiable reward and KL per iteration of reinforcement learning."""
    heldout = Curve(report.rl_heldout_verifiable, AMBER, "held out", evaluated=True)
    return [
        Panel(
            title,
            unit,
            [Curve(points, colour, "training", evaluated=True), *more],
            along="iteration",
            last=True,
        )
        for points, title, unit, colour, more in (
            (report.rl_reward, "Reward model's score", "mean per iteration", BLUE, []),
            (report.rl_verifiable, "Verifiable reward", "mean per iteration", GREEN, [heldout]),
            (report.rl_kl, "KL to the SFT model", "nats per token", RED, []),
        )
    ]


def _count(step: FunnelStep) -> StepCount:
    read = step.documents + sum(step.reasons.values())
    return StepCount(step.name, read, step.documents, reasons=Counter(step.reasons))


def _drawn(panels: Sequence[Panel], columns: int) -> Figure:
    cells = [*range(len(panels)), *[len(panels) - 1] * (-len(panels) % columns)]  # the last one fills its row
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    figure = Figure(figsize=(PANEL[0] * columns, PANEL[1] * len(rows)), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)  # type: ignore[union-attr, call-arg]
    for panel, place in zip(panels, figure.subplot_mosaic(rows).values(), strict=True):
        place.set_title(panel.title)
        place.set_ylabel(panel.unit)
        place.set_xlabel(panel.along)
        place.grid(False, axis="x")
        place.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        place.yaxis.set_major_locator(MaxNLocator(nbins=6))
        for curve in panel.curves:
            _curve(place, curve)
        if panel.level is not None:
            _level(place, *panel.level)
        if panel.last:
            _last_value(place, panel.curves[0])
        if len(place.get_legend_handles_labels()[0]) > 1:
            place.legend(fontsize=8, labelcolor=QUIET)
    return figure


def _curve(panel: Axes, curve: Curve) -> None:
    finite = [(x, y) for x, y in curve.points if math.isfinite(y)]
    if not finite:
        return
    x, y = (np.array(values, float) for values in zip(*finite, strict=True))
    if len(y) > SMOOTHED_FROM and not curve.evaluated:
        panel.plot(x, y, color=curve.colour, alpha=0.22, linewidth=0.9)
        width = max(3, len(y) // 30)
        kernel = np.ones(width)
        y = np.convolve(y, kernel, "same") / np.convolve(np.ones_like(y), kernel, "same")
    dots = {"marker": "o", "markersize": 3.5} if curve.evaluated and len(y) <= SMOOTHED_FROM else {}
    panel.plot(x, y, color=curve.colour, label=curve.label, **dots)  # type: ignore[arg-type]
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


def _last_value(panel: Axes, curve: Curve) -> None:
    x, y = curve.points[-1]
    if math.isfinite(y):
        panel.annotate(
            f"{y:.3f}",
            (x, y),
            xytext=(0, 8),
            textcoords="offset points",
            ha="right",
            color=curve.colour,
            fontweight="bold",
        )
