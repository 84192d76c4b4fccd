"""Scalars in order: in one dimension a cluster is an interval of the sorted values, and a sum over it a difference.

What `scalar` and `entropy` share. Everything runs on the host in NumPy, sums in float64: NumPy sorts a million values
many times faster than XLA does on a CPU. Long arrays go by in pieces that stay in the cache, on all cores; where the
pieces lie depends on the length alone, so results don't depend on how many cores there are.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np

from quantree.clustering import checks
from quantree.clustering.lookup import just_below, look_up
from quantree.clustering.threads import side_by_side
from quantree.errors import LeafError

PIECE = 1 << 16  # values that are treated at once
WORTH_THREADS = 4  # pieces
LARGEST = 1e140  # of float64 input; sums of squares of more would overflow

WINDOW = 8  # places on either side of a boundary that are tried together with those of all others
ZOOM = 4  # how much narrower the windows become once nothing moves
ROUNDS = 60  # of moving boundaries, at most

T = TypeVar("T")
Gain = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""What intervals of the sorted values, from positions `low` to before `high`, take off the cost."""


class Scalars(NamedTuple):
    """values [n] of a caller, float32 or float64; real [n]: which take part, None for all; weights [n] float64, None
    where all are 1; dtype: that of a result.
    """

    values: np.ndarray
    real: np.ndarray | None
    weights: np.ndarray | None
    dtype: np.dtype

    def sort(self) -> "Sorted":
        """Those that move a centroid, in order."""
        heavy = self.real
        if self.weights is not None:
            heavy = (self.weights > 0) if heavy is None else heavy & (self.weights > 0)
        everything = heavy is None or bool(heavy.all())
        return _sort(
            self.values if everything else self.values[heavy],
            self.weights if everything or self.weights is None else self.weights[heavy],
        )

    def codes(self, cuts: np.ndarray) -> np.ndarray:
        """How many of the ascending cuts lie below each value, [n] int32; 0 for values that take no part."""
        codes, look = np.empty(self.values.size, np.int32), look_up(cuts, self.values.dtype, self.values.size)

        def piece(place: slice) -> None:
            look(self.values[place], codes[place])
            if self.real is not None:
                codes[place] *= self.real[place]

        in_pieces(piece, codes.size)
        return codes


class Sorted(NamedTuple):
    """What moves a centroid, in order.

    values [n] ascending; weights [n], divided by `unit`, None where all are 1; mass and moment [n + 1]: prefix sums of
    weight and of weight x (value - origin).
    """

    values: np.ndarray
    weights: np.ndarray | None
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

    def bounds(self, cuts: np.ndarray) -> np.ndarray:
        """Positions [k + 1] between which the values lie that have the same number of cuts [k - 1] below them."""
        inner = np.searchsorted(self.values, just_below(cuts, self.values.dtype), side="right")
        return np.concatenate([[0], inner, [self.values.size]])

    def saved(self, bounds: np.ndarray, centroids: np.ndarray) -> float:
        """What these centroids [k] take off the inertia about the origin; at the means it is the sum of `explained`."""
        shifts = centroids - self.origin
        return float(np.sum(shifts * (2 * np.diff(self.moment[bounds]) - shifts * np.diff(self.mass[bounds]))))

    def inertia(self, bounds: np.ndarray, centroids: np.ndarray) -> float:
        """Sum of weight x squared distance to the centroid [k] of the interval, from each value by itself: differences
        of prefix sums would lose the digits of tight clusters. In units of `unit`.
        """

        def piece(place: slice) -> float:
            lengths = np.diff(np.clip(bounds, place.start, place.stop))
            residuals = self.values[place] - np.repeat(centroids.astype(np.float64), lengths)
            if self.weights is None:
                return float(np.einsum("i,i->", residuals, residuals))
            return float(np.einsum("i,i,i->", self.weights[place], residuals, residuals))

        return math.fsum(in_pieces(piece, self.values.size))


def scalars(x: Any, weights: Any, mask: Any) -> Scalars:
    """Checked arguments of a caller; `LeafError` if x is empty or not 1-D, for NaN, infinity, negative weights, and for
    values whose squares float64 can't hold or that the dtype of the result can't.
    """
    checks.concrete("x", x)
    values = np.asarray(x)
    if values.ndim != 1 or values.size == 0:
        raise LeafError(f"x has shape {values.shape}; expected [n] with at least one value")
    dtype = np.dtype(checks.floating("x", values[:1]).dtype)
    values = values.astype(np.float32 if np.can_cast(values.dtype, np.float32) else np.float64, copy=False)
    real = None if mask is None else _per_value("mask", mask, values).astype(bool)
    checks.finite(real, x=values[:, None])
    importance = None
    if weights is not None:
        importance = _per_value("weights", weights, values).astype(np.float64)
        checks.importances(importance)
    if values.dtype != np.float32:
        reach, limit = float(np.max(np.abs(values), initial=0, where=True if real is None else real)), LARGEST
        if dtype == np.float32:
            limit = float(np.finfo(np.float32).max)
        if reach > limit:
            raise LeafError(f"x reaches {reach:g}; expected at most {limit:g} in size for a result in {dtype}")
    return Scalars(values, real, importance, dtype)


def in_pieces(work: Callable[[slice], T], n: int) -> list[T]:
    """What `work` gives for the pieces of n values, in order; many pieces are shared among the cores."""
    places = [slice(first, min(first + PIECE, n)) for first in range(0, n, PIECE)]
    if len(places) < WORTH_THREADS:
        return [work(place) for place in places]
    with side_by_side() as run:
        return list(run(work, places))


def settle(
    given: Scalars, ordered: Sorted, cuts: np.ndarray, centroids: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes [n] int32, counts [k] int32 and inertia [] where each value goes to the centroid [k] between its cuts.

    The inertia comes in the dtype of the result, infinite beyond it.
    """
    codes, bounds = given.codes(cuts), ordered.bounds(cuts)
    if ordered.values.size == codes.size:
        counts = np.diff(bounds)
    else:
        counts = np.bincount(codes if given.real is None else codes[given.real], minlength=centroids.size)
    with np.errstate(over="ignore"):
        inertia = np.asarray(ordered.inertia(bounds, centroids) * ordered.unit).astype(given.dtype)
    return codes, counts.astype(np.int32), inertia


def explained(mass: np.ndarray, moment: np.ndarray) -> np.ndarray:
    """What clusters of these masses and moments take off the inertia about the origin; nothing when empty."""
    return moment * moment / np.maximum(mass, np.finfo(np.float64).tiny)


def distinct(values: np.ndarray) -> np.ndarray:
    """Positions where a boundary may stand: between two distinct values, and 0 and n."""
    return np.concatenate([[0], np.flatnonzero(values[1:] != values[:-1]) + 1, [values.size]])


def grid(values: np.ndarray, edges: np.ndarray, cells: int) -> np.ndarray:
    """A choice of `edges` that leaves at most `cells` between them: half are equally wide, half hold equally many."""
    by_count = edges[np.linspace(0, edges.size - 1, cells // 2 + 1).astype(np.int64)]
    marks = np.linspace(float(values[0]), float(values[-1]), cells - cells // 2 + 1)
    by_width = np.searchsorted(values, marks.astype(values.dtype))
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
    array = np.asarray(given)
    if array.shape != values.shape:
        raise LeafError(f"{name} has shape {array.shape}; expected one entry per value, {values.shape}")
    return array


def _sort(values: np.ndarray, weights: np.ndarray | None) -> Sorted:
    unit = 1.0
    if weights is None:
        values, mass = np.sort(values), np.arange(values.size + 1, dtype=np.float64)
    else:
        order, unit = np.argsort(values), float(weights.max(initial=0)) or 1.0
        values, weights = values[order], weights[order] / unit
        mass = np.append(0, np.cumsum(weights))
    # Near most of the values, so that prefix sums stay small.
    origin = float(values[values.size // 2]) if values.size else 0.0
    moments = np.subtract(values, origin, dtype=np.float64)
    if weights is not None:
        moments *= weights
    moment = np.zeros(values.size + 1)
    np.cumsum(moments, out=moment[1:])
    return Sorted(values, weights, mass, moment, origin, unit)


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
