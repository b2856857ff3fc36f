"""Repeated spans: against brute force over tuples of words, for any order and grouping of the documents."""

from __future__ import annotations

import collections
import itertools
import json
import random
import tracemalloc
from pathlib import Path

import boto3
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.artifact import Artifact
from headwater.data_pipeline.clean.repeated_spans import Cutter, WindowWorker, find_spans
from headwater.data_pipeline.dedup import repeats, window_index
from headwater.data_pipeline.dedup.repeats import find_repeats, ranks, spans_of
from headwater.data_pipeline.dedup.substring import SubstringConfig, cut, rules, windows, words
from headwater.data_pipeline.dedup.window_index import WindowFile, write_windows
from headwater.data_pipeline.documents import Document, to_table
from headwater.data_pipeline.tables import DECISIONS, TEXTS, write_table
from headwater.data_pipeline.text.words.hashed_words import exact, folded, hashed_words
from headwater.data_pipeline.verdict import Rejection, Scores, first_hit

Spans = dict[str, list[tuple[int, int]]]


def verdict(scores: Scores, config: SubstringConfig) -> Rejection | None:
    return first_hit(scores, rules(config))


def written(parts: list[list[tuple[str, str]]], n: int, folder: Path) -> list[WindowFile]:
    files = []
    for number, part in enumerate(parts):
        path = folder / f"part-{number}.windows"
        with path.open("wb") as stream:
            write_windows((text for _, text in part), n, stream)
        files.append(WindowFile(str(path)))
    return files


def found_spans(parts: list[list[tuple[str, str]]], n: int, folder: Path, memory: int = 1 << 20) -> Spans:
    """Spans to be cut, by document id."""
    folder.mkdir(parents=True)
    ids = np.array([name for part in parts for name, _ in part])
    ranked = np.split(ranks(ids, ids), np.cumsum([len(part) for part in parts])[:-1])
    tables = find_repeats(written(parts, n, folder), ranked, n, folder, memory)
    spans: Spans = {}
    for part, table in zip(parts, tables, strict=True):
        for row, (name, _) in enumerate(part):
            spans[name] = [(first, end) for first, end in spans_of(table, row).tolist()]
    return spans


def cut_places(spans: Spans) -> set[tuple[str, int]]:
    return {(name, place) for name, pairs in spans.items() for pair in pairs for place in range(*pair)}


def brute_force(
    documents: dict[str, list[str]], n: int
) -> tuple[set[tuple[str, int]], list[list[tuple[str, int]]]]:
    """Places that must be cut, and the groups of equal windows (of each, the one that stays first)."""
    groups: dict[tuple[str, ...], list[tuple[str, int]]] = collections.defaultdict(list)
    for name in sorted(documents):
        content = documents[name]
        for place in range(len(content) - n + 1):
            groups[tuple(content[place : place + n])].append((name, place))
    others = [place for group in groups.values() for place in group[1:]]
    cut_out = {(name, place + step) for name, place in others for step in range(n)}
    return cut_out, [group for group in groups.values() if len(group) > 1]


def generated(seed: int) -> dict[str, list[str]]:
    """Documents over few words, with phrases copied between them, so that spans overlap in all ways."""
    generator = random.Random(seed)
    phrases = [[generator.choice("abcdefgh") for _ in range(generator.randint(3, 14))] for _ in range(6)]
    documents = {}
    for number in range(generator.randint(2, 9)):
        content: list[str] = []
        for _ in range(generator.randint(0, 6)):
            content += generator.choice(phrases)
            content += [f"w{generator.randrange(1000)}" for _ in range(generator.randint(0, 4))]
        documents[f"id{number}"] = content
    return documents


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(2, 9))
def test_spans_are_those_of_brute_force_and_every_word_cut_stays_elsewhere(
    seed: int, n: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    documents = generated(seed)
    expected, groups = brute_force(documents, n)
    parts = [[(name, " ".join(content)) for name, content in documents.items()]]
    found = cut_places(found_spans(parts, n, tmp_path_factory.mktemp("spans") / "run"))
    assert found == expected
    # Words that repeated windows lay upon each other are one word: of each such class one is left.
    above: dict[tuple[str, int], tuple[str, int]] = {}

    def root(place: tuple[str, int]) -> tuple[str, int]:
        while place in above:
            place = above[place]
        return place

    for group, step in itertools.product(groups, range(n)):
        first = root((group[0][0], group[0][1] + step))
        for name, place in group[1:]:
            other = root((name, place + step))
            if other != first:
                above[max(other, first)] = min(other, first)
                first = min(other, first)
    classes = {root(place) for place in found}
    left = {(name, place) for name, content in documents.items() for place in range(len(content))} - found
    assert classes <= {root(place) for place in left}


def test_windows_cover_exactly_the_maximal_repeated_spans_of_a_suffix_array() -> None:
    """Lee et al.'s definition: every place in a common run of at least N words of two different suffixes."""
    for seed, n in itertools.product(range(25), (2, 4, 7)):
        documents = generated(seed)
        suffixes = sorted(
            (content[place:], name, place)
            for name, content in documents.items()
            for place in range(len(content))
        )
        spans = set()
        for (left, left_name, left_place), (right, right_name, right_place) in itertools.pairwise(suffixes):
            differs = (i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b)
            common = next(differs, min(len(left), len(right)))
            for step in range(common if common >= n else 0):
                spans |= {(left_name, left_place + step), (right_name, right_place + step)}
        hashed = collections.defaultdict(list)
        for name, content in documents.items():
            for place, value in enumerate(windows(" ".join(content), n).tolist()):
                hashed[value].append((name, place))
        covered = {
            (name, place + step)
            for group in hashed.values()
            if len(group) > 1
            for name, place in group
            for step in range(n)
        }
        assert covered == spans


def test_order_grouping_and_memory_change_nothing(tmp_path: Path, shared_data: Path) -> None:
    """Real documents that share boilerplate: one part, many parts, other orders, one cell at a time."""
    footer = "Copyright 2024 The Example Company. All rights reserved. No part of this page may be copied."
    lines = (shared_data / "text" / "c4-300.jsonl").read_text().splitlines()[:120]
    documents = [(f"id{n:03}", json.loads(line)["text"]) for n, line in enumerate(lines)]
    documents = [(name, f"{text}\n\n{footer}" if n % 3 else text) for n, (name, text) in enumerate(documents)]
    expected, _ = brute_force({name: text.split() for name, text in documents}, 12)
    results = []
    for run, (size, memory) in enumerate([(120, 1 << 30), (7, 1 << 30), (1, 200_000), (40, 1)]):
        shuffled = list(documents)
        random.Random(run).shuffle(shuffled)
        parts = [shuffled[start : start + size] for start in range(0, len(shuffled), size)]
        results.append(found_spans(parts, 12, tmp_path / f"run{run}", memory))
    assert all(result == results[0] for result in results)
    assert cut_places(results[0]) == expected
    keeps_footer = [
        name
        for name, text in documents
        if cut(text, np.array(results[0][name]).reshape(-1, 2))[0].endswith(footer)
    ]
    assert keeps_footer == ["id001"]


def test_ranges_keep_within_the_memory_they_are_given(tmp_path: Path) -> None:
    generator = random.Random(1)
    parts = [[(f"{part}", " ".join(generator.choices("abcdefghij", k=20_000)))] for part in range(4)]
    files = written(parts, 30, tmp_path)
    total = sum(file.windows for file in files)
    pieces = repeats.ranges(files, 5_000)
    sizes = [sum(int(f.fences[end]) - int(f.fences[first]) for f in files) for first, end in pieces]
    assert sum(sizes) == total and max(sizes) <= 5_000 and len(pieces) <= total / 4_000
    assert [first for first, _ in pieces[1:]] == [end for _, end in pieces[:-1]]
    assert repeats.ranges(files, 1) and len(repeats.ranges(files, total)) == 1


def test_memory_stays_within_what_is_given_even_if_everything_is_repeated(tmp_path: Path) -> None:
    text = " ".join(random.Random(2).choices(["alpha", "beta", "gamma", "delta"], k=60_000))
    files = written([[(f"{part}", text)] for part in range(4)], 30, tmp_path)
    of_parts = [np.array([part]) for part in range(4)]
    memory = 4_000_000  # comparing all 240,000 windows at once would take 20 MB
    tracemalloc.start()
    spans = [table.num_rows for table in find_repeats(files, of_parts, 30, tmp_path, memory)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert spans[1:] == [1, 1, 1]
    assert 1_000_000 < peak < memory + 4_000_000  # and a part's own spans


def test_removed_documents_are_ignored_in_substring_dedup(tmp_path: Path) -> None:
    shared = " ".join(f"w{n}" for n in range(30))
    texts = {"a": shared, "b": f"{shared} tail", "c": f"head {shared}"}
    output, config = Artifact(str(tmp_path)), SubstringConfig(enabled=True, span_words=10, min_words=0)
    documents = [Document(name, "", "", text, source=name) for name, text in texts.items()]
    write_table(output, f"{TEXTS}/part.parquet", to_table(documents))
    write_table(output, f"{DECISIONS}/part.parquet", pa.table({"step": ["language", None, None]}))
    WindowWorker(config, output)({"unit": "part"})
    find_spans(output, ["part"], config)
    cutter = Cutter(config, output, "part")
    assert list(cutter([texts["b"], texts["c"]])) == [texts["b"], "head"]


def test_ranks_follow_ids_and_then_places() -> None:
    found = ranks(np.array(["b", "a", "a"]), np.array(["1", "2", "1"]))
    assert found.tolist() == [2, 1, 0]


def test_a_cut_leaves_whole_words_and_one_break() -> None:
    text = "Alpha beta\n\ngamma delta  epsilon\nzeta eta theta"

    def without(*spans: tuple[int, int]) -> str:
        return cut(text, np.array(spans).reshape(-1, 2))[0]

    assert without() == text
    assert without((1, 3)) == "Alpha\n\ndelta  epsilon\nzeta eta theta"
    assert without((3, 4)) == "Alpha beta\n\ngamma  epsilon\nzeta eta theta"
    assert without((0, 2), (6, 8)) == "gamma delta  epsilon\nzeta"
    assert without((0, 1), (2, 3), (4, 5)) == "beta\n\ndelta\nzeta eta theta"
    assert without((0, 8)) == ""
    assert cut("一二三 四五", np.array([[1, 3]]))[0] == "一 四五"


@settings(max_examples=100, deadline=None)
@given(st.text("ab \n\t漢", max_size=40), st.sets(st.integers(0, 39)))
def test_cutting_takes_exactly_the_words_it_is_told_to(text: str, places: set[int]) -> None:
    found = words(text)
    pieces = [text[start:end] for start, end in zip(found.starts, found.ends, strict=True)]
    places = {place for place in places if place < len(pieces)}
    borders = sorted(
        place for place in {*places, *(p + 1 for p in places)} if (place in places) != (place - 1 in places)
    )
    left, scores = cut(text, np.array(borders, np.int64).reshape(-1, 2))
    expected = [piece for place, piece in enumerate(pieces) if place not in places]
    assert "".join(left.split()) == "".join(expected)
    assert scores == {"words_left": len(expected), "words_cut": len(places)}
    if places and not left.strip():
        assert left == ""


def test_documents_too_short_after_a_cut_are_dropped_and_uncut_ones_kept() -> None:
    config = SubstringConfig(min_words=20)
    assert verdict({"words_left": 19, "words_cut": 60}, config) == Rejection("mostly_repeated", 19, 20)
    assert verdict({"words_left": 20, "words_cut": 60}, config) is None
    assert verdict({"words_left": 5, "words_cut": 0}, config) is None
    assert not SubstringConfig().enabled


def test_a_file_that_is_cut_off_or_something_else_is_named(tmp_path: Path) -> None:
    [file] = written([[("a", "one two three four")]], 2, tmp_path)
    path = Path(file.location)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(HeadwaterError, match=r"part-0\.windows.*bytes instead of"):
        WindowFile(str(path))
    path.write_bytes(b"something else")
    with pytest.raises(HeadwaterError, match="not a window index"):
        WindowFile(str(path))


def test_files_of_windows_may_lie_in_s3(tmp_path: Path, s3_server: str) -> None:
    client = boto3.client("s3", endpoint_url=s3_server)
    client.create_bucket(Bucket="windows")
    shared = " ".join(f"w{number}" for number in range(40))
    parts = [[("a", f"one {shared}")], [("b", f"two {shared} three")]]
    for file in written(parts, 10, tmp_path):
        client.upload_file(file.location, "windows", Path(file.location).name)
    files = [WindowFile(f"s3://windows/part-{number}.windows") for number in range(2)]
    tables = find_repeats(files, [np.array([1]), np.array([0])], 10, tmp_path)
    assert [table.to_pylist() for table in tables] == [[{"document": 0, "first": 1, "end": 41}], []]


def test_a_file_s_cells_are_its_sorted_windows(tmp_path: Path) -> None:
    texts = [("a", " ".join(map(str, range(500)))), ("b", ""), ("c", " ".join(map(str, range(90, 400))))]
    [file] = written([texts], 5, tmp_path)
    hashes, places = file.cells(0, window_index.CELLS)
    expected = np.concatenate([windows(text, 5) for _, text in texts])
    assert np.array_equal(hashes, np.sort(expected)) and np.array_equal(hashes, expected[places])
    assert file.starts.tolist() == [0, 496, 496, 802]
    middle = file.cells(512, window_index.CELLS)[0]
    assert np.array_equal(middle, hashes[hashes >= 1 << 63])


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_exact_words_are_those_between_white_space(text: str) -> None:
    found = hashed_words(text, exact())
    pieces = [text[start:end] for start, end in zip(found.starts, found.ends, strict=True)]
    assert "".join(pieces) == "".join(text.split())
    if text.isascii():
        assert pieces == text.split()
    assert (
        len(set(zip(pieces, found.hashes.tolist(), strict=True)))
        == len(set(pieces))
        == len(set(found.hashes.tolist()))
    )


def test_folded_words_are_runs_of_letters_and_single_marks() -> None:
    def pieces(text: str) -> list[str]:
        found = hashed_words(text, folded())
        return [text[start:end] for start, end in zip(found.starts, found.ends, strict=True)]

    assert pieces("Don’t — 3.5 kg, Éclair! 日本 ok") == [
        "Don", "’", "t", "—", "3", ".", "5", "kg", ",", "Éclair", "!", "日", "本", "ok",
    ]  # fmt: skip
    same = hashed_words("ÉCLAIR don't", folded()).hashes, hashed_words("éclair Don’t", folded()).hashes
    assert np.array_equal(*same)
    years = [hashed_words(year, folded(digits=False)).hashes.tolist() for year in ("1984", "2024", "984")]
    assert years[0] == years[1] != years[2]
