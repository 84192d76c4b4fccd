"""Several codes for each point: the point is the sum of one centroid from each of m codebooks.

Residual quantization finds the codebooks one after the other, each on what the ones before it leave. Additive
quantization then improves all of them together: codes by beam search, centroids by least squares, by turns (Babenko and
Lempitsky, CVPR 2014; the beam search over codes that are there already is that of AQLM, arXiv 2401.06118).
"""

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from numpy.typing import ArrayLike

from quantree.clustering import checks
from quantree.clustering.problem import power_of_two
from quantree.clustering.search import BLOCK, SMALLEST_BLOCK
from quantree.clustering.vector import kmeans
from quantree.errors import LeafError

STARTS = ("best", "residual", "product")
RIDGE = 1e-6  # of the mean mass of a centroid; ties down what the codes leave open


class Additive(NamedTuple):
    """Result of residual or additive quantization; a pytree.

    centroids: [m, k, d] float32 (float64 for float64 input). codes: [n, m] int32; 0 for masked points. inertia: [], sum
    over points of weight x squared distance to the sum of their centroids. history: [rounds + 1], the inertia at the
    start and after each round; it never rises.
    """

    centroids: jax.Array
    codes: jax.Array
    inertia: jax.Array
    history: jax.Array

    def decode(self) -> jax.Array:
        """The sums that the codes stand for, [n, d]."""
        return _sums(self.centroids, self.codes)


def residual(
    x: ArrayLike,
    k: int,
    m: int,
    *,
    key: jax.Array,
    weights: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    iterations: int = 25,
    tolerance: float = 1e-4,
) -> Additive:
    """k-means on x [n, d], then on what is left of it, and so on: m codebooks of k centroids, deterministic for a key.

    weights, mask, iterations, tolerance, memory and errors as in `kmeans`.
    """
    points, importance, real, unit = _checked(x, m, weights, mask)
    settings = {"weights": importance, "mask": real, "iterations": iterations, "tolerance": tolerance}
    found = _residual(points, k, m, key, settings)
    inertia = _inertia(points, importance, *found) * unit**2
    return Additive(found[0] * unit, found[1], inertia, inertia[None])


def additive(
    x: ArrayLike,
    k: int,
    m: int,
    *,
    key: jax.Array,
    weights: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    iterations: int = 25,
    tolerance: float = 1e-4,
    start: Literal["best", "residual", "product"] = "best",
    rounds: int = 10,
    beam: int = 4,
) -> Additive:
    """Sums of m centroids for the points x [n, d], improved `rounds` times; deterministic for a key.

    m: codebooks, with k centroids each.
    start: by residual quantization; or by product quantization, in which each codebook has its own d / m coordinates to
        itself; or by the better of the two, where m divides d.
    weights: importance of each point, at least 0, [n]. mask: [n], False for points that take no part (code 0).
    iterations, tolerance: of the k-means that each codebook starts from.
    rounds: of beam search and least squares. beam: how many combinations of codes are kept for each point while its
        codes are changed one after the other.

    A round never raises the inertia: what a point has is among what it may choose, and the rest is least squares; it
    ends early where a round lowers it by no more than `tolerance` of itself. Memory beyond x and the result: (m k)^2
    numbers for the least squares, 4 beam k bytes for each point of a block, and that of `kmeans`.
    `LeafError` as in `kmeans`, and for m, rounds or beam out of range.
    """
    points, importance, real, unit = _checked(x, m, weights, mask)
    for name, value, least in (("rounds", rounds, 0), ("beam", beam, 1)):
        _whole(name, value, least)
    whole = points.shape[1] % m == 0
    if start not in STARTS or (start == "product" and not whole):
        reason = f"known: {', '.join(STARTS)}" if start not in STARTS else f"{m} does not divide d = {points.shape[1]}"
        raise LeafError(f"start is {start!r}; {reason}")
    settings = {"weights": importance, "mask": real, "iterations": iterations, "tolerance": tolerance}
    starts = []
    if start != "product":
        starts.append(_residual(points, k, m, key, settings))
    if start == "product" or (start == "best" and whole and m > 1):
        starts.append(_product(points, k, m, key, settings))
    best = min(starts, key=lambda found: float(_inertia(points, importance, *found)))
    history = [_inertia(points, importance, *best)]
    for _ in range(rounds):
        chosen = _choose(points, *best, beam=min(beam, k))
        centroids = _fit(points, importance, chosen, k=k)
        now = _inertia(points, importance, centroids, chosen)
        # Rounding may turn the last steps around.
        if not float(now) < float(history[-1]):
            break
        best, settled = (centroids, chosen), float(history[-1] - now) <= tolerance * float(history[-1])
        history.append(now)
        if settled:
            break
    history += [history[-1]] * (rounds + 1 - len(history))
    codes, losses = jnp.where(real[:, None], best[1], 0), jnp.stack(history) * unit**2
    return Additive(best[0] * unit, codes, losses[-1], losses)


def _checked(x: ArrayLike, m: int, weights: Any, mask: Any) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Points with zeros for those that are masked, in units of the last; their importance; which are real; the unit."""
    checks.concrete("x", x)
    points = checks.points("x", x)
    if points.ndim != 2:
        raise LeafError(f"x has shape {points.shape}; expected [n, d]")
    _whole("m", m, 1)
    real = jnp.ones(points.shape[:1], bool) if mask is None else checks.per_point("mask", mask, points).astype(bool)
    weight = jnp.ones(points.shape[:1]) if weights is None else checks.per_point("weights", weights, points)
    checks.finite(real, x=points)
    checks.importances(weight)
    points = jnp.where(real[:, None], points, 0)
    unit = power_of_two(jnp.max(jnp.abs(points)))
    return points / unit, jnp.where(real, weight, 0).astype(points.dtype), real, unit


def _whole(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < least:
        raise LeafError(f"{name} is {value!r}; expected a whole number, at least {least}")


def _residual(x: jax.Array, k: int, m: int, key: jax.Array, settings: Any) -> tuple[jax.Array, jax.Array]:
    books, codes = [], []
    for step in jax.random.split(key, m):
        found = kmeans(x, k, key=step, **settings)
        books.append(found.centroids)
        codes.append(found.codes)
        x = x - jnp.where(settings["mask"][:, None], found.centroids[found.codes], 0)
    return jnp.stack(books), jnp.stack(codes, axis=1)


def _product(x: jax.Array, k: int, m: int, key: jax.Array, settings: Any) -> tuple[jax.Array, jax.Array]:
    n, d = x.shape
    found = kmeans(x.reshape(n, m, d // m).transpose(1, 0, 2), k, key=key, **settings)
    places = jnp.arange(d).reshape(m, d // m)
    centroids = jnp.zeros((m, k, d), x.dtype)
    return jax.vmap(lambda c, at, own: c.at[:, at].set(own))(centroids, places, found.centroids), found.codes.T


def _sums(centroids: jax.Array, codes: jax.Array) -> jax.Array:
    return jnp.sum(jnp.take_along_axis(centroids, codes.T[..., None], axis=1), axis=0)


@jax.jit
def _inertia(x: jax.Array, weights: jax.Array, centroids: jax.Array, codes: jax.Array) -> jax.Array:
    return jnp.sum(weights * jnp.sum((x - _sums(centroids, codes)) ** 2, axis=1))


@functools.partial(jax.jit, static_argnames="k")
def _fit(x: jax.Array, weights: jax.Array, codes: jax.Array, *, k: int) -> jax.Array:
    """The centroids [m, k, d] of least squared error for these codes [n, m]."""
    m = codes.shape[1]
    places = codes + k * jnp.arange(m, dtype=codes.dtype)[None, :]
    # How often two centroids are used together, and the sum of the points that use one.
    rows = places[:, :, None] * (m * k) + places[:, None, :]
    shared = jnp.zeros((m * k) ** 2, x.dtype).at[rows].add(jnp.broadcast_to(weights[:, None, None], rows.shape))
    totals = jnp.zeros((m * k, x.shape[1]), x.dtype)
    totals = totals.at[places].add((weights[:, None] * x)[:, None, :].repeat(m, axis=1))
    ridge = RIDGE * jnp.sum(weights) / k
    normal = shared.reshape(m * k, m * k) + ridge * jnp.eye(m * k, dtype=x.dtype)
    return jax.scipy.linalg.solve(normal, totals, assume_a="pos").reshape(m, k, -1)


@functools.partial(jax.jit, static_argnames="beam")
def _choose(x: jax.Array, centroids: jax.Array, codes: jax.Array, *, beam: int) -> jax.Array:
    """Codes [n, m] that are at least as good: each code by turns becomes any other, for the best few combinations."""
    n = x.shape[0]
    size = max(1, min(n, max(SMALLEST_BLOCK, BLOCK // beam)))
    blocks = -(-n // size)
    padded = [jnp.pad(each, ((0, blocks * size - n), (0, 0))).reshape(blocks, size, -1) for each in (x, codes)]
    chosen = jax.lax.map(lambda block: _choose_block(block[0], centroids, block[1], beam), tuple(padded))
    return chosen.reshape(blocks * size, -1)[:n]


def _choose_block(x: jax.Array, centroids: jax.Array, codes: jax.Array, beam: int) -> jax.Array:
    m, k, _ = centroids.shape
    size = x.shape[0]
    norms = jnp.sum(centroids**2, axis=2)
    rows = jnp.arange(size)[:, None]

    def turn(state: tuple[jax.Array, jax.Array, jax.Array], j: jax.Array) -> tuple[Any, None]:
        codes, left, alive = state  # [size, beam, m], [size, beam, d]: x less the sum, [size, beam]
        without = left + centroids[j][codes[:, :, j]]
        products = jnp.einsum("sbd,kd->sbk", without, centroids[j], precision=jax.lax.Precision.HIGHEST)
        scores = jnp.sum(without**2, axis=2, keepdims=True) - 2 * products + norms[j][None, None, :]
        scores = jnp.where(alive[:, :, None], scores, jnp.inf).reshape(size, beam * k)
        least, place = jax.lax.top_k(-scores, beam)
        parent, new = jnp.divmod(place, k)
        codes = codes[rows, parent].at[:, :, j].set(new.astype(codes.dtype))
        # Combinations that differ in this code alone have the same children: only the first parent's count.
        same = jnp.all(codes[:, :, None, :] == codes[:, None, :, :], axis=3)
        earlier = jnp.tril(jnp.ones((beam, beam), bool), -1)
        fresh = ~jnp.any(same & earlier[None], axis=2)
        return (codes, without[rows, parent] - centroids[j][new], fresh & jnp.isfinite(least)), None

    start = jnp.broadcast_to(codes[:, None, :], (size, beam, m))
    left = x - _sums(centroids, codes)
    alive = jnp.broadcast_to(jnp.arange(beam) == 0, (size, beam))
    state = (start, jnp.broadcast_to(left[:, None, :], (size, beam, x.shape[1])), alive)
    (found, left, alive), _ = jax.lax.scan(turn, state, jnp.arange(m))
    costs = jnp.where(alive, jnp.sum(left**2, axis=2), jnp.inf)
    best = jnp.argmin(costs, axis=1)
    # Rounding must not make a point worse than it was.
    better = costs[rows[:, 0], best] < jnp.sum((x - _sums(centroids, codes)) ** 2, axis=1)
    return jnp.where(better[:, None], found[rows[:, 0], best], codes)
