"""k-means for scalars, on the host in NumPy: sorted once, everything after that is prefix sums.

In one dimension a cluster is an interval of the sorted values, so the optimum is found by dynamic programming over
boundaries. The default lets boundaries stand only on a grid, then moves all of them together within ever narrower
windows, and ends with Lloyd's iterations. NumPy sorts a million values many times faster than XLA does on a CPU.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from quantree.clustering import checks
from quantree.clustering.intervals import Sorted, distinct, explained, grid, midpoints, refine, scalars
from quantree.clustering.result import KMeans

CELLS = 512  # least number of grid cells
CELLS_PER_CENTROID = 4
ITERATIONS = 200  # of Lloyd, at most; a handful is usual


def kmeans_1d(x: Any, k: int, *, weights: Any = None, mask: Any = None, exact: bool = False) -> KMeans:
    """k-means of x [n], deterministic -> `KMeans` with centroids [k] ascending and codes [n].

    weights: importance of each value, [n], at least 0. mask: [n], False for values that take no part (code 0).
    exact: the global optimum, by dynamic programming over all distinct values: O(k n log n) time, 4 k n bytes, meant
        for up to some 100 000 values (Gronlund et al., arXiv 1701.07204). Otherwise the optimum over boundaries on a
        grid of max(512, 4 k) cells, refined, then Lloyd's iterations (`steps`); memory grows with n + 1000 k.

    With k above the number of distinct values the greatest is repeated, with count 0. Without any value of weight the
    centroids are zeros. It runs on the host, so arguments must be concrete; computed in float64, the result is float32
    (float64 for float64 input where jax_enable_x64 is set).
    `LeafError` if x is empty or not 1-D, and for NaN, infinity or negative weights.
    """
    checks.codebook_size(k)
    given = scalars(x, weights, mask)
    values, real = given.values, given.real
    centroids, steps, converged = np.zeros(k), 0, True
    if given.heavy.any():
        ordered = given.sort()
        edges = distinct(ordered.values)
        cells = max(CELLS, CELLS_PER_CENTROID * k)
        on_grid = not exact and edges.size > cells + 1
        bounds = _optimum(ordered, grid(ordered.values, edges, cells) if on_grid else edges, k)
        if on_grid:
            bounds = refine(bounds, ordered.explained)
        centroids = ordered.means(bounds, np.full(k, ordered.values[-1]))
        if on_grid:
            centroids, steps, converged = _lloyd(ordered, bounds, centroids)

    dtype = np.dtype(checks.floating("x", values[:1]).dtype)
    centroids = centroids.astype(dtype)
    positions = values.astype(np.float64)
    codes = np.searchsorted(midpoints(centroids.astype(np.float64)), positions).astype(np.int32)
    codes[~real] = 0
    return KMeans(
        centroids=jnp.asarray(centroids),
        codes=jnp.asarray(codes),
        inertia=jnp.asarray(given.inertia(centroids, codes)),
        counts=jnp.asarray(np.bincount(codes[real], minlength=k), jnp.int32),
        steps=jnp.asarray(steps, jnp.int32),
        converged=jnp.asarray(converged),
        repaired=jnp.zeros((), jnp.int32),
    )


def _optimum(ordered: Sorted, edges: np.ndarray, k: int) -> np.ndarray:
    """Boundaries [k + 1] of the best k intervals between `edges`; surplus intervals are empty and stand last.

    The inertia is a constant less the sum over clusters of moment^2 / mass; the latter is made largest. `best[i]` is
    the most that the first i cells give with the clusters so far.
    """
    cells = edges.size - 1
    if cells <= k:
        return np.concatenate([edges, np.full(k - cells, edges[-1])])
    mass, moment = ordered.mass[edges], ordered.moment[edges]
    best = np.concatenate([[0], moment[1:] ** 2 / mass[1:]])
    splits = []
    for _ in range(k - 1):
        best, split = _add_cluster(best, mass, moment)
        splits.append(split)
    bounds = [cells]
    for split in reversed(splits):
        bounds.append(int(split[bounds[-1]]))
    return edges[[0, *bounds[::-1]]]


def _add_cluster(best: np.ndarray, mass: np.ndarray, moment: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One more cluster: max over j <= i of best[j] + gain(j, i), for all i -> (values, leftmost j), both [cells + 1].

    The best j rises with i, so each i is searched only between the answers of its neighbours: every second i first,
    then those between, all i of one level at once. A level looks at no more than 2 (cells + 1) pairs.
    """
    size = best.size
    values, splits = np.empty(size), np.zeros(size, np.int32)
    stride = 1 << (size.bit_length() - 1)
    while stride:
        i = np.arange(stride - 1, size, 2 * stride)
        low = np.where(i >= stride, splits[i - stride], 0)
        high = np.where(i + stride < size, np.minimum(splits[np.minimum(i + stride, size - 1)], i), i)
        lengths = high - low + 1
        firsts = np.cumsum(lengths) - lengths
        j = np.arange(lengths.sum()) + np.repeat(low - firsts, lengths)
        ends = np.repeat(i, lengths)
        total = best[j] + explained(mass[ends] - mass[j], moment[ends] - moment[j])
        values[i] = np.maximum.reduceat(total, firsts)
        hits = np.flatnonzero(total == np.repeat(values[i], lengths))
        splits[i] = j[hits[np.searchsorted(hits, firsts)]]
        stride //= 2
    return values, splits


def _lloyd(ordered: Sorted, bounds: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, int, bool]:
    """Lloyd's iterations until no value changes its cluster -> (centroids, iterations, whether that was reached)."""
    for step in range(ITERATIONS):
        inner = np.searchsorted(ordered.values, midpoints(centroids), side="right")
        moved = np.concatenate([[0], inner, bounds[-1:]])
        if np.array_equal(moved, bounds):
            return centroids, step, True
        bounds, centroids = moved, ordered.means(moved, centroids)
    return centroids, ITERATIONS, False
