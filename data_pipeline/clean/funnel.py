"""The cleaning funnel: what each step removed, as counts, a table, JSON and an image."""

from __future__ import annotations

import collections
import io
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.table import Table

from headwater.data_pipeline.clean.part_counts import most

REASONS_SHOWN = 3
DOMAINS_SHOWN, TABLE_ROWS = 1_000, 20
"""Domains with excluded documents that funnel.json has, and that the console shows."""


@dataclass
class StepCount:
    """Documents and characters before and after one step, and its dropped documents by reason.

    Before extraction, the bytes of HTML count as characters.
    """

    step: str
    documents_in: int = 0
    documents_out: int = 0
    characters_in: int = 0
    characters_out: int = 0
    reasons: collections.Counter[str] = field(default_factory=collections.Counter)

    def keep(self, before: int, after: int) -> None:
        self.documents_in += 1
        self.documents_out += 1
        self.characters_in += before
        self.characters_out += after

    def drop(self, before: int, reason: str) -> None:
        self.documents_in += 1
        self.characters_in += before
        self.reasons[reason] += 1

    def add(self, row: dict[str, Any]) -> None:
        """Add another part's `row`."""
        self.documents_in += row["documents_in"]
        self.documents_out += row["documents_out"]
        self.characters_in += row["characters_in"]
        self.characters_out += row["characters_out"]
        self.reasons.update(row["reasons"])

    def row(self) -> dict[str, Any]:
        return asdict(self) | {"reasons": dict(most(self.reasons))}


def table(counts: Sequence[StepCount]) -> Table:
    """Table for the console: documents left after each step, and reasons of the dropped ones."""
    shown = Table(title="What cleaning removed", title_justify="left", box=None, pad_edge=False)
    shown.add_column("step", style="bold", no_wrap=True)
    for heading in ("documents left", "dropped", "of all", "characters left"):
        shown.add_column(heading, justify="right")
    shown.add_column("reasons", style="dim", overflow="fold")
    first = max(1, counts[0].documents_in) if counts else 1
    for count in counts:
        dropped = count.documents_in - count.documents_out
        shown.add_row(
            count.step,
            f"{count.documents_out:,}",
            f"{dropped:,}" if dropped else "",
            f"{count.documents_out / first:.1%}",
            f"{count.characters_out:,}",
            _reasons(count),
        )
    return shown


def opted_out(parts: Iterable[Iterable[tuple[str, int, Sequence[str]]]], characters: int) -> dict[str, Any]:
    """What rules of sites and block lists take from a corpus of `characters`, by domain and by reason.

    `parts`: domain, characters and reasons of each document that is excluded.
    """
    documents, sizes, reasons = (collections.Counter[str]() for _ in range(3))
    for domain, size, why in itertools.chain.from_iterable(parts):
        documents[domain] += 1
        sizes[domain] += size
        reasons.update(why)
    ordered = sorted(documents, key=lambda domain: (-sizes[domain], domain))
    return {
        "documents": documents.total(),
        "characters": sizes.total(),
        "share": _share(sizes.total(), characters),
        "reasons": dict(sorted(reasons.items())),
        "different_domains": len(documents),
        "domains": {
            domain: {
                "documents": documents[domain],
                "characters": sizes[domain],
                "share": _share(sizes[domain], characters),
            }
            for domain in ordered[:DOMAINS_SHOWN]
        },
    }


def _share(part: int, whole: int) -> float:
    return round(part / max(1, whole), 6)


def opt_out_table(found: Mapping[str, Any]) -> Table:
    """Table for the console: the domains that lose most characters, and all of them together."""
    shown = Table(title="What sites exclude", title_justify="left", box=None, pad_edge=False)
    shown.add_column("domain", style="bold", overflow="fold")
    for heading in ("documents", "characters", "of the corpus"):
        shown.add_column(heading, justify="right")
    everything = f"all domains ({found['different_domains']:,})"
    for name, row in [*list(found["domains"].items())[:TABLE_ROWS], (everything, found)]:
        shown.add_row(
            name or "no URL", f"{row['documents']:,}", f"{row['characters']:,}", f"{row['share']:.2%}"
        )
    return shown


def language_table(rows: Mapping[str, Mapping[str, Any]]) -> Table:
    """Table for the console: the languages of which documents are kept."""
    shown = Table(title="Languages", title_justify="left", box=None, pad_edge=False)
    shown.add_column("language", style="bold", no_wrap=True)
    for heading in ("documents", "kept", "of them"):
        shown.add_column(heading, justify="right")
    shown.add_column("dropped by", style="dim", overflow="fold")
    for language, row in rows.items():
        if row["kept"]:
            dropped = most(row["dropped"])[:REASONS_SHOWN]
            steps = ", ".join(f"{step} {number:,}" for step, number in dropped)
            share = f"{row['kept'] / row['documents']:.1%}"
            shown.add_row(language, f"{row['documents']:,}", f"{row['kept']:,}", share, steps)
    return shown


def picture(counts: Sequence[StepCount]) -> bytes:
    """PNG with one bar per step: the documents left after it, labelled with the reasons of dropped ones."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 1.2 + 0.5 * len(counts)), dpi=130, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.1, 0.04, 0.88, 0.84))
    most = max([1, *(count.documents_in for count in counts)])
    for place, count in enumerate(counts):
        share, before = count.documents_out / most, count.documents_in / most
        axes.barh(place, before, height=0.66, left=-before / 2, color="#f3d9cf", zorder=1)
        axes.barh(place, share, height=0.66, left=-share / 2, color="#2f6f8f", zorder=2)
        label = f"{count.documents_out:,}"
        inside = share > 0.12
        axes.text(
            0 if inside else share / 2 + 0.012, place, label,
            ha="center" if inside else "left", va="center",
            color="white" if inside else "#1d3b4a", fontsize=10, fontweight="bold", zorder=3,
        )  # fmt: skip
        dropped = count.documents_in - count.documents_out
        if dropped:
            axes.text(0.53, place - 0.14, f"−{dropped:,}", va="center", fontsize=9.5, color="#b4472a")
            axes.text(0.53, place + 0.2, _reasons(count), va="center", fontsize=7.6, color="#6b6b6b")
    axes.set_xlim(-0.51, 1.22)
    axes.set_ylim(len(counts) - 0.45, -0.6)
    axes.set_yticks(range(len(counts)), [count.step for count in counts], fontsize=10.5)
    axes.set_xticks([])
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if counts:
        left, read = counts[-1].documents_out, counts[0].documents_in
        heading = f"{left:,} of {read:,} documents kept ({left / max(1, read):.1%})"
        figure.text(0.03, 0.93, heading, fontsize=13, fontweight="bold", color="#1d3b4a")
    buffer = io.BytesIO()
    # Long names and reasons widen the image.
    figure.savefig(buffer, format="png", bbox_inches="tight", metadata={"Software": None})
    return buffer.getvalue()


def _reasons(count: StepCount) -> str:
    """The most frequent reasons, for example `too few words 38, …`."""
    rows = list(count.row()["reasons"].items())
    text = ", ".join(f"{reason.replace('_', ' ')} {number:,}" for reason, number in rows[:REASONS_SHOWN])
    return text + (f", {len(rows) - REASONS_SHOWN} more reasons" if len(rows) > REASONS_SHOWN else "")
