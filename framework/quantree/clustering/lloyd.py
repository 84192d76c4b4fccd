"""Lloyd's iterations, blocks of points at a time.

Everything is computed from the residuals x - c: the inertia without cancellation, and the new centroid as the old one
plus the mean residual of its cluster, which is exact to the last digits once a centroid has settled. What an iteration
needs to know of the points is a sum (`Sums`) or a maximum (`Far`) over them; so they may lie in one array, on several
devices (`axis`), or in pieces that the host hands out (`pieces.py`).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from quantree.clustering.search import assign_batch

R = TypeVar("R")
Axis = str | tuple[str, ...] | None
"""Names of the mapped axes over which points are split."""


class Points(NamedTuple):
    """x [.., blocks, d, size] and weights [.., blocks, size]; points that take no part have weight zero."""

    x: jax.Array
    weights: jax.Array


class Sums(NamedTuple):
    """Over the points of each cluster.

    inertia [.., k]: weight x squared distance; mass [.., k]: weight; pull [.., k, d]: weight x residual.
    """

    inertia: Any
    mass: Any
    pull: Any


class Far(NamedTuple):
    """The costliest point of each cluster: its cost [.., k], weight x squared distance, and point [.., k, d]."""

    cost: Any
    point: Any


class State(NamedTuple):
    """What an iteration hands to the next one, for b problems: codes [b, blocks, size], history [b, most + 1]."""

    centroids: jax.Array
    codes: jax.Array
    sums: Sums
    steps: jax.Array
    converged: jax.Array
    repaired: jax.Array
    history: jax.Array


def lloyd(
    points: Points,
    start: jax.Array,
    pinned: int,
    iterations: jax.Array,
    tolerance: jax.Array,
    *,
    most: int,
    axis: Axis = None,
) -> State:
    """Iterates b problems from `start` [b, k, d], whose first `pinned` centroids stay.

    A problem ends when its inertia drops by no more than `tolerance` of itself, or after `iterations`, at most `most`.
    The codes and sums that are returned belong to the centroids that are returned.
    """
    alone = start.shape[0] == 1

    def unfinished(state: State) -> jax.Array:
        return (state.steps < iterations) & ~state.converged

    def iterate(state: State) -> State:
        live = unfinished(state)
        centroids, moved = advance(points, state, pinned, live, axis)
        codes, sums = fit(points, centroids, axis)
        before, after = (jnp.sum(each.inertia, axis=1) for each in (state.sums, sums))
        settled = (before - after <= tolerance * before) & (moved == 0)
        later = jnp.arange(most + 1)[None, :] > state.steps[:, None]
        history = jnp.where(later, after[:, None], state.history)
        new = State(centroids, codes, sums, state.steps + 1, settled, state.repaired + moved, history)
        # A problem that is alone is live as long as anything is.
        return new if alone else jax.tree.map(functools.partial(_choose, live), new, state)

    begin = state(points, start, axis)
    history = jnp.broadcast_to(begin.history, (start.shape[0], most + 1))
    return jax.lax.while_loop(lambda state: jnp.any(unfinished(state)), iterate, begin._replace(history=history))


def state(points: Points, centroids: jax.Array, axis: Axis = None) -> State:
    """Where b problems stand that have done nothing yet."""
    codes, sums = fit(points, centroids, axis)
    zero = jnp.zeros(centroids.shape[:1], jnp.int32)
    return State(centroids, codes, sums, zero, zero > 0, zero, jnp.sum(sums.inertia, axis=1, keepdims=True))


def fit(points: Points, centroids: jax.Array, axis: Axis = None) -> tuple[jax.Array, Sums]:
    """Codes [b, blocks, size] and sums of b problems."""
    if jax.default_backend() == "cpu":  # where one problem after the other is as fast as many at once
        codes, sums = measure(points, centroids)
    else:
        codes, sums = _each(measure_one, points, centroids)
    return codes, sums if axis is None else jax.lax.psum(sums, axis)


def advance(
    points: Points, state: State, pinned: int, live: jax.Array, axis: Axis = None
) -> tuple[jax.Array, jax.Array]:
    """New centroids [b, k, d], and how many went to a far point [b]. Only problems that are `live` [b] are repaired."""
    centroids = jax.vmap(functools.partial(move, pinned=pinned))(state.centroids, state.sums)
    empty = jax.vmap(functools.partial(lost, pinned=pinned))(state.sums) & live[:, None]

    def repair() -> tuple[jax.Array, jax.Array]:
        far = _each(farthest, points, state.codes, state.centroids)
        return jax.vmap(relocate)(centroids, empty, far if axis is None else _over_devices(far, axis))

    return jax.lax.cond(jnp.any(empty), repair, lambda: (centroids, jnp.zeros(empty.shape[:1], jnp.int32)))


def measure(points: Points, centroids: jax.Array, used: jax.Array | None = None) -> tuple[jax.Array, Sums]:
    """Codes [b, blocks, size] and sums of b problems, one after the other; used []: how many blocks hold points."""
    (b, k, d), each = centroids.shape, points.x.shape[1]
    codes = assign_batch(points.x, centroids, used)
    tally = _one_by_one if jax.default_backend() == "cpu" else _scattered
    flat = jax.tree.map(lambda array: array.reshape(b * each, *array.shape[2:]), (points, codes))

    def visit(i: jax.Array, totals: jax.Array) -> jax.Array:
        # Sums of a block first, then the sum of blocks: rounding grows with the block's size, not with n.
        own, of = jax.tree.map(lambda array: array[i], flat)
        return totals.at[i // each].add(tally(own, of, centroids[i // each]))

    totals = jnp.zeros((b, k, d + 2), centroids.dtype)
    totals = jax.lax.fori_loop(0, b * each if used is None else used, visit, totals)
    return codes, Sums(totals[..., d + 1], totals[..., d], totals[..., :d])


def measure_one(points: Points, centroids: jax.Array, used: jax.Array | None = None) -> tuple[jax.Array, Sums]:
    """Codes [blocks, size] and sums of one problem."""
    codes, sums = measure(Points(*(each[None] for each in points)), centroids[None], used)
    return codes[0], Sums(*(each[0] for each in sums))


def move(centroids: jax.Array, sums: Sums, pinned: int) -> jax.Array:
    """Free centroids go to the mean of their points; those without points stay."""
    mass = jnp.where(sums.mass > 0, sums.mass, 1)
    free = jnp.arange(centroids.shape[0]) >= pinned
    return jnp.where(free[:, None], centroids + sums.pull / mass[:, None], centroids)


def lost(sums: Sums, pinned: int) -> jax.Array:
    """Which free centroids have no points, [k] bool."""
    return (sums.mass <= 0) & (jnp.arange(sums.mass.shape[0]) >= pinned)


def farthest(points: Points, codes: jax.Array, centroids: jax.Array) -> Far:
    """The costliest point of each cluster, the first of equals; cost zero where all lie on their centroid."""
    k, size = centroids.shape[0], points.x.shape[-1]

    def visit(far: Far, block: tuple[Points, jax.Array]) -> tuple[Far, None]:
        (x, weights), codes = block
        x = x.astype(centroids.dtype)
        costs = weights * jnp.sum((x - centroids[codes].T) ** 2, axis=0)
        highest = jnp.zeros((k,), costs.dtype).at[codes].max(costs)
        where = jnp.where(costs == highest[codes], jnp.arange(size, dtype=jnp.int32), size - 1)
        place = jnp.full((k,), size - 1, jnp.int32).at[codes].min(where)
        return _costlier(far, Far(highest, x.T[place])), None

    nothing = Far(jnp.zeros((k,), centroids.dtype), jnp.zeros_like(centroids))
    return jax.lax.scan(visit, nothing, (points, codes))[0]


def relocate(centroids: jax.Array, empty: jax.Array, far: Far) -> tuple[jax.Array, jax.Array]:
    """Moves centroids without points, `empty` [k], to far points -> (centroids, number moved).

    Each goes to the costliest point of another cluster, the costliest clusters first, so that no two meet. Where all
    points already lie on centroids nothing moves: with k above the number of distinct points, duplicates stay. Every
    iteration repairs each centroid at most once, so `iterations` bounds the whole. The inertia never rises by it.
    """
    donor = jnp.argsort(far.cost, descending=True)[jnp.maximum(jnp.cumsum(empty) - 1, 0)]
    moved = empty & (far.cost[donor] > 0)
    return jnp.where(moved[:, None], far.point[donor], centroids), jnp.sum(moved, dtype=jnp.int32)


def _one_by_one(points: Points, codes: jax.Array, centroids: jax.Array) -> jax.Array:
    """Pull, mass and inertia [k, d + 2] of one block; one loop on a core, the fastest that XLA has there."""
    rows = points.x.T

    def add(i: jax.Array, totals: jax.Array) -> jax.Array:
        code, weight = codes[i], points.weights[i]
        residual = rows[i].astype(centroids.dtype) - centroids[code]
        pull = weight * residual
        row = jnp.concatenate([pull, weight[None], jnp.sum(pull * residual)[None]])
        return totals.at[code].add(row, mode="promise_in_bounds")

    return jax.lax.fori_loop(0, rows.shape[0], add, jnp.zeros((centroids.shape[0], rows.shape[1] + 2), centroids.dtype))


def _scattered(points: Points, codes: jax.Array, centroids: jax.Array) -> jax.Array:
    """The same for devices that add many points at once."""
    residuals = points.x.astype(centroids.dtype) - centroids[codes].T
    pulls = points.weights[None, :] * residuals
    costs = jnp.sum(pulls * residuals, axis=0)
    rows = jnp.concatenate([pulls, points.weights[None, :], costs[None, :]]).T
    return jnp.zeros((centroids.shape[0], rows.shape[1]), rows.dtype).at[codes].add(rows)


def _each(function: Callable[..., R], *batched: Any) -> R:
    """`function` of every problem."""
    if batched[-1].shape[0] > 1:
        return jax.vmap(function)(*batched)
    # Loops that are not mapped stay simple.
    return jax.tree.map(lambda leaf: leaf[None], function(*jax.tree.map(lambda leaf: leaf[0], batched)))


def _choose(which: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    return jnp.where(which.reshape(-1, *[1] * (new.ndim - 1)), new, old)


def _costlier(one: Far, other: Far) -> Far:
    better = other.cost > one.cost
    return Far(jnp.where(better, other.cost, one.cost), jnp.where(better[:, None], other.point, one.point))


def _over_devices(far: Far, axis: Axis) -> Far:
    """The costliest points of all devices; of equals, that of the first device."""
    cost, own = jax.lax.pmax(far.cost, axis), jax.lax.axis_index(axis)
    first = jax.lax.pmin(jnp.where(far.cost == cost, own, jax.lax.axis_size(axis)), axis)
    return Far(cost, jax.lax.psum(jnp.where((first == own)[..., None], far.point, 0), axis))
