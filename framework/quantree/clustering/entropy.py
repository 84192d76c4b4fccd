"""Entropy-constrained clustering of scalars: the least squared error plus `slope` times the bits of the codes.

A code that points to p of all values costs -log2 p bits once it is entropy-coded, so a rare centroid must be worth its
bits, and how many there are follows from the slope. Both forms keep clusters that are intervals of the sorted values.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from quantree.clustering import checks
from quantree.clustering.intervals import Gain, Scalars, Sorted, distinct, grid, refine, scalars, settle
from quantree.clustering.result import EntropyCoded
from quantree.errors import LeafError

CELLS = 256  # least number of grid cells
CELLS_PER_CENTROID = 8  # with fewer, the grid is made finer
NEARBY = 0.25  # of the way to the next boundary: the grid is that fine
OCTAVES = 24  # by which slopes are searched below the variance: down to 1 / 4096 of the deviation
DEEPEST = -4 * OCTAVES
HALVINGS = 16
ROWS = 64  # of the table of gains that exist at once; its columns are the cells


def entropy_constrained(
    x: Any,
    slope: float | None = None,
    *,
    bits: float | None = None,
    weights: Any = None,
    mask: Any = None,
    overhead: float = 0.0,
) -> EntropyCoded:
    """The clustering of x [n] with the least inertia + slope x (bits + overhead x k), deterministic.

    slope: squared error that one bit must save; the larger, the fewer bits. At high rate an error of D per value has a
        slope of about 2 ln 2 D. Or instead of it
    bits: bits per value that takes part, at most; the smallest slope that keeps to it is found by bisection.
    weights: importance of each value's error, [n], at least 0; it has no part in the bits. mask: [n], False for values
        that take no part (code 0). overhead: bits that each centroid costs by itself, in a codebook and a coding table.

    The code length of a cluster is additive, so one pass of dynamic programming finds number, boundaries and centroids
    together; O(cells^2) time. Up to 512 distinct values are their own cells, and the result is the optimum over
    intervals; else the cells are a grid of 512, or 8 per centroid, and the boundaries are moved afterwards.
    Without any value of weight there is one centroid, zero. On the host, in float64, as `kmeans_1d`.
    `LeafError` if x is empty or not 1-D, for settings out of range, and for NaN, infinity or negative weights.
    """
    if (slope is None) == (bits is None):
        raise LeafError("give either slope or bits")
    _positive(slope=slope, bits=bits)
    if not 0 <= overhead < np.inf:
        raise LeafError(f"overhead is {overhead!r}; expected bits per centroid, at least 0 and finite")
    given = scalars(x, weights, mask)
    ordered = given.sort()
    if not ordered.values.size:
        return _result(given, ordered, np.asarray([0, 0]), 0)
    edges = distinct(ordered.values)
    if slope is not None:
        bounds = _cluster(ordered, edges, slope / ordered.unit, overhead)
    else:
        assert bits is not None
        bounds = _within(bits, ordered, edges, overhead)
    return _result(given, ordered, bounds, 0)


def entropy_lloyd(
    x: Any,
    slope: float,
    k: int,
    *,
    weights: Any = None,
    mask: Any = None,
    iterations: int = 50,
    tolerance: float = 1e-3,
) -> EntropyCoded:
    """The iterative form, from 3 k clusters of equally many values: codes, centroids and probabilities by turns.

    Each value goes to the least (x - c)^2 - slope log2 p; clusters that lose all are dropped. It ends once at most k
    are left, when the cost falls by no more than `tolerance` of itself, or after `iterations`. A local optimum
    (Choi et al., ICLR 2017, section 4; Marino et al., arXiv 2308.10644, where the logarithm is natural).
    Arguments, bounds and errors as in `entropy_constrained`; weights count in the means only.
    """
    _positive(slope=slope)
    checks.codebook_size(k)
    given = scalars(x, weights, mask)
    ordered = given.sort()
    if not ordered.values.size:
        return _result(given, ordered, np.asarray([0, 0]), 0)
    n = ordered.values.size
    edges = distinct(ordered.values)
    bounds = np.unique(edges[np.searchsorted(edges, np.linspace(0, n, 3 * k + 1).astype(np.int64))])
    gain = _gain(ordered, slope / ordered.unit, 0.0)
    total, steps, cost = gain(bounds[:-1], bounds[1:]).sum(), 0, 0.0
    base = ordered.inertia(np.asarray([0, n]), np.asarray([ordered.origin]))
    while steps < iterations and bounds.size - 1 > k:
        cost = base - total
        means = ordered.means(bounds, np.zeros(bounds.size - 1))
        lengths = -np.log2(np.diff(bounds) / n)
        cuts = _envelope(means, slope * lengths)
        bounds = np.unique(ordered.bounds(cuts))
        steps, total = steps + 1, gain(bounds[:-1], bounds[1:]).sum()
        if cost - (base - total) <= tolerance * cost:
            break
    return _result(given, ordered, bounds, steps)


def _positive(**settings: float | None) -> None:
    for name, value in settings.items():
        if value is not None and not 0 < value < np.inf:
            raise LeafError(f"{name} is {value!r}; expected a number above 0 and finite")


def _cluster(ordered: Sorted, edges: np.ndarray, slope: float, overhead: float) -> np.ndarray:
    """Boundaries [k + 1] of the best intervals; `edges`: where boundaries may stand."""
    gain, cells = _gain(ordered, slope, overhead), CELLS
    while edges.size > cells + 1:
        bounds = _optimum(grid(ordered.values, edges, cells), gain)
        if CELLS_PER_CENTROID * (bounds.size - 1) <= cells:
            return np.unique(refine(bounds, gain, NEARBY))
        cells *= 2
    return _optimum(edges, gain)


def _within(bits: float, ordered: Sorted, edges: np.ndarray, overhead: float) -> np.ndarray:
    """The same at the smallest slope, of those tried, that needs no more bits per value."""
    n = ordered.values.size
    # At a slope of the variance one centroid is best, or nearly.
    best = np.asarray([0, n])
    variance = max(ordered.inertia(best, ordered.means(best, np.zeros(1))) / n, np.finfo(np.float64).tiny)
    low, high = float(-OCTAVES), 4.0
    while True:
        floor = low
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            bounds = _cluster(ordered, edges, variance * 2.0**middle, overhead)
            counts = np.diff(bounds)
            if counts @ np.log2(n / counts) <= bits * n:
                high, best = middle, bounds
            else:
                low = middle
        # Few clusters although all slopes kept to it: outliers make the variance, and the rest wants smaller slopes.
        if low > floor or best.size > min(CELLS, edges.size - 1) or floor <= DEEPEST:
            return best
        low, high = floor - OCTAVES, floor


def _gain(ordered: Sorted, slope: float, overhead: float) -> Gain:
    """What an interval takes off the inertia, less what its codes cost."""
    n = ordered.values.size

    def gain(low: np.ndarray, high: np.ndarray) -> np.ndarray:
        count = high - low
        bits = count * np.log2(n / np.maximum(count, 1)) + overhead * (count > 0)
        return ordered.explained(low, high) - slope * bits

    return gain


def _optimum(edges: np.ndarray, gain: Gain) -> np.ndarray:
    """The best of all `edges` as boundaries: `best[i]` is the most that the values before edge i give."""
    best, last = np.zeros(edges.size), np.zeros(edges.size, np.int64)
    for first in range(1, edges.size, ROWS):
        rows = np.arange(first, min(first + ROWS, edges.size))
        low, high = edges[: rows[-1]], edges[rows, None]
        gains = gain(np.minimum(low, high), high)
        for i, each in zip(rows.tolist(), gains, strict=True):
            total = best[:i] + each[:i]
            last[i] = total.argmax()
            best[i] = total[last[i]]
    chosen = [edges.size - 1]
    while chosen[-1]:
        chosen.append(int(last[chosen[-1]]))
    return edges[chosen[::-1]]


def _envelope(centroids: np.ndarray, prices: np.ndarray) -> np.ndarray:
    """Where the cheapest of ascending centroids changes, ascending; as a function of x, (x - c)^2 + price is x^2 plus a
    line, so these are the corners of a lower envelope of lines.
    """
    lines: list[int] = []
    corners: list[float] = []
    for j in range(centroids.size):
        corner = -np.inf
        while lines:
            i = lines[-1]
            rise = prices[j] - prices[i] + centroids[j] ** 2 - centroids[i] ** 2
            corner = rise / (2 * (centroids[j] - centroids[i]))
            if corner > corners[-1]:
                break
            lines.pop()
            corners.pop()
        lines.append(j)
        corners.append(corner if len(lines) > 1 else -np.inf)
    return np.asarray(corners[1:])


def _result(given: Scalars, ordered: Sorted, bounds: np.ndarray, steps: int) -> EntropyCoded:
    """What is returned for the intervals between `bounds` [k + 1]; one centroid, zero, if nothing has weight."""
    nothing = np.zeros(bounds.size - 1)
    centroids = (ordered.means(bounds, nothing) if ordered.values.size else nothing).astype(given.dtype)
    codes, counts, inertia = settle(given, ordered, ordered.values[bounds[1:-1] - 1], centroids)
    present = counts[counts > 0]
    # `jnp.asarray` of an array in NumPy compiles a program for each shape; to put it on the device needs none.
    return EntropyCoded(
        centroids=jax.device_put(centroids),
        codes=jax.device_put(codes),
        inertia=jnp.asarray(inertia),
        counts=jax.device_put(counts),
        bits=jnp.asarray(present @ np.log2(present.sum() / present), given.dtype),
        steps=jnp.asarray(steps, jnp.int32),
    )
