"""Assignment in which each centroid gets a given number of points, for codes that are all equally frequent.

It is a transport problem: n points to k places of known capacity. Its dual has one price per centroid: a point takes
the centroid with the least squared distance + price. First the prices are found roughly, by Sinkhorn's iterations at a
falling temperature (Cuturi 2013, arXiv 1306.0895; only the k prices are kept). Taking the cheapest centroid is then
optimal for the counts that result, whatever the prices. What is too much or too little moves along shortest paths
between centroids, which keeps that so (successive shortest paths, Busacker and Gowen 1960; a path's step from one
centroid to the next costs what the point costs that minds it least). So the end is an optimum to rounding in float64,
and the prices that come with it prove it.
"""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from quantree.clustering import checks
from quantree.clustering.result import KMeans
from quantree.clustering.search import block_size, to_blocks
from quantree.errors import LeafError

NUMBERS = 1 << 20  # of a block of points against all centroids
HOT, COOLING, ROUNDS = 1.0, 0.55, 14  # temperatures, from the first in mean squared distances to the nearest centroid
SETTLE = 2  # rounds at each temperature
ROUNDING = 1e-12  # of the largest squared distance: costs that differ by less are equal


class Balanced(NamedTuple):
    """Result of a balanced assignment.

    codes: [n] int32; 0 for masked points. cost: [], the sum of squared distances, float32 (float64 for float64 input).
    counts: [k] int32, equal to the capacities. prices: [k], at least 0, under which the centroid of each point is its
    cheapest by squared distance + price: the proof that no assignment with these counts costs less.
    """

    codes: jax.Array
    cost: jax.Array
    counts: jax.Array
    prices: jax.Array


def balanced_assign(
    x: ArrayLike, centroids: ArrayLike, *, capacities: ArrayLike | None = None, mask: ArrayLike | None = None
) -> Balanced:
    """The assignment of least squared distance that gives each centroid exactly as many points as it should have.

    x: points [n, d]. centroids: [k, d]. mask: [n], False for points that take no part (code 0); they may hold anything.
    capacities: [k], whole numbers, at least 0, whose sum is the number of points; default: n / k, rounded up for the
        first n mod k centroids.

    Deterministic. It runs on the host, so arguments must be concrete. Memory beyond x: three copies of it in float64,
    twice 2^20 numbers for a block of points, 3 k^2 numbers; nothing grows with n x k. Time: 28 passes over n x k
    distances for the prices, then for each of the few points that are left over a look at the points of the centroids
    that it passes.
    `LeafError` for wrong shapes and capacities, and for NaN or infinity.
    """
    points, places, real = _checked(x, centroids, mask)
    wanted = _capacities(capacities, len(places), int(real.sum()))
    units = _Units.of(points[real], places)
    prices = _prices(units.x, units.centroids, wanted, np.zeros(len(places)), 0)
    codes, prices = _exact(units.x, units.centroids, wanted, prices)
    return _balanced(points, places, real, codes, wanted, prices * units.unit * units.unit)


def balanced_kmeans(
    x: ArrayLike,
    centroids: ArrayLike,
    *,
    capacities: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    iterations: int = 25,
    tolerance: float = 1e-4,
) -> KMeans:
    """k-means in which each cluster has the size that it should have: balanced assignments and means by turns.

    centroids: where they start, as `kmeans` gives them. iterations: the most that are done; 0 only assigns to the
    start. tolerance: ends when an iteration lowers the inertia by no more than this share of it. All else, memory and
    errors as in `balanced_assign`. The inertia never rises, because assignment and means are both the best for the
    other. Codes are those of the balanced assignment, not of the nearest centroids. A centroid of capacity 0 stays.
    """
    checks.whole("iterations", iterations, 0)
    if not tolerance >= 0:
        raise LeafError(f"tolerance is {tolerance!r}; expected at least 0")
    points, places, real = _checked(x, centroids, mask)
    wanted = _capacities(capacities, len(places), int(real.sum()))
    units = _Units.of(points[real], places)
    here, now = units.x, units.centroids
    codes, prices = _exact(here, now, wanted, _prices(here, now, wanted, np.zeros(len(now)), 0))
    inertia, steps, converged = _cost(here, now, codes), 0, False
    history = [inertia]
    while steps < iterations and not converged:
        means = _means(here, codes, now)
        # The prices have hardly changed: the coolest rounds are enough.
        new, prices = _exact(here, means, wanted, _prices(here, means, wanted, prices, ROUNDS - 4))
        after = _cost(here, means, new)
        # Rounding may turn the last steps around.
        converged = inertia - after <= tolerance * inertia
        if after <= inertia:
            codes, now, inertia = new, means, after
        history.append(inertia)
        steps += 1
    found = _balanced(points, now * units.unit + units.origin, real, codes, wanted, prices)
    history += [inertia] * (iterations + 1 - len(history))
    return KMeans(
        centroids=jnp.asarray(now * units.unit + units.origin, points.dtype),
        codes=found.codes,
        inertia=found.cost,
        counts=found.counts,
        steps=jnp.asarray(steps, jnp.int32),
        converged=jnp.asarray(converged),
        repaired=jnp.zeros((), jnp.int32),
        history=jnp.asarray(np.asarray(history) * units.unit**2, points.dtype),
    )


def _checked(x: ArrayLike, centroids: ArrayLike, mask: ArrayLike | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points, centroids and which points are real, on the host."""
    checks.concrete("x", x)
    points, places = checks.points("x", x), checks.points("centroids", centroids)
    if points.ndim != 2 or places.ndim != 2 or points.shape[1] != places.shape[1]:
        raise LeafError(f"x has shape {points.shape}, centroids {places.shape}; expected [n, d] and [k, d]")
    real = jnp.ones(points.shape[:1], bool) if mask is None else checks.per_point("mask", mask, points).astype(bool)
    checks.finite(real, x=points, centroids=places)
    return np.asarray(points), np.asarray(places), np.asarray(real)


def _capacities(capacities: ArrayLike | None, k: int, n: int) -> np.ndarray:
    """[k] int64, with sum n."""
    if capacities is None:
        return n // k + (np.arange(k) < n % k)
    given = np.asarray(capacities)
    if given.shape != (k,) or not (given >= 0).all() or (given != np.floor(given)).any() or given.sum() != n:
        raise LeafError(
            f"capacities of shape {given.shape} have sum {given.sum()}; expected {k} whole numbers, at least 0, with "
            f"sum {n}, the number of points"
        )
    return given.astype(np.int64)


class _Units(NamedTuple):
    """Points and centroids in float64, in units in which squares don't under- or overflow."""

    x: np.ndarray
    centroids: np.ndarray
    origin: np.ndarray
    unit: float

    @classmethod
    def of(cls, x: np.ndarray, centroids: np.ndarray) -> "_Units":
        wide, places = x.astype(np.float64), centroids.astype(np.float64)
        origin = places.mean(axis=0)
        unit = max(np.abs(wide - origin).max(initial=0), np.abs(places - origin).max(initial=0)) or 1.0
        return cls((wide - origin) / unit, (places - origin) / unit, origin, float(unit))


def _prices(x: np.ndarray, centroids: np.ndarray, wanted: np.ndarray, start: np.ndarray, first: int) -> np.ndarray:
    """Prices [k] under which the counts are near `wanted`; from `start`, without the first rounds of cooling."""
    if not len(x):
        return start
    size = min(block_size(1, len(x)), max(1, NUMBERS // len(centroids)))
    blocks, part = to_blocks(jnp.asarray(x, jnp.float32), size), jnp.ones((len(x), 1), jnp.float32)
    arrays = blocks, to_blocks(part, size)[:, 0], *(jnp.asarray(each, jnp.float32) for each in (centroids, wanted))
    return np.asarray(_sinkhorn(*arrays, jnp.asarray(start, jnp.float32), jnp.asarray(first, jnp.int32)), np.float64)


@jax.jit
def _sinkhorn(
    x: jax.Array, part: jax.Array, centroids: jax.Array, wanted: jax.Array, start: jax.Array, first: jax.Array
) -> jax.Array:
    """X [blocks, d, size], part [blocks, size]: 1 for points, 0 for what fills the last block up."""

    def squares(block: jax.Array) -> jax.Array:
        return jnp.sum((centroids[:, :, None] - block[None]) ** 2, axis=1)

    def nearest(total: jax.Array, block: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        return total + jnp.sum(block[1] * jnp.min(squares(block[0]), axis=0)), None

    total = jax.lax.scan(nearest, jnp.zeros((), x.dtype), (x, part))[0]
    scale = jnp.maximum(total / jnp.sum(part), 1e-12)

    def cool(i: jax.Array, prices: jax.Array) -> jax.Array:
        heat = scale * HOT * COOLING ** (i // SETTLE).astype(x.dtype)

        def visit(masses: jax.Array, block: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
            shares = jax.nn.softmax(-(squares(block[0]) + prices[:, None]) / heat, axis=0)
            return masses + jnp.sum(shares * block[1][None], axis=1), None

        masses = jax.lax.scan(visit, jnp.zeros_like(prices), (x, part))[0]
        # Nobody would come for any finite price less, or should: such a step has an end.
        ratio = jnp.log(jnp.maximum(masses, 1e-6)) - jnp.log(jnp.maximum(wanted, 1e-6))
        prices = prices + heat * ratio
        return prices - jnp.min(prices)

    return jax.lax.fori_loop(first * SETTLE, jnp.asarray(ROUNDS * SETTLE, first.dtype), cool, start)


def _exact(
    x: np.ndarray, centroids: np.ndarray, wanted: np.ndarray, prices: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Codes [n] with exactly the counts that are wanted, from prices near the best; and the best prices."""
    codes = np.zeros(len(x), np.int64)
    largest = 0.0
    for rows in _rows(np.arange(len(x)), len(centroids)):
        squares = _squares(x[rows], centroids)
        codes[rows] = np.argmin(squares + prices, axis=1)
        largest = max(largest, float(squares.max()))
    paths = _Paths(x, centroids, codes, ROUNDING * max(largest, float(np.abs(prices).max(initial=0))))
    excess = np.bincount(codes, minlength=len(centroids)) - wanted
    while (excess > 0).any():
        path = paths.shortest(excess > 0, excess < 0)
        moved = paths.push(path, int(min(excess[path[0]], -excess[path[-1]])))
        excess[path[0]] -= moved
        excess[path[-1]] += moved
    return codes, paths.prices()


class _Paths:
    """Centroids as a graph. The step from j to l costs what the point of j costs that minds it least.

    steps: [k, k], that cost; infinite where j has no point. who: [k, k], that point.
    """

    def __init__(self, x: np.ndarray, centroids: np.ndarray, codes: np.ndarray, rounding: float) -> None:
        self.x, self.centroids, self.codes, self.rounding = x, centroids, codes, rounding
        k = len(centroids)
        self.steps, self.who = np.full((k, k), np.inf), np.zeros((k, k), np.int64)
        for j in range(k):
            self._look(j, np.arange(k))

    def _changes(self, members: np.ndarray, j: int, to: np.ndarray) -> np.ndarray:
        """[members, to]: what it costs to move each from j."""
        own = np.sum((self.x[members] - self.centroids[j]) ** 2, axis=1)
        return _squares(self.x[members], self.centroids[to]) - own[:, None]

    def _look(self, j: int, to: np.ndarray) -> None:
        """Finds the steps from j to some others anew."""
        self.steps[j, to] = np.inf
        for members in _rows(np.flatnonzero(self.codes == j), len(to)):
            changes = self._changes(members, j, to)
            least = changes.argmin(axis=0)
            found = changes[least, np.arange(len(to))]
            better = found < self.steps[j, to]
            self.steps[j, to[better]], self.who[j, to[better]] = found[better], members[least[better]]
        self.steps[j, j] = np.inf

    def shortest(self, sources: np.ndarray, targets: np.ndarray) -> list[int]:
        """The cheapest path from any source to any target (Bellman-Ford). No cycle is cheaper than nothing."""
        length, before = self._lengths(np.where(sources, 0.0, np.inf))
        path = [int(np.argmin(np.where(targets, length, np.inf)))]
        while before[path[0]] >= 0:
            path.insert(0, int(before[path[0]]))
            assert len(path) <= len(before), (
                "a cycle is cheaper than nothing: the codes were not the best for any prices"
            )
        return path

    def _lengths(self, length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        before = np.full(len(length), -1)
        for _ in range(len(length)):
            through = length[:, None] + self.steps
            best = through.argmin(axis=0)
            found = through[best, np.arange(len(length))]
            better = found < length - self.rounding
            if not better.any():
                break
            length, before = np.where(better, found, length), np.where(better, best, before)
        return length, before

    def push(self, path: list[int], most: int) -> int:
        """Moves points along a path: one for each step, or several that cost the same. Returns how many."""
        edges = list(itertools.pairwise(path))
        willing = [self._willing(j, to, most) for j, to in edges]
        count = min(map(len, willing))
        for (_, to), members in zip(edges, willing, strict=True):
            self.codes[members[:count]] = to
        for (j, to), members in zip(edges, willing, strict=True):
            moved = members[:count]
            self._look(j, np.flatnonzero(np.isin(self.who[j], moved)))
            for rows in _rows(moved, len(self.centroids)):
                changes = self._changes(rows, to, np.arange(len(self.centroids)))
                least = changes.argmin(axis=0)
                found = changes[least, np.arange(len(least))]
                better = found < self.steps[to]
                self.steps[to, better], self.who[to, better] = found[better], rows[least[better]]
                self.steps[to, to] = np.inf
        return count

    def _willing(self, j: int, to: int, most: int) -> np.ndarray:
        """Points of j that go to another for the same cost, `most` at most."""
        members = np.flatnonzero(self.codes == j)
        changes = self._changes(members, j, np.array([to]))[:, 0]
        return members[changes <= changes.min() + self.rounding][:most]

    def prices(self) -> np.ndarray:
        """[k], at least 0, under which no point would rather be elsewhere."""
        length, _ = self._lengths(np.zeros(len(self.centroids)))
        return length.max() - length


def _rows(members: np.ndarray, columns: int) -> Iterator[np.ndarray]:
    """Members, as many at once as `NUMBERS` allows."""
    size = max(1, NUMBERS // max(1, columns))
    return (members[i : i + size] for i in range(0, len(members), size))


def _squares(x: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Squared distances [n, k], by differences: nothing cancels."""
    found = np.zeros((len(x), len(centroids)))
    for column, row in zip(x.T, centroids.T, strict=True):
        found += (column[:, None] - row[None]) ** 2
    return found


def _cost(x: np.ndarray, centroids: np.ndarray, codes: np.ndarray) -> float:
    return float(np.sum((x - centroids[codes]) ** 2))


def _means(x: np.ndarray, codes: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Means of the clusters; a centroid without points stays."""
    counts = np.bincount(codes, minlength=len(centroids))[:, None]
    sums = np.stack([np.bincount(codes, column, len(centroids)) for column in x.T], axis=1)
    return np.where(counts > 0, sums / np.maximum(counts, 1), centroids)


def _balanced(
    x: np.ndarray, centroids: np.ndarray, real: np.ndarray, codes: np.ndarray, counts: np.ndarray, prices: np.ndarray
) -> Balanced:
    """The result, in the units and the dtype of the caller."""
    whole = np.zeros(len(x), np.int32)
    whole[real] = codes
    cost = _cost(x[real].astype(np.float64), centroids.astype(np.float64), codes)
    return Balanced(
        codes=jnp.asarray(whole),
        cost=jnp.asarray(cost, x.dtype),
        counts=jnp.asarray(counts, jnp.int32),
        prices=jnp.asarray(prices, x.dtype),
    )
