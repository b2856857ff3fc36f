"""What a block of a page looks like, as numbers: its text, its place, its elements, its neighbours.

Shallow text features (words, link density, the same of the neighbours) are Kohlschütter et al. 2010,
"Boilerplate Detection using Shallow Text Features"; scores of class names are Dragnet's idea (Peters and
Lecocq 2013), here as log odds of each word. The prose around a block, by its elements, follows Readability.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from headwater.data_pipeline.text.main_text.blocks import HIDDEN, Blocks

Floats = npt.NDArray[np.float32]
NAME_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
SENTENCE_END = re.compile(r"[.!?。！？।؟](?=\s|$|[\"'”’»)])|[。！？]")
COMMA = re.compile("[,;:،、，]")
DIGIT, NUMBER = re.compile("[0-9]"), re.compile("[0-9]+")
ENDS = tuple(".!?:…。！？।؟\"'”’»)")
NAME_GROUPS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        "comment|discuss|disqus|repl(?:y|ies)|respond",
        "related|recommend|trending|popular|teaser|more-|next|prev|latest",
        "sidebar|side-|rail|widget|aside|module",
        "share|social|follow",
        "promo|advert|sponsor|newsletter|subscri|signup|cta|banner",
        "author|byline|bio|profile",
        "tags?\\b|categor|crumb|meta|date",
        "foot|copyright|legal|cookie|consent",
        "caption|credit|figure|gallery",
        "article|story|entry|post-?(?:body|content|text)|rich-?text|markdown|prose",
    )
)
"""Names that many sites share for the same part of a page. The first is that of comments."""
UP = 5
"""Elements around a block that have features of their own, from the innermost."""
NEAR = 3
"""Neighbours before and after a block that have features of their own."""
PROSE_CHARACTERS, PROSE_LINKS = 80, 0.3
"""A block of prose has at least so many characters and at most this fraction of them in links."""


def name_words(name: str) -> frozenset[str]:
    """Lower-case words of a node's class, id and role: `postBody main-2` has post, body, main."""
    return frozenset(word.lower() for word in NAME_WORD.findall(name) if len(word) > 1)


def name_score(odds: Mapping[str, float]) -> Callable[[str], float]:
    """The score of a name: the sum of its words' log odds of main text, at most 3 either way."""

    @functools.lru_cache(maxsize=50_000)  # by names without numbers, of which a page has few
    def score(name: str) -> float:
        found = sum(odds.get(word, 0.0) for word in sorted(name_words(name)))  # floats depend on the order
        return max(-3.0, min(3.0, found))

    return score


@functools.lru_cache(maxsize=50_000)
def name_groups(name: str) -> int:
    """Bits of the groups that a node's name belongs to."""
    return sum(1 << bit for bit, group in enumerate(NAME_GROUPS) if group.search(name))


def features(page: Blocks, score: Callable[[str], float], title: str) -> Floats:
    """Shape (blocks, features). `title` is the page's; blocks that repeat it are headings."""
    texts, node = page.text, np.array(page.node)
    size = np.array([len(text) for text in texts], np.float32)
    words = np.array([text.count(" ") + 1 for text in texts], np.float32)
    ends = np.array([len(SENTENCE_END.findall(text)) for text in texts], np.float32)
    commas = np.array([len(COMMA.findall(text)) for text in texts], np.float32)
    stop = np.array([text.endswith(ENDS) for text in texts], np.float32)
    upper = np.array([text[0].isupper() for text in texts], np.float32)
    digits = np.array([len(DIGIT.findall(text, 0, 200)) for text in texts], np.float32)
    breaks = np.array([text.count("\n") for text in texts], np.float32)
    linked = np.array(page.link_characters, np.float32)
    link_share = linked / size
    tag = np.array(page.tag, np.float32)
    parent, depth = np.array(page.parent), np.array(page.depth, np.float32)
    prose = np.where((size >= PROSE_CHARACTERS) & (link_share <= PROSE_LINKS), size, 0.0)
    total, all_prose = size.sum(), max(1.0, prose.sum())
    count = len(texts)
    number = np.arange(count, dtype=np.float32)
    before = np.cumsum(size) - size

    own, low, high, summed = _name_scores(page, score)
    flags = np.array(page.flags)
    first, end = np.array(page.first), np.array(page.end)
    node_size, node_linked = _ranges(size, first, end), _ranges(linked, first, end)
    node_prose, node_blocks = _ranges(prose, first, end), (end - first).astype(np.float32)
    node_stop = _ranges(stop, first, end)

    title_words = frozenset(title.lower().split())
    titled = np.array([_common(text, title_words) for text in texts], np.float32)
    heading = np.flatnonzero(titled >= 0.5)
    seen: dict[str, int] = {}
    for text in texts:
        seen[text] = seen.get(text, 0) + 1
    repeated = np.array([seen[text] for text in texts], np.float32)

    columns = [
        np.log1p(size), np.log1p(words), link_share, size / words, ends / words, commas / words, stop, upper,
        digits / np.minimum(size, 200), np.log1p(breaks), tag[node], depth[node], titled, np.log(repeated),
        number / count, before / total, np.full(count, np.log(count)), np.full(count, np.log(total)),
        np.full(count, linked.sum() / total), np.full(count, all_prose / total),
        _after(number, heading), own[node], low[node], high[node], summed[node],
        (np.cumsum(prose) - prose) / all_prose,
    ]  # fmt: skip
    columns += [((flags[node] >> bit) & 1).astype(np.float32) for bit in range(HIDDEN.bit_length())]

    groups = _inherited_groups(page)[node]
    columns += [((groups >> bit) & 1).astype(np.float32) for bit in range(len(NAME_GROUPS))]
    columns.append(np.full(count, size[groups & 1 == 1].sum() / total))
    columns += [np.full(count, float(kind)) for kind in page.kinds]
    columns += _best_container(page, prose, all_prose, number)

    for shift in (*range(-NEAR, 0), *range(1, NEAR + 1)):
        columns += [_shifted(each, shift) for each in (np.log1p(size), link_share, stop, tag[node])]
    columns += [_window(each, 8) for each in (prose, size, linked)]

    up = node
    for _ in range(UP):
        columns += [
            np.log1p(node_size[up]), node_linked[up] / np.maximum(1, node_size[up]),
            np.log1p(node_blocks[up]), node_size[up] / total, node_prose[up] / all_prose,
            node_prose[up] / np.maximum(1, node_size[up]), node_stop[up] / np.maximum(1, node_blocks[up]),
            own[up], tag[up],
        ]  # fmt: skip
        up = np.where(parent[up] >= 0, parent[up], 0)

    group = _groups(page)
    group_count = np.bincount(group)
    columns += [
        np.log(group_count[group]),
        np.log1p(np.bincount(group, size)[group] / group_count[group]),
        (np.bincount(group, linked) / np.bincount(group, size))[group],
        np.bincount(group, prose)[group] / all_prose,
    ]
    for share in (0.5, 0.8):
        columns += _main_element(node_prose >= share * all_prose, first, end, number)
    return _matrix(columns)


def context(page: Blocks, likely: Floats) -> Floats:
    """Shape (blocks, features): a first model's probabilities around each block, weighted by characters."""
    node = np.array(page.node)
    size = np.array([len(text) for text in page.text], np.float32)
    weight = np.sqrt(size)
    first, end, parent = np.array(page.first), np.array(page.end), np.array(page.parent)
    kept = _ranges(weight * likely, first, end)
    mean = kept / np.maximum(1e-6, _ranges(weight, first, end))
    mass = weight * likely
    columns = [likely, np.full(len(likely), mass.sum() / weight.sum()), np.full(len(likely), likely.max())]
    columns += [_shifted(likely, shift) for shift in range(-NEAR, NEAR + 1) if shift]
    for reach in (4, 10):
        columns.append(_window(mass, reach) / _window(weight, reach))
    up = node
    for _ in range(UP):
        columns += [mean[up], kept[up] / max(1e-6, mass.sum())]
        up = np.where(parent[up] >= 0, parent[up], 0)
    group = _groups(page)
    columns.append((np.bincount(group, mass) / np.bincount(group, weight))[group])
    run = np.cumsum(mass) / max(1e-6, mass.sum())
    columns += [run, run - mass / max(1e-6, mass.sum())]
    return _matrix(columns)


def _matrix(columns: list[Floats]) -> Floats:
    """Shape (rows, columns)."""
    found = np.empty((len(columns[0]), len(columns)), np.float32)
    for number, column in enumerate(columns):
        found[:, number] = column
    return found


def _name_scores(page: Blocks, score: Callable[[str], float]) -> tuple[Floats, ...]:
    """Score of each node's own name, and the lowest, highest and sum of its own and all around it."""
    own = [score(NUMBER.sub("0", name)) for name in page.name]
    low, high, summed = own[:], own[:], own[:]
    for here, around in enumerate(page.parent):
        if around >= 0:
            low[here] = min(low[here], low[around])
            high[here] = max(high[here], high[around])
            summed[here] += summed[around]
    return tuple(np.array(each, np.float32) for each in (own, low, high, summed))


def _inherited_groups(page: Blocks) -> npt.NDArray[np.int64]:
    """Bits of the groups of each node's name and of all around it."""
    groups = [name_groups(NUMBER.sub("0", name)) for name in page.name]
    for here, around in enumerate(page.parent):
        if around >= 0:
            groups[here] |= groups[around]
    return np.array(groups)


def _best_container(page: Blocks, prose: Floats, all_prose: float, number: Floats) -> list[Floats]:
    """How blocks lie to the element that is the parent of most prose, as the paragraphs' of an article is."""
    parent, depth = np.array(page.parent), np.array(page.depth, np.float32)
    node = np.array(page.node)
    around = np.maximum(0, parent[node])
    held = np.bincount(around, prose, minlength=len(parent))
    best = int(held.argmax())
    shared = [0.0] * len(parent)  # depth of the innermost element that holds both the node and the best
    path = set()
    here = best
    while here >= 0:
        path.add(here)
        here = page.parent[here]
    for here, above in enumerate(page.parent):
        shared[here] = float(page.depth[here]) if here in path else shared[above]
    common = np.array(shared, np.float32)[node]
    first, end = page.first[best], page.end[best]
    away = np.where(number < first, number - first, np.where(number >= end, number - end + 1, 0.0))
    return [
        (held[around] / all_prose).astype(np.float32),
        (held[around] / max(1.0, held[best])).astype(np.float32),
        depth[best] - common,
        depth[node] - common,
        (np.sign(away) * np.log1p(np.abs(away))).astype(np.float32),
    ]


def _ranges(values: Floats, first: npt.NDArray[np.int64], end: npt.NDArray[np.int64]) -> Floats:
    """Sum of the blocks' values in each node."""
    running = np.concatenate(([0.0], np.cumsum(values, dtype=np.float64)))
    return (running[end] - running[first]).astype(np.float32)


def _shifted(values: Floats, shift: int) -> Floats:
    """The value of the block `shift` further on; -1 beyond the page."""
    found = np.full(len(values), -1.0, np.float32)
    if shift > 0:
        found[:-shift] = values[shift:]
    else:
        found[-shift:] = values[:shift]
    return found


def _window(values: Floats, reach: int) -> Floats:
    """Sum over the blocks at most `reach` away."""
    running = np.concatenate(([0.0], np.cumsum(values, dtype=np.float64)))
    number = np.arange(len(values))
    high = np.minimum(len(values), number + reach + 1)
    return (running[high] - running[np.maximum(0, number - reach)]).astype(np.float32)


def _common(text: str, title: frozenset[str]) -> float:
    """Fraction of a short block's words and of the title's that both have (Jaccard)."""
    if not title or len(text) > 400:
        return 0.0
    words = frozenset(text.lower().split())
    return len(words & title) / len(words | title)


def _after(number: Floats, heading: npt.NDArray[np.int64]) -> Floats:
    """Blocks since the page's heading, negative before it, in log scale; -9 without one."""
    if not len(heading):
        return np.full(len(number), -9.0, np.float32)
    away = number - heading[0]
    return (np.sign(away) * np.log1p(np.abs(away))).astype(np.float32)


def _groups(page: Blocks) -> npt.NDArray[np.int64]:
    """A number for blocks whose two innermost nodes have the same tags and names, as those of a list have."""
    known: dict[tuple[int, str, int, str], int] = {}
    found = []
    for node in page.node:
        around = max(0, page.parent[node])
        key = (page.tag[node], page.name[node], page.tag[around], page.name[around])
        found.append(known.setdefault(key, len(known)))
    return np.array(found)


def _main_element(
    holds: npt.NDArray[np.bool_], first: npt.NDArray[np.int64], end: npt.NDArray[np.int64], number: Floats
) -> list[Floats]:
    """Whether blocks are in the deepest node that holds that much of the page's prose, and where to it."""
    candidates = np.flatnonzero(holds)
    if not len(candidates):
        return [np.zeros(len(number), np.float32), np.full(len(number), -1, np.float32)]
    main = candidates[-1]
    within = (number >= first[main]) & (number < end[main])
    place = (number - first[main]) / max(1, end[main] - first[main])
    return [within.astype(np.float32), np.clip(place, -2, 3).astype(np.float32)]
