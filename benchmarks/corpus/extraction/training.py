"""Trains the model of `extract.setting=quality` (data_pipeline/text/main_text/) and measures it by site.

    python -m benchmarks.corpus.extraction.training train.parquet MODEL.safetensors --source "The pages"

Needs LightGBM (`pip install lightgbm`). `pages.py` makes train.parquet from public sets: its columns are
`html` (bytes of the page), `text` (its main text) and `site`. A block's label is the fraction of its words
that stand in the main text, in the same order as there. Sites are divided into five folds: scores of names,
the first trees' judgements and the printed word F1 of a page come from models that have not seen its site.
"""

from __future__ import annotations

import argparse
import collections
import importlib.util
import json
import math
import re
import statistics
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from safetensors.numpy import save_file

from benchmarks.corpus.extraction.scores import f1
from headwater.data_pipeline.text.charset import decode_html
from headwater.data_pipeline.text.main_text import page as html_page
from headwater.data_pipeline.text.main_text.block_features import context, features, name_score, name_words
from headwater.data_pipeline.text.main_text.block_model import CAUTION, LEAF, Trees, chosen
from headwater.data_pipeline.text.main_text.blocks import Blocks, joined, read_blocks

FOLDS, BLOCKS_A_PAGE = 5, 110
ALONE, TOGETHER = (40, 16, 0.15), (110, 24, 0.1)
"""Trees, leaves of each, and learning rate of both ensembles."""
FIT = {
    "objective": "cross_entropy", "max_depth": 8, "min_data_in_leaf": 40, "min_sum_hessian_in_leaf": 1.0,
    "feature_fraction": 0.4, "bagging_fraction": 0.8, "bagging_freq": 1, "lambda_l2": 2, "max_bin": 63,
    "seed": 1, "deterministic": True, "force_row_wise": True, "num_threads": 1, "verbose": -1,
}  # fmt: skip
NAME_SITES, NAMES, LEAST_ODDS = 6, 1200, 0.25
"""A word of class names needs so many sites; so many words are kept, with at least this log odds ratio."""
WORD, LETTER_WORD = re.compile(r"\w+"), re.compile("[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]")


@dataclass
class Page:
    site: str
    blocks: Blocks
    title: str
    gold: str
    share: np.ndarray
    """Fraction of each block that is main text."""
    words: np.ndarray
    """Words of each block."""
    gold_words: int
    seen: np.ndarray | None = None
    """Features."""
    likely: np.ndarray | None = None
    named: dict[str, tuple[float, float]] | None = None

    @property
    def fold(self) -> int:
        return zlib.crc32(self.site.encode()) % FOLDS


def words(text: str) -> list[str]:
    """Words; in scripts without blanks each letter is one."""
    found = WORD.findall(text.lower())
    return [part for word in found for part in (word if LETTER_WORD.search(word) else [word])]


def labelled(html: bytes, gold: str, site: str) -> Page:
    decoded = decode_html(html)
    blocks, known = read_blocks(decoded), words(gold)
    lines = {tuple(words(line)) for line in gold.split("\n")}
    grams = {tuple(known[at : at + size]) for size in (1, 2, 3) for at in range(len(known))}
    share, count = np.zeros(len(blocks.text), np.float32), np.zeros(len(blocks.text), np.float32)
    unsure = []
    for number, text in enumerate(blocks.text):
        found = words(text)
        count[number] = len(found)
        if len(found) > 3:
            hit = np.zeros(len(found), bool)
            for at in range(len(found) - 2):
                if tuple(found[at : at + 3]) in grams:
                    hit[at : at + 3] = True
            share[number] = hit.mean()
        elif found:
            share[number] = tuple(found) in lines
            if tuple(found) in grams and not share[number]:
                unsure.append(number)
    for number in unsure:  # few words, as in a cell: main text if the longer blocks around are
        before, after = (
            range(number - 1, max(-1, number - 9), -1),
            range(number + 1, min(len(count), number + 9)),
        )
        around = [[share[each] for each in side if count[each] > 3][:1] for side in (before, after)]
        share[number] = all(side and side[0] > 0.5 for side in around)
    title = html_page.title(html_page.HTMLTree.parse(decoded))
    return Page(site, blocks, title, gold, share, count, len(known))


def named(page: Page) -> dict[str, tuple[float, float]]:
    """Of each word of a name: the fractions of the page's words that are main text and other text inside
    elements with it."""
    total = max(1.0, float(page.words.sum()))
    main = np.concatenate([[0], np.cumsum(page.share * page.words)]) / total
    other = np.concatenate([[0], np.cumsum((1 - page.share) * page.words)]) / total
    found: dict[str, tuple[float, float]] = {}
    beyond: dict[str, int] = {}
    for name, first, end in zip(page.blocks.name, page.blocks.first, page.blocks.end, strict=True):
        for word in name_words(name) if end > first else ():
            start = max(first, beyond.get(word, 0))
            if end > start:
                before = found.get(word, (0.0, 0.0))
                found[word] = (before[0] + main[end] - main[start], before[1] + other[end] - other[start])
                beyond[word] = end
    return found


def name_odds(pages: Iterable[Page]) -> dict[str, float]:
    """Log odds ratio of main text under elements with a word in their name. Each page has weight one."""
    inside: dict[str, list[float]] = collections.defaultdict(lambda: [0.0, 0.0])
    sites: dict[str, set[str]] = collections.defaultdict(set)
    shares = []
    for page in pages:
        page.named = page.named or named(page)
        shares.append(float((page.share * page.words).sum() / max(1.0, page.words.sum())))
        for word, (main, other) in page.named.items():
            inside[word][0] += main
            inside[word][1] += other
            sites[word].add(page.site)
    base = statistics.mean(shares)
    odds = {
        word: math.log((main + base / 2) / (other + (1 - base) / 2)) - math.log(base / (1 - base))
        for word, (main, other) in inside.items()
        if len(sites[word]) >= NAME_SITES
    }
    told = {word: round(value, 2) for word, value in odds.items() if abs(value) >= LEAST_ODDS}
    best = sorted(told, key=lambda word: (-abs(told[word]) * math.sqrt(len(sites[word])), word))[:NAMES]
    return {word: told[word] for word in sorted(best)}


def fit(pages: list[Page], rows: Callable[[Page], np.ndarray], shape: tuple[int, int, float]) -> Any:
    """Trees on blocks weighted by their fraction of the page's main text, which is what F1 counts."""
    import lightgbm  # only training needs it

    random, parts = np.random.default_rng(0), []
    for page in pages:
        count = len(page.share)
        picked = np.sort(random.choice(count, min(count, BLOCKS_A_PAGE), replace=False))
        weight = (page.words + 2) / (page.gold_words + 50)
        weight = weight / max(1.0, weight.sum() / 4) * count / len(picked)
        parts.append((rows(page)[picked], page.share[picked], weight[picked]))
    data, target, weights = (np.concatenate(each) for each in zip(*parts, strict=True))
    parameters = {**FIT, "num_leaves": shape[1], "learning_rate": shape[2]}
    dataset = lightgbm.Dataset(data, target, weight=weights, params=parameters)
    return lightgbm.train(parameters, dataset, shape[0])


def trees(booster: Any) -> Trees:
    feature: list[int] = []
    threshold: list[np.float32] = []
    left: list[int] = []
    right: list[int] = []

    def add(node: dict[str, Any]) -> int:
        here = len(feature)
        feature.append(node.get("split_feature", LEAF))
        value = float(node.get("threshold", node.get("leaf_value", 0.0)))
        rounded = np.float32(value)
        if "threshold" in node and float(rounded) > value:  # float32 features must go the same way
            rounded = np.nextafter(rounded, np.float32(-np.inf))
        threshold.append(rounded)
        left.append(0)
        right.append(0)
        if "split_feature" in node:
            left[here], right[here] = add(node["left_child"]), add(node["right_child"])
        return here

    roots = [add(tree["tree_structure"]) for tree in booster.dump_model()["tree_info"]]
    return Trees(
        np.array(feature, np.int16),
        np.array(threshold, np.float32),
        *(np.array(each, np.int32) for each in (left, right, roots)),
    )


def alone(page: Page) -> np.ndarray:
    assert page.seen is not None
    return page.seen


def everything(page: Page) -> np.ndarray:
    assert page.seen is not None and page.likely is not None
    return np.hstack([page.seen, context(page.blocks, page.likely)])


def train(pages: list[Page]) -> tuple[Trees, Trees, dict[str, float]]:
    """Both ensembles and the names' scores; prints the word F1 of each fold."""
    for fold in range(FOLDS):
        score = name_score(name_odds(page for page in pages if page.fold != fold))
        for page in pages:
            if page.fold == fold:
                page.seen = features(page.blocks, score, page.title)
    for fold in range(FOLDS):
        found = trees(fit([page for page in pages if page.fold != fold], alone, ALONE))
        for page in pages:
            if page.fold == fold:
                page.likely = found.probability(alone(page))
    for fold in range(FOLDS):
        found = trees(fit([page for page in pages if page.fold != fold], everything, TOGETHER))
        unseen = [page for page in pages if page.fold == fold]
        scores = [f1(text(page, found.probability(everything(page))), page.gold) for page in unseen]
        print(f"fold {fold}  {len(unseen)} pages  word F1 {statistics.mean(scores):.4f}", flush=True)
    return trees(fit(pages, alone, ALONE)), trees(fit(pages, everything, TOGETHER)), name_odds(pages)


def text(page: Page, likely: np.ndarray) -> str:
    return joined(page.blocks, chosen(likely**CAUTION, np.array([len(each) for each in page.blocks.text])))


def save(file: Path, alone: Trees, together: Trees, names: dict[str, float], count: int, source: str) -> None:
    tensors = {
        f"{name}.{part}": getattr(ensemble, part)
        for name, ensemble in (("alone", alone), ("together", together))
        for part in Trees.__dataclass_fields__
    }
    about = {"source": source, "features": str(count), "names": json.dumps(names, ensure_ascii=False)}
    save_file(tensors, file, about)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("pages", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--source", required=True, help="what the pages are, with their licence")
    arguments = parser.parse_args()
    if importlib.util.find_spec("lightgbm") is None:
        parser.exit(1, "LightGBM is not installed: pip install lightgbm\n")
    pages = []
    for batch in pq.ParquetFile(arguments.pages).iter_batches(100, columns=["html", "text", "site"]):
        pages += [labelled(row["html"], row["text"], row["site"]) for row in batch.to_pylist()]
    pages = [page for page in pages if page.blocks.text]
    print(f"{len(pages)} pages of {len({page.site for page in pages})} sites")
    made = train(pages)
    save(arguments.model, *made, alone(pages[0]).shape[1], arguments.source)


if __name__ == "__main__":
    main()
