"""Random values as a function of a seed, a name and an index: any part of a tensor can be drawn alone.

Element i is word i of a Philox stream (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"),
whose key is a hash of seed and name; for a normal value mapped through the inverse of the normal distribution
(Wichura 1988, algorithm AS 241). The values do not depend on how many are drawn at once, nor by whom.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

WORDS = 8
"""Words of 32 bits that one value of Philox' counter gives."""
CENTRE = 0.425
"""AS 241 has one ratio of polynomials for |u - 0.5| up to this, another one for the tails."""
# Coefficients of AS 241 (PPND16), the highest power first: relative error about 1e-16. Its third range begins
# at u < 1.4e-11, which 32 bits do not reach.
CENTRE_OVER = (
    2509.0809287301226727, 33430.575583588128105, 67265.770927008700853, 45921.953931549871457,
    13731.693765509461125, 1971.5909503065514427, 133.14166789178437745, 3.387132872796366608,
)  # fmt: skip
CENTRE_UNDER = (
    5226.495278852854561, 28729.085735721942674, 39307.89580009271061, 21213.794301586595867,
    5394.1960214247511077, 687.1870074920579083, 42.313330701600911252, 1.0,
)  # fmt: skip
TAIL_OVER = (
    7.7454501427834140764e-4, 0.0227238449892691845833, 0.24178072517745061177, 1.27045825245236838258,
    3.64784832476320460504, 5.7694972214606914055, 4.6303378461565452959, 1.42343711074968357734,
)  # fmt: skip
TAIL_UNDER = (
    1.05075007164441684324e-9, 5.475938084995344946e-4, 0.0151986665636164571966, 0.14810397642748007459,
    0.68976733498510000455, 1.6763848301838038494, 2.05319162663775882187, 1.0,
)  # fmt: skip


def normals(seed: int, name: str, start: int, count: int) -> NDArray[np.float64]:
    """Elements `start` to `start + count` of the standard normal values called `name`: float64 [count]."""
    return inverse_normal(uniforms(seed, name, start, count))


def uniforms(seed: int, name: str, start: int, count: int) -> NDArray[np.float64]:
    """The same of the uniform values in (0, 1), multiples of 2^-33: float64 [count]."""
    first = start // WORDS
    key = np.frombuffer(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:16], "<u8")
    stream = np.random.Philox(key=key, counter=first)
    words = stream.random_raw((-(-(start + count) // WORDS) - first) * WORDS // 2)
    own = words.astype("<u8", copy=False).view("<u4")[start - first * WORDS :][:count]
    values: NDArray[np.float64] = (own + 0.5) * 2.0**-32
    return values


def inverse_normal(u: NDArray[np.float64]) -> NDArray[np.float64]:
    """The inverse of the standard normal distribution for u in (1.4e-11, 1 - 1.4e-11)."""
    q = u - 0.5
    r = CENTRE * CENTRE - q * q
    z = q * _polynomial(CENTRE_OVER, r) / _polynomial(CENTRE_UNDER, r)
    outside = np.flatnonzero(np.abs(q) > CENTRE)
    side = q[outside]
    r = np.sqrt(-np.log(0.5 - np.abs(side))) - 1.6
    z[outside] = np.copysign(_polynomial(TAIL_OVER, r) / _polynomial(TAIL_UNDER, r), side)
    return z


def _polynomial(coefficients: tuple[float, ...], r: NDArray[np.float64]) -> NDArray[np.float64]:
    value = np.full_like(r, coefficients[0])
    for coefficient in coefficients[1:]:
        value *= r
        value += coefficient
    return value
