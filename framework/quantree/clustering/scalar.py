"""k-means for scalars, on the host in NumPy: sorted once, everything after that is prefix sums.

In one dimension a cluster is an interval of the sorted values, so the optimum is found by dynamic programming over
boundaries. The default lets boundaries stand only on a fine grid, which finds the right basin, and then runs Lloyd to
its fixed point on the values themselves. NumPy sorts a million values many times faster than XLA does on a CPU.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from quantree.clustering import checks
from quantree.clustering.result import KMeans
from quantree.errors import LeafError

CELLS = 1024  # least number of grid cells; half are equally wide, half hold equally many distinct values
CELLS_PER_CENTROID = 4
ITERATIONS = 200  # of Lloyd after the grid; a handful is usual


class Sorted(NamedTuple):
    """values [n] ascending; mass and moment [n + 1]: prefix sums of weight and of weight x (value - origin)."""

    values: np.ndarray
    mass: np.ndarray
    moment: np.ndarray
    origin: float


def kmeans_1d(x: Any, k: int, *, weights: Any = None, mask: Any = None, exact: bool = False) -> KMeans:
    """k-means of x [n], deterministic -> `KMeans` with centroids [k] ascending and codes [n].

    weights: importance of each value, [n], at least 0. mask: [n], False for values that take no part (code 0).
    exact: the global optimum, by dynamic programming over all distinct values: O(k n log n) time, 4 k n bytes, meant
        for up to some 100 000 values (Gronlund et al., arXiv 1701.07204). Otherwise the optimum over boundaries on a
        grid of max(1024, 4 k) cells, then Lloyd's iterations, counted by `steps`; memory grows with n alone.

    With k above the number of distinct values the greatest is repeated, with count 0. Without any value of weight the
    centroids are zeros. It runs on the host, so arguments must be concrete; computed in float64, the result is float32
    (float64 for float64 input where jax_enable_x64 is set).
    `LeafError` if x is empty or not 1-D, and for NaN, infinity or negative weights.
    """
    checks.codebook_size(k)
    values = np.asarray(x)
    if values.ndim != 1 or values.size == 0:
        raise LeafError(f"x has shape {values.shape}; expected [n] with at least one value")
    real = _per_value("mask", mask, values).astype(bool)
    importance = _per_value("weights", weights, values).astype(np.float64)
    checks.finite(real, x=values[:, None], weights=importance)
    checks.importances(importance)

    centroids, steps, converged = np.zeros(k), 0, True
    heavy = real & (importance > 0)
    if heavy.any():
        ordered = _sort(values[heavy], None if weights is None else importance[heavy])
        edges = _cells(ordered.values, None if exact else max(CELLS, CELLS_PER_CENTROID * k))
        bounds = _optimum(ordered, edges, k)
        centroids = _means(ordered, bounds, np.full(k, ordered.values[-1]))
        if not exact:
            centroids, steps, converged = _lloyd(ordered, bounds, centroids)

    dtype = np.dtype(checks.floating("x", values[:1]).dtype)
    centroids = centroids.astype(dtype)
    positions = values.astype(np.float64)
    codes = np.searchsorted(_midpoints(centroids.astype(np.float64)), positions).astype(np.int32)
    codes[~real] = 0
    residuals = np.where(real, positions - centroids[codes], 0)
    return KMeans(
        centroids=jnp.asarray(centroids),
        codes=jnp.asarray(codes),
        inertia=jnp.asarray(importance @ residuals**2, dtype),
        counts=jnp.asarray(np.bincount(codes[real], minlength=k), jnp.int32),
        steps=jnp.asarray(steps, jnp.int32),
        converged=jnp.asarray(converged),
        repaired=jnp.zeros((), jnp.int32),
    )


def _per_value(name: str, given: Any, values: np.ndarray) -> np.ndarray:
    array = np.ones(values.shape, bool) if given is None else np.asarray(given)
    if array.shape != values.shape:
        raise LeafError(f"{name} has shape {array.shape}; expected one entry per value, {values.shape}")
    return array


def _sort(values: np.ndarray, weights: np.ndarray | None) -> Sorted:
    if weights is None:
        values, weights = np.sort(values), np.ones(values.size)
    else:
        order = np.argsort(values)
        values, weights = values[order], weights[order] / weights.max()
    values = values.astype(np.float64)
    origin = float(np.mean(values))
    moments = weights * (values - origin)
    return Sorted(values, np.append(0, np.cumsum(weights)), np.append(0, np.cumsum(moments)), origin)


def _cells(values: np.ndarray, limit: int | None) -> np.ndarray:
    """Positions where a boundary may stand, 0 and n included: between any distinct values, or on a grid of `limit`."""
    distinct = np.concatenate([[0], np.flatnonzero(np.diff(values)) + 1, [values.size]])
    if limit is None or distinct.size <= limit + 1:
        return distinct
    by_count = distinct[np.linspace(0, distinct.size - 1, limit // 2 + 1).astype(np.int64)]
    by_width = np.searchsorted(values, np.linspace(values[0], values[-1], limit - limit // 2 + 1))
    return np.union1d(by_count, by_width)


def _optimum(ordered: Sorted, edges: np.ndarray, k: int) -> np.ndarray:
    """Boundaries [k + 1] of the best k intervals between `edges`; surplus intervals are empty and stand last.

    The inertia is a constant less the sum over clusters of moment^2 / mass; the latter is made largest. `best[i]` is the
    most that the first i cells give with the clusters so far.
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
        width = mass[ends] - mass[j]
        total = best[j] + (moment[ends] - moment[j]) ** 2 / np.where(width > 0, width, 1)
        values[i] = np.maximum.reduceat(total, firsts)
        hits = np.flatnonzero(total == np.repeat(values[i], lengths))
        splits[i] = j[hits[np.searchsorted(hits, firsts)]]
        stride //= 2
    return values, splits


def _lloyd(ordered: Sorted, bounds: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, int, bool]:
    """Lloyd's iterations until no value changes its cluster -> (centroids, iterations, whether that was reached)."""
    for step in range(ITERATIONS):
        inner = np.searchsorted(ordered.values, _midpoints(centroids), side="right")
        moved = np.concatenate([[0], inner, bounds[-1:]])
        if np.array_equal(moved, bounds):
            return centroids, step, True
        bounds, centroids = moved, _means(ordered, moved, centroids)
    return centroids, ITERATIONS, False


def _means(ordered: Sorted, bounds: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    """Weighted mean of each interval [k]; `otherwise` [k] where it is empty."""
    low, high = bounds[:-1], bounds[1:]
    full = high > low
    mass = np.where(full, ordered.mass[high] - ordered.mass[low], 1)
    means = ordered.origin + (ordered.moment[high] - ordered.moment[low]) / mass
    # Rounding must not push a mean out of its interval: a cluster of equal values is that value.
    within = np.clip(means, ordered.values[np.minimum(low, bounds[-1] - 1)], ordered.values[high - 1])
    return np.where(full, within, otherwise)


def _midpoints(centroids: np.ndarray) -> np.ndarray:
    return (centroids[1:] + centroids[:-1]) / 2
