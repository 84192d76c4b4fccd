"""k-means for scalars, on the host in NumPy: sorted once, everything after that is prefix sums.

In one dimension a cluster is an interval of the sorted values, so the optimum is found by dynamic programming over
boundaries. The default lets boundaries stand only on a grid, then moves all of them together within ever narrower
windows, and ends with Lloyd's iterations. NumPy sorts a million values many times faster than XLA does on a CPU.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from quantree.clustering import checks
from quantree.clustering.intervals import Sorted, distinct, explained, grid, midpoints, refine, scalars, settle
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
    `LeafError` if x is empty or not 1-D, for NaN, infinity or negative weights, and for values above 1e140 or beyond
    the dtype of the result.
    """
    checks.codebook_size(k)
    given = scalars(x, weights, mask)
    ordered = given.sort()
    centroids, saved, converged = np.zeros(k), np.zeros(1), True
    if ordered.values.size:
        edges = distinct(ordered.values)
        cells = max(CELLS, CELLS_PER_CENTROID * k)
        on_grid = not exact and edges.size > cells + 1
        bounds = _optimum(ordered, grid(ordered.values, edges, cells) if on_grid else edges, k)
        if on_grid:
            bounds = refine(bounds, ordered.explained)
        centroids = ordered.means(bounds, np.full(k, ordered.values[-1], np.float64))
        if on_grid:
            centroids, saved, converged = _lloyd(ordered, bounds, centroids)

    steps, most = saved.size - 1, 0 if exact else ITERATIONS
    centroids = centroids.astype(given.dtype)
    codes, counts, inertia = settle(given, ordered, midpoints(centroids.astype(np.float64)), centroids)
    with np.errstate(over="ignore"):
        falls = (ordered.unit * (saved[-1] - saved)).astype(given.dtype)
    history = inertia + np.pad(falls, (0, most - steps))
    return KMeans(
        centroids=jnp.asarray(centroids),
        codes=jnp.asarray(codes),
        inertia=jnp.asarray(inertia),
        counts=jnp.asarray(counts),
        steps=jnp.asarray(steps, jnp.int32),
        converged=jnp.asarray(converged),
        repaired=jnp.zeros((), jnp.int32),
        history=jnp.asarray(history),
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
    best = explained(mass, moment)
    splits = [np.zeros(cells + 1, np.int32)]
    for _ in range(k - 2):
        best, split = _add_cluster(best, mass, moment, splits[-1])
        splits.append(split)
    # Of the last cluster only one end is asked for, the end of all.
    bounds = [cells]
    if k > 1:
        bounds.append(int(np.argmax(best + explained(mass[-1] - mass, moment[-1] - moment))))
    for split in reversed(splits[1:]):
        bounds.append(int(split[bounds[-1]]))
    return edges[[0, *bounds[::-1]]]


def _add_cluster(
    best: np.ndarray, mass: np.ndarray, moment: np.ndarray, before: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """One more cluster: max over j <= i of best[j] + gain(j, i), for all i -> (values, leftmost j), both [cells + 1].

    The best j rises with i, and it is no less than `before`, the best j with one cluster fewer. So a few i, evenly
    spread, are searched from there on, then those halfway between them, each only between the answers of its
    neighbours, and so on; all i of one level at once. A level looks at no more than some 2 (cells + 1) pairs.
    """
    size = best.size
    values, splits = np.empty(size), np.zeros(size, np.int32)
    stride = 1 << int(np.mean(np.arange(size) - before) / 2).bit_length()
    i = np.arange(stride - 1, size, stride)
    low, high = before[i], i
    while True:
        lengths = high - low + 1
        firsts = np.cumsum(lengths) - lengths
        j = np.arange(lengths.sum()) + np.repeat(low - firsts, lengths)
        total = best[j] + explained(np.repeat(mass[i], lengths) - mass[j], np.repeat(moment[i], lengths) - moment[j])
        values[i] = np.maximum.reduceat(total, firsts)
        hits = np.flatnonzero(total == np.repeat(values[i], lengths))
        splits[i] = j[hits[np.searchsorted(hits, firsts)]]
        if stride == 1:
            return values, splits
        stride //= 2
        i = np.arange(stride - 1, size, 2 * stride)
        low = np.maximum(before[i], np.where(i >= stride, splits[i - stride], 0))
        high = np.where(i + stride < size, np.minimum(splits[np.minimum(i + stride, size - 1)], i), i)
        # Where several j are equally good, rounding decides, and may do so against the order.
        high = np.maximum(low, high)


def _lloyd(ordered: Sorted, bounds: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
    """Lloyd's iterations until no value changes its cluster.

    -> (centroids [k], what each value's nearest centroid saves of the inertia about the origin, at the start and after
    each iteration, [steps + 1], and whether it ended before the limit).
    """
    saved = []
    while True:
        moved = ordered.bounds(midpoints(centroids))
        saved.append(ordered.saved(moved, centroids))
        converged = np.array_equal(moved, bounds)
        if converged or len(saved) > ITERATIONS:
            return centroids, np.asarray(saved), converged
        bounds, centroids = moved, ordered.means(moved, centroids)
