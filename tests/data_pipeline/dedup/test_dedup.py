"""Duplicates: MinHash against the exact Jaccard similarity, and the rule that says which copy stays."""

from __future__ import annotations

import itertools
import random
import tempfile
from pathlib import Path

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.data_pipeline.dedup import groups as spilled
from headwater.data_pipeline.dedup.exact import text_digest
from headwater.data_pipeline.dedup.groups import Groups, Spill
from headwater.data_pipeline.dedup.minhash import MinHashConfig, MinHasher
from headwater.data_pipeline.dedup.shingles import xxh64
from headwater.data_pipeline.dedup.survivors import keep_best

WORDS = ["".join(letters) for letters in itertools.islice(itertools.product("abcdefgh", repeat=4), 3000)]


def variant(words: list[str], changes: int, generator: random.Random) -> list[str]:
    copy = list(words)
    for place in generator.sample(range(len(copy)), changes):
        copy[place] = generator.choice(WORDS)
    return copy


def components(keys: np.ndarray) -> np.ndarray:
    """Group of each document whose bucket keys are a row of `keys`; 0 connects with nothing."""
    groups = Groups(len(keys))
    with tempfile.TemporaryDirectory() as folder:
        for bucket, column in enumerate(keys.T):
            spill = Spill(Path(folder) / str(bucket), len(keys))
            rows = np.flatnonzero(column)
            spill.add(column[rows], rows)
            groups.connect(spill, np.ones(len(keys), bool))
    return groups.numbers()


def jaccard(left: np.ndarray, right: np.ndarray) -> float:
    return len(np.intersect1d(left, right)) / len(np.union1d(left, right))


def test_recall_and_false_merges_agree_with_the_formula_on_brute_force_similarities() -> None:
    """Expected by 1 - (1 - s^8)^14 for each pair's true s; 400 pairs from near copies to strangers."""
    generator = random.Random(7)
    hasher = MinHasher(MinHashConfig())
    expected = found = 0.0
    high = high_found = low = low_found = 0
    for pair in range(400):
        words = generator.choices(WORDS, k=300)
        other = variant(words, pair % 80, generator)
        left, right = " ".join(words), " ".join(other)
        similarity = jaccard(hasher.shingles(left), hasher.shingles(right))
        hit = bool((hasher.buckets(left) == hasher.buckets(right)).any())
        expected += 1 - (1 - similarity**8) ** 14
        found += hit
        high, high_found = high + (similarity >= 0.85), high_found + (hit and similarity >= 0.85)
        low, low_found = low + (similarity <= 0.45), low_found + (hit and similarity <= 0.45)
    assert high > 20 and high_found / high >= 0.95
    assert low > 80 and low_found / low <= 0.05
    assert abs(found - expected) < 24  # three standard deviations of 400 such coins, and a little


def test_unrelated_documents_never_share_a_bucket() -> None:
    generator = random.Random(3)
    hasher = MinHasher(MinHashConfig())
    keys = np.array([hasher.buckets(" ".join(generator.choices(WORDS, k=200))) for _ in range(300)])
    assert len(np.unique(components(keys))) == 300


def test_signatures_look_at_words_only() -> None:
    hasher = MinHasher(MinHashConfig())
    same = hasher.buckets("The café, on 12 March, was full of people again today.")
    assert (same == hasher.buckets("the CAFE on 7   march was full -- of people again today")).all()


def test_texts_shorter_than_a_shingle_are_never_duplicates() -> None:
    hasher = MinHasher(MinHashConfig())
    keys = np.array([hasher.buckets(text) for text in ("only four words here", "", "only four words here")])
    assert keys.shape == (3, 14)
    assert components(keys).tolist() == [0, 1, 2]


def test_a_signature_is_the_smallest_permuted_shingle() -> None:
    generator = random.Random(5)
    hasher = MinHasher(MinHashConfig())
    text = " ".join(generator.choices(WORDS, k=300))
    mersenne = (1 << 61) - 1
    values = [int(value) for value in hasher.shingles(text)]
    a, b = int(hasher._a[3]), int(hasher._b[3])
    signature = hasher.signature(text)
    assert signature is not None
    assert int(signature[3]) == min(((v * a + b) % (1 << 64)) % mersenne for v in values)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_our_xxh64_is_the_published_one(data: bytes) -> None:
    assert int(xxh64(np.frombuffer(data, np.uint8), 0, len(data))) == xxhash.xxh64_intdigest(data)


def test_components_join_documents_through_others() -> None:
    keys = np.array([[1, 10], [1, 20], [2, 20], [3, 30], [4, 40], [4, 50]], np.uint64)
    assert components(keys).tolist() == [0, 0, 0, 3, 4, 4]


def test_groups_on_disk_are_those_of_memory_however_small_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a plain union-find, with files of 50 pairs."""
    generator = np.random.default_rng(5)
    keys = generator.integers(0, 4000, (2000, 3)).astype(np.uint64)
    at_once = components(keys)
    monkeypatch.setattr(spilled, "PART_BYTES", 50 * spilled.PAIR.itemsize)
    monkeypatch.setattr(spilled, "HELD_BYTES", 1000)
    spill = Spill(tmp_path / "spill", len(keys))
    for start in range(0, len(keys), 7):
        rows = np.arange(start, min(start + 7, len(keys)))
        spill.add(keys[rows, 0], rows)
    assert len(list((tmp_path / "spill").iterdir())) > 20
    plain: dict[int, int] = {}
    parent = list(range(len(keys)))

    def root(row: int) -> int:
        return row if parent[row] == row else root(parent[row])

    for bucket in range(3):
        plain.clear()
        for row, key in enumerate(keys[:, bucket].tolist()):
            if key and key in plain:
                low, high = sorted((root(row), root(plain[key])))
                parent[high] = low
            plain.setdefault(key, row)
    expected = [root(row) for row in range(len(keys))]
    assert at_once.tolist() == components(keys).tolist() == expected
    assert len(set(expected)) < 1500


def test_the_longest_stays_then_the_smallest_id_in_any_order() -> None:
    rows = [
        ("b", 10, "f:1"),
        ("a", 10, "f:2"),
        ("c", 9, "f:3"),
        ("z", 5, "f:4"),
        ("z", 5, "f:5"),
        ("y", 5, ""),
    ]
    groups = {"b": 0, "a": 0, "c": 0, "z": 1, "y": 2}
    for order in itertools.permutations(rows):
        asked: list[int] = []

        def names(wanted: np.ndarray, order=order, asked=asked) -> list[tuple[str, str]]:  # type: ignore[no-untyped-def]
            asked += wanted.tolist()
            return [(order[row][0], order[row][2]) for row in wanted]

        numbers, lengths = (
            np.array([value(row) for row in order]) for value in (lambda r: groups[r[0]], lambda r: r[1])
        )
        instead = keep_best(numbers, lengths, names)
        kept = {order[row][2] for row in np.flatnonzero(instead < 0)}
        assert kept == {"f:2", "f:4", ""}
        assert all(order[instead[row]][2] in kept for row in np.flatnonzero(instead >= 0))
        assert {order[row][0] for row in asked} == {"a", "b", "z"}  # the lengths decide about the rest


def test_exact_copies_differ_only_in_case_space_and_unicode_form() -> None:
    texts = ["A Café  by the\nriver", "a cafe\u0301 by the river", "a cafe by the river"]
    first, second, other = map(text_digest, texts)
    assert first == second != other
