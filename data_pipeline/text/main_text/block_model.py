"""Main text of a page by a learnt classifier of its blocks.

Two boosted ensembles of small trees, read from block_model.safetensors. The first judges each block by itself
and its surroundings (block_features.py), the second knows the first's judgements of the blocks around.
benchmarks/corpus/extraction/training.py made the file; its header says from what. Trees are compared and
summed in a fixed order, so that a page has the same text everywhere.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import safe_open

from headwater.data_pipeline.text.compiled import compiled
from headwater.data_pipeline.text.main_text.block_features import Floats, context, features, name_score
from headwater.data_pipeline.text.main_text.blocks import Blocks, joined, read_blocks
from headwater.data_pipeline.text.main_text.kept_blocks import with_blocks

FILE = Path(__file__).with_name("block_model.safetensors")
LEAF = -1
CAUTION = 1.5
"""Power of the probabilities before blocks are chosen, because labels count what a page repeats as main text
each time. The best of 1, 1.5, 2 and 3 on pages of unseen sites (docs/log.md)."""


@dataclass(frozen=True)
class Trees:
    """Decision trees in one table of nodes. A row goes left where its feature is at most the threshold."""

    feature: npt.NDArray[np.int16]
    """[N], LEAF at leaves."""
    threshold: Floats
    """[N]; at leaves the value."""
    left: npt.NDArray[np.int32]
    right: npt.NDArray[np.int32]
    roots: npt.NDArray[np.int32]

    def probability(self, rows: Floats) -> Floats:
        """Shape (rows, features) to (rows,)."""
        total = _summed(rows, self.feature, self.threshold, self.left, self.right, self.roots)
        return (1.0 / (1.0 + np.exp(-total))).astype(np.float32)


@dataclass(frozen=True)
class BlockModel:
    alone: Trees
    together: Trees
    score: Callable[[str], float]
    """Score of an element's names."""
    features: int
    """Number of features that the first trees were trained on."""
    source: str
    """The pages that the model was trained on, with their licence."""

    def probability(self, page: Blocks, title: str) -> Floats:
        """How likely each block is main text."""
        seen = features(page, self.score, title)
        return self.together.probability(np.hstack([seen, context(page, self.alone.probability(seen))]))


@functools.cache
def block_model(file: Path = FILE) -> BlockModel:
    with safe_open(file, "np") as stored:
        alone, together = (
            Trees(*(stored.get_tensor(f"{name}.{part}") for part in Trees.__dataclass_fields__))
            for name in ("alone", "together")
        )
        about = stored.metadata()
    return BlockModel(
        alone, together, name_score(json.loads(about["names"])), int(about["features"]), about["source"]
    )


def quality_text(html: str, title: str, words: dict[str, str]) -> str:
    """Main text of a page. `words` stand for parts of it (kept_blocks.py), judged by their text."""
    page = read_blocks(html)
    if not page.text:
        return ""
    if words:
        page.text = [with_blocks(text, words) for text in page.text]
    likely = block_model().probability(page, title) ** CAUTION
    return joined(page, chosen(likely, np.array([len(text) for text in page.text])))


def chosen(likely: Floats, size: Floats) -> list[int]:
    """Numbers of the blocks that together have the highest expected F1, in order.

    They are the likeliest ones, down to the block where 2 * sum(p * size) / (size kept + expected size of all
    main text) is highest (Jansche 2007, "A Maximum Expected Utility Framework for Binary Sequence Labeling").
    """
    if not len(likely):
        return []
    order = np.argsort(-likely, kind="stable")
    mass = likely.astype(np.float64) * size
    expected = 2 * np.cumsum(mass[order]) / (np.cumsum(size[order], dtype=np.float64) + mass.sum())
    return sorted(order[: int(np.argmax(expected)) + 1].tolist())


@compiled
def _summed(rows, feature, threshold, left, right, roots):  # type: ignore[no-untyped-def]
    total = np.zeros(len(rows))
    for row in range(len(rows)):
        for root in roots:
            node = root
            while feature[node] >= 0:
                node = left[node] if rows[row, feature[node]] <= threshold[node] else right[node]
            total[row] += threshold[node]
    return total
