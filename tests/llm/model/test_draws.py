"""Normal values by seed, name and place."""

from __future__ import annotations

import hashlib
from statistics import NormalDist

import numpy as np

from headwater.llm.model.draws import inverse_normal, normals


def test_any_part_of_the_values_can_be_drawn_alone() -> None:
    whole = normals(7, "layer.weight", 0, 5_000)
    for start, count in ((0, 1), (7, 2), (8, 8), (13, 1_000), (4_999, 1), (64, 0)):
        np.testing.assert_array_equal(normals(7, "layer.weight", start, count), whole[start : start + count])


def test_values_differ_by_seed_and_by_name() -> None:
    drawn = [normals(seed, name, 0, 1_000) for seed in (0, 1) for name in ("a", "b")]
    correlations = np.corrcoef(drawn) - np.eye(4)
    assert np.abs(correlations).max() < 0.15  # five standard errors


def test_the_map_is_the_inverse_of_the_normal_distribution() -> None:
    """Python's own, which is AS 241 as well, for the words that can be drawn."""
    words = np.concatenate([np.logspace(0, 9.6, 200).astype(np.uint32), [0, 2**32 - 1, 2**31, 322_122_547]])
    u = (words + 0.5) / 2**32
    expected = [NormalDist().inv_cdf(each) for each in u]
    np.testing.assert_allclose(inverse_normal(u), expected, rtol=1e-14, atol=1e-15)


def test_the_values_have_the_moments_of_a_normal_distribution() -> None:
    values = normals(0, "x", 0, 1_000_000)
    moments = [float((values**power).mean()) for power in (1, 2, 3, 4)]
    np.testing.assert_allclose(moments, [0, 1, 0, 3], atol=0.05)  # five standard errors of the fourth


def test_an_element_is_a_word_of_the_philox_stream_of_its_seed_and_name() -> None:
    """Philox4x64-10 as in the paper (Salmon et al. 2011, section 3.3). The values of a seed never change:
    another stream must raise the versions of the stages that make fresh models."""
    digest = hashlib.sha256(b"3/x").digest()
    key = int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")
    words = [
        half for block in (1, 2, 3) for word in philox(block, *key) for half in (word % 2**32, word >> 32)
    ]
    expected = [NormalDist().inv_cdf((word + 0.5) / 2**32) for word in words]
    np.testing.assert_allclose(normals(3, "x", 0, 24), expected, rtol=1e-14)


def philox(counter: int, key: int, other: int) -> tuple[int, int, int, int]:
    a, b, c, d = counter, 0, 0, 0
    for _ in range(10):
        first, second = 0xD2E7470EE14C6C93 * a, 0xCA5A826395121157 * c
        a, b, c, d = (second >> 64) ^ b ^ key, second % 2**64, (first >> 64) ^ d ^ other, first % 2**64
        key, other = (key + 0x9E3779B97F4A7C15) % 2**64, (other + 0xBB67AE8584CAA73B) % 2**64
    return a, b, c, d
