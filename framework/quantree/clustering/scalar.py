"""k-means for scalars, on the host in NumPy: sorted once, everything after that is prefix sums.

In one dimension a cluster is an interval of the sorted values, so the optimum is found by dynamic programming over
boundaries. The default lets boundaries stand only on a grid, then moves all of them together within ever narrower
windows, and ends with Lloyd's iterations. NumPy sorts a million values many times faster than XLA does on a CPU.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from quantree.clustering import checks
from quantree.clustering.result import KMeans
from quantree.errors import LeafError

CELLS = 512  # least number of grid cells; half are equally wide, half hold equally many distinct values
CELLS_PER_CENTROID = 4
WINDOW = 8  # places on either side of a boundary that are tried together with those of all others
ZOOM = 4  # how much narrower the windows become once nothing moves
ROUNDS = 60  # of moving boundaries, at most
ITERATIONS = 200  # of Lloyd, at most; a handful is usual


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
        grid of max(512, 4 k) cells, refined, then Lloyd's iterations (`steps`); memory grows with n + 1000 k.

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
        edges = _distinct(ordered.values)
        cells = max(CELLS, CELLS_PER_CENTROID * k)
        on_grid = not exact and edges.size > cells + 1
        bounds = _optimum(ordered, _grid(ordered.values, edges, cells) if on_grid else edges, k)
        if on_grid:
            bounds = _refine(ordered, bounds)
        centroids = _means(ordered, bounds, np.full(k, ordered.values[-1]))
        if on_grid:
            centroids, steps, converged = _lloyd(ordered, bounds, centroids)

    dtype = np.dtype(checks.floating("x", values[:1]).dtype)
    centroids = centroids.astype(dtype)
    positions = values.astype(np.float64)
    codes = np.searchsorted(_midpoints(centroids.astype(np.float64)), positions).astype(np.int32)
    codes[~real] = 0
    residuals = np.where(real, positions - centroids[codes], 0)
    with np.errstate(over="ignore"):  # beyond float32 the inertia is infinite
        inertia = (importance @ residuals**2).astype(dtype)
    return KMeans(
        centroids=jnp.asarray(centroids),
        codes=jnp.asarray(codes),
        inertia=jnp.asarray(inertia),
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
        values, mass = np.sort(values).astype(np.float64), np.ones(values.size)
    else:
        order = np.argsort(values)
        values, mass = values[order].astype(np.float64), weights[order] / weights.max()
    origin = float(np.mean(values))
    moments = mass * (values - origin)
    return Sorted(values, np.append(0, np.cumsum(mass)), np.append(0, np.cumsum(moments)), origin)


def _distinct(values: np.ndarray) -> np.ndarray:
    """Positions where a boundary may stand: between two distinct values, and 0 and n."""
    return np.concatenate([[0], np.flatnonzero(np.diff(values)) + 1, [values.size]])


def _grid(values: np.ndarray, edges: np.ndarray, cells: int) -> np.ndarray:
    """A choice of `edges` that leaves at most `cells` between them."""
    by_count = edges[np.linspace(0, edges.size - 1, cells // 2 + 1).astype(np.int64)]
    by_width = np.searchsorted(values, np.linspace(values[0], values[-1], cells - cells // 2 + 1))
    return np.union1d(by_count, by_width)


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
        total = best[j] + _gain(mass[ends] - mass[j], moment[ends] - moment[j])
        values[i] = np.maximum.reduceat(total, firsts)
        hits = np.flatnonzero(total == np.repeat(values[i], lengths))
        splits[i] = j[hits[np.searchsorted(hits, firsts)]]
        stride //= 2
    return values, splits


def _gain(mass: np.ndarray, moment: np.ndarray) -> np.ndarray:
    """What clusters of these masses and moments take off the inertia; nothing when empty."""
    return moment**2 / np.where(mass > 0, mass, 1)


def _refine(ordered: Sorted, bounds: np.ndarray) -> np.ndarray:
    """Moves all boundaries [k + 1] together to the best of the places around them, at ever finer spacing."""
    spread = 1.0
    for _ in range(ROUNDS):
        moved = _best_nearby(ordered, bounds, spread)
        if np.array_equal(moved, bounds):
            if spread * np.diff(bounds).max() <= WINDOW:
                break
            spread /= ZOOM
        bounds = moved
    return bounds


def _best_nearby(ordered: Sorted, bounds: np.ndarray, spread: float) -> np.ndarray:
    """The best boundaries, each within `spread` of the way to its neighbours, by dynamic programming."""
    steps = np.linspace(0, spread, WINDOW + 1)
    inner, widths = bounds[1:-1, None], np.diff(bounds)[:, None]
    before = inner - (widths[:-1] * steps[:0:-1]).astype(np.int64)
    after = inner + (widths[1:] * steps).astype(np.int64)
    places = np.pad(np.concatenate([before, after], axis=1), ((1, 1), (0, 0)))
    places[-1] = bounds[-1]
    low, high = places[:-1, :, None], places[1:, None, :]
    gains = _gain(ordered.mass[high] - ordered.mass[low], ordered.moment[high] - ordered.moment[low])
    gains[low > high] = -np.inf
    best, choices = np.zeros(places.shape[1]), []
    for gain in gains:
        total = best[:, None] + gain
        choices.append(total.argmax(axis=0))
        best = total.max(axis=0)
    chosen = [0]
    for choice in reversed(choices):
        chosen.append(int(choice[chosen[-1]]))
    return places[np.arange(places.shape[0]), chosen[::-1]]


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
