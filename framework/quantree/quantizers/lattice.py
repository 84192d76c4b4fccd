"""Multiples of one step as a learner."""

from typing import ClassVar, Self

import jax
import numpy as np
from pydantic import Field

from quantree.encodings import Codebook
from quantree.quantizers.base import Learner
from quantree.quantizers.kmeans import scalar_table
from quantree.registry import register

_LEVELS = 1 << 16  # between the extremes, at the finest step that is tried
_COARSE = 1.01
_HALVINGS = 8


@register("lattice")
class Lattice(Learner):
    """Rounds to multiples of the smallest step that leaves at most k different values (UQ of Marino et al., arXiv
    2108.12704).

    Unlike the levels of `uniform`, one of these is exactly zero, the outermost lie within half a step of the extreme
    weights, and multiples that no weight is near to are not counted: a few outliers don't make the step coarse. The
    paper raises the step by 0.0005 until it will do; here it is raised by 1 %, and then the last such interval is
    bisected. What is given are free centroids, which `finetune` trains one by one. `budget` has `uniform` in its place.
    Scalars only.
    """

    scalars_only = True
    example: ClassVar = {"k": 3}

    k: int = Field(ge=2, le=65536, description="number of values, at most")

    @classmethod
    def ladder(cls) -> tuple[Self, ...]:
        return ()

    def learn(self, blocks: jax.Array, mask: jax.Array, key: jax.Array) -> tuple[Codebook, jax.Array]:
        del key
        x = np.asarray(blocks, np.float64).reshape(-1)
        ordered = np.unique(x[np.asarray(mask).reshape(-1)])
        step = _smallest(ordered, self.k)
        multiples, cuts = _cells(ordered, step)
        used = np.flatnonzero(_counts(ordered, cuts))
        codes = np.searchsorted(used, np.searchsorted(cuts, x))
        return scalar_table((multiples[used] * step).astype(np.float32), codes.astype(np.int32))


def _smallest(ordered: np.ndarray, k: int) -> float:
    """The smallest step, of those tried, of which no more than k multiples are near to any of the values [n]."""

    def will_do(step: float) -> bool:
        return int(np.count_nonzero(_counts(ordered, _cells(ordered, step)[1]))) <= k

    spread = float(ordered[-1] - ordered[0])
    if spread == 0:  # one value, and a step that meets it
        return abs(float(ordered[0])) or 1.0
    # One of k cells holds at least so many values, and is as wide as they lie apart.
    most = -(-ordered.size // k)
    fine, step = 0.0, max(spread / _LEVELS, float(np.min(ordered[most - 1 :] - ordered[: ordered.size - most + 1])))
    while not will_do(step):
        fine, step = step, step * _COARSE
    for _ in range(_HALVINGS if fine else 0):
        middle = (fine + step) / 2
        fine, step = (fine, middle) if will_do(middle) else (middle, step)
    return step


def _cells(ordered: np.ndarray, step: float) -> tuple[np.ndarray, np.ndarray]:
    """The multiples [m] between the extremes, as whole numbers, and the bounds [m - 1] between them."""
    first, last = np.rint(ordered[[0, -1]] / step) + 0.0  # no minus zero
    multiples = np.arange(first, last + 1)
    return multiples, (multiples[:-1] + 0.5) * step


def _counts(ordered: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """How many values lie in each cell; one on a bound belongs below."""
    return np.diff(np.searchsorted(ordered, cuts, side="right"), prepend=0, append=ordered.size)
