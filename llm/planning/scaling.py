"""The scaling stage: small pretrainings on the recipe's tokens, and the law fitted to their losses.

Every run is a pretrain stage with its own artifact: finished ones are reused, interrupted ones resume. Depth
sets the size as in a recipe, with learning rates that scale with width^-0.5. Every length has its own
schedule (Hoffmann et al. 2022: the loss in the middle of a longer run is not that of a shorter one), and
stages of batches with their share of the steps.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import Stage, StageConfig, execute
from headwater.cluster.storage.artifact import Artifact
from headwater.data_pipeline.tokens.shards import TokenRows
from headwater.llm.model.dial import scaled_rate
from headwater.llm.planning.scaling_law import FittedLaw, Interval, Point, fit
from headwater.llm.rows.sizes import stretched
from headwater.llm.stages.pretrain import Pretrain, PretrainConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LAW, PLOT = "law.json", "law.png"


Positive = Annotated[int, Field(ge=1)]


class ScalingConfig(StageConfig):
    """Which small runs are made."""

    pretrain: PretrainConfig
    """The recipe's settings: shared by the small runs, and the run that the law is to predict."""
    depths: tuple[Positive, ...] = Field((1, 2, 3), min_length=2)
    """Depths of the runs."""
    steps: tuple[Positive, ...] = Field(min_length=2)
    """Lengths of the runs in steps; each at every depth."""

    @model_validator(mode="after")
    def _enough(self) -> ScalingConfig:
        runs = len(set(self.depths)) * len(set(self.steps))
        if runs < 6:
            raise ValueError(f"a law with five parameters needs six runs, got {runs}")
        return self

    def small(self, depth: int, steps: int) -> PretrainConfig:
        whole = self.pretrain
        width = None
        if whole.model.width is not None:
            width = whole.model.model_copy(update={"depth": depth, "width": None}).resolved_width()
        return whole.model_copy(
            update={
                "model": whole.model.model_copy(update={"depth": depth, "width": width}),
                "steps": steps,
                "batch_stages": stretched(whole.batch_stages, steps / whole.steps),
                "learning_rate": scaled_rate(whole.learning_rate, whole.model.depth, depth),
                "evaluate_every": steps,
                "checkpoint_every": max(steps, whole.checkpoint_every),
            }
        )


class Scaling(Stage[ScalingConfig]):
    name = "scaling"
    inputs = ("tokenizer", "tokenize")

    def run(self, inputs: Mapping[str, Artifact], output: Artifact, session: Session) -> dict[str, Any]:
        config, row_length = self.config, TokenRows(inputs["tokenize"], "train").row_length
        points, runs = [], []
        for depth in sorted(set(config.depths)):
            for steps in sorted(set(config.steps)):
                small = config.small(depth, steps)
                artifact, found = execute(Pretrain(small), inputs, session)
                manifest = artifact.finished()
                tokens = small.sizes().before(steps) * row_length
                loss = manifest.metrics["bits_per_byte"]
                points.append(Point(manifest.metrics["parameters"], tokens, loss))
                runs.append(artifact.key)
                session.say(
                    f"depth {depth}, {points[-1].parameters:,} parameters, {tokens:,} tokens: "
                    f"{loss:.4f} bits per byte{' (found)' if found else f', {manifest.seconds:.0f} s'}"
                )
        fitted = fit(points)
        left_out = forecast(points)
        law = asdict(fitted) | {"runs": runs, "left_out": vars(left_out) if left_out else None}
        output.write_bytes(LAW, json.dumps(law, indent=1).encode())
        with output.create_folder("picture") as folder:
            draw(folder / PLOT, fitted)
        return {
            "runs": len(points),
            "e": fitted.law.e,
            "alpha": fitted.law.alpha,
            "beta": fitted.law.beta,
            "spread": fitted.spread,
        }


def forecast(points: list[Point]) -> Interval | None:
    """Prediction of the largest run from the others; None if too few are left."""
    largest = max(points, key=lambda point: point.parameters * point.tokens)
    others = [point for point in points if point is not largest]
    if len(others) < 6:
        return None
    return fit(others).predict(largest.parameters, largest.tokens)


def draw(path: Path, fitted: FittedLaw) -> None:
    """Plot the runs' losses over their tokens, with the law's curve for each size."""
    import matplotlib as mpl

    from headwater.llm.evaluation.plots import STYLE

    with mpl.rc_context(STYLE):
        figure = law_figure(fitted)
        figure.savefig(path, dpi=144, facecolor="white", metadata={"Software": None})


def law_figure(fitted: FittedLaw) -> Figure:
    import numpy as np
    from matplotlib.figure import Figure

    from headwater.llm.evaluation.plots import AMBER, BLUE, GREEN, QUIET, RED

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    panel = figure.add_subplot()
    tokens = [point.tokens for point in fitted.points]
    along = np.geomspace(min(tokens) / 1.5, 4 * max(tokens), 60)
    sizes = sorted({point.parameters for point in fitted.points})
    for number, size in enumerate(sizes):
        colour = (BLUE, AMBER, GREEN, RED, QUIET)[number % 5]
        bounds = [fitted.predict(size, count) for count in along]
        panel.fill_between(along, [b.low for b in bounds], [b.high for b in bounds], color=colour, alpha=0.12)
        panel.plot(along, [b.mean for b in bounds], color=colour, label=f"{size / 1e6:.2f} M parameters")
        runs = [point for point in fitted.points if point.parameters == size]
        panel.plot([p.tokens for p in runs], [p.loss for p in runs], "o", color=colour, markersize=4)
    panel.set_xscale("log")
    panel.set_xlabel("tokens")
    panel.set_ylabel("bits per byte")
    law = fitted.law
    panel.set_title(f"L = {law.e:.2f} + {law.a:.3g} / N^{law.alpha:.2f} + {law.b:.3g} / D^{law.beta:.2f}")
    panel.legend(fontsize=8)
    return figure
