"""Scalars in order: in one dimension a cluster is an interval of the sorted values, and a sum over it a difference.

What `scalar` and `entropy` share. Everything runs on the host in NumPy, in float64: NumPy sorts a million values many
times faster than XLA does on a CPU.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from quantree.clustering import checks
from quantree.errors import LeafError

WINDOW = 8  # places on either side of a boundary that are tried together with those of all others
ZOOM = 4  # how much narrower the windows become once nothing moves
ROUNDS = 60  # of moving boundaries, at most

Gain = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""What intervals of the sorted values, from positions `low` to before `high`, take off the cost."""


class Scalars(NamedTuple):
    """values [n] of a caller; real [n]: which take part; weights [n] float64; plain: whether all weights are 1."""

    values: np.ndarray
    real: np.ndarray
    weights: np.ndarray
    plain: bool

    @property
    def heavy(self) -> np.ndarray:
        """Which values move a centroid."""
        return self.real & (self.weights > 0)

    def inertia(self, centroids: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Sum of weight x squared distance to the centroid, in the width of the centroids; infinite beyond it."""
        residuals = np.where(self.real, self.values.astype(np.float64) - centroids[codes], 0)
        with np.errstate(over="ignore"):
            return (self.weights @ residuals**2).astype(centroids.dtype)

    def sort(self) -> "Sorted":
        """Those that move a centroid, in order."""
        return _sort(self.values[self.heavy], None if self.plain else self.weights[self.heavy])


class Sorted(NamedTuple):
    """values [n] ascending; mass and moment [n + 1]: prefix sums of weight and of weight x (value - origin). unit: what
    the weights were divided by.
    """

    values: np.ndarray
    mass: np.ndarray
    moment: np.ndarray
    origin: float
    unit: float

    def explained(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """See `explained`; of the intervals from positions `low` to before `high`."""
        return explained(self.mass[high] - self.mass[low], self.moment[high] - self.moment[low])

    def means(self, bounds: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
        """Weighted mean of each interval [k]; `otherwise` [k] where it is empty."""
        low, high = bounds[:-1], bounds[1:]
        full = high > low
        mass = np.where(full, self.mass[high] - self.mass[low], 1)
        means = self.origin + (self.moment[high] - self.moment[low]) / mass
        # Rounding must not push a mean out of its interval: a cluster of equal values is that value.
        within = np.clip(means, self.values[np.minimum(low, bounds[-1] - 1)], self.values[high - 1])
        return np.where(full, within, otherwise)


def scalars(x: Any, weights: Any, mask: Any) -> Scalars:
    """Checked arguments of a caller; `LeafError` if x is empty or not 1-D, and for NaN, infinity, negative weights."""
    values = np.asarray(x)
    if values.ndim != 1 or values.size == 0:
        raise LeafError(f"x has shape {values.shape}; expected [n] with at least one value")
    real = _per_value("mask", mask, values).astype(bool)
    importance = _per_value("weights", weights, values).astype(np.float64)
    checks.finite(real, x=values[:, None], weights=importance)
    checks.importances(importance)
    return Scalars(values, real, importance, weights is None)


def explained(mass: np.ndarray, moment: np.ndarray) -> np.ndarray:
    """What clusters of these masses and moments take off the inertia about the origin; nothing when empty."""
    return moment**2 / np.where(mass > 0, mass, 1)


def distinct(values: np.ndarray) -> np.ndarray:
    """Positions where a boundary may stand: between two distinct values, and 0 and n."""
    return np.concatenate([[0], np.flatnonzero(np.diff(values)) + 1, [values.size]])


def grid(values: np.ndarray, edges: np.ndarray, cells: int) -> np.ndarray:
    """A choice of `edges` that leaves at most `cells` between them: half are equally wide, half hold equally many."""
    by_count = edges[np.linspace(0, edges.size - 1, cells // 2 + 1).astype(np.int64)]
    by_width = np.searchsorted(values, np.linspace(values[0], values[-1], cells - cells // 2 + 1))
    return np.union1d(by_count, by_width)


def refine(bounds: np.ndarray, gain: Gain, spread: float = 1.0) -> np.ndarray:
    """Moves all boundaries [k + 1] together to the best of the places around them, at ever finer spacing.

    spread: how far, at first, as a share of the way to the neighbours.
    """
    for _ in range(ROUNDS):
        moved = _best_nearby(bounds, spread, gain)
        if np.array_equal(moved, bounds):
            if spread * np.diff(bounds).max() <= WINDOW:
                break
            spread /= ZOOM
        bounds = moved
    return bounds


def midpoints(centroids: np.ndarray) -> np.ndarray:
    """Where the nearest of ascending centroids changes, [k - 1]."""
    return (centroids[1:] + centroids[:-1]) / 2


def _per_value(name: str, given: Any, values: np.ndarray) -> np.ndarray:
    array = np.ones(values.shape, bool) if given is None else np.asarray(given)
    if array.shape != values.shape:
        raise LeafError(f"{name} has shape {array.shape}; expected one entry per value, {values.shape}")
    return array


def _sort(values: np.ndarray, weights: np.ndarray | None) -> Sorted:
    if weights is None:
        values, mass, unit = np.sort(values).astype(np.float64), np.ones(values.size), 1.0
    else:
        order, unit = np.argsort(values), float(weights.max())
        values, mass = values[order].astype(np.float64), weights[order] / unit
    origin = float(np.mean(values))
    moments = mass * (values - origin)
    return Sorted(values, np.append(0, np.cumsum(mass)), np.append(0, np.cumsum(moments)), origin, unit)


def _best_nearby(bounds: np.ndarray, spread: float, gain: Gain) -> np.ndarray:
    """The best boundaries, each within `spread` of the way to its neighbours, by dynamic programming."""
    steps = np.linspace(0, spread, WINDOW + 1)
    inner, widths = bounds[1:-1, None], np.diff(bounds)[:, None]
    before = inner - (widths[:-1] * steps[:0:-1]).astype(np.int64)
    after = inner + (widths[1:] * steps).astype(np.int64)
    places = np.pad(np.concatenate([before, after], axis=1), ((1, 1), (0, 0)))
    places[-1] = bounds[-1]
    low, high = places[:-1, :, None], places[1:, None, :]
    gains = np.where(low > high, -np.inf, gain(low, np.maximum(low, high)))
    best, choices = np.zeros(places.shape[1]), []
    for each in gains:
        total = best[:, None] + each
        choices.append(total.argmax(axis=0))
        best = total.max(axis=0)
    chosen = [0]
    for choice in reversed(choices):
        chosen.append(int(choice[chosen[-1]]))
    return places[np.arange(places.shape[0]), chosen[::-1]]
