"""Lloyd's iterations on one problem, blocks of points at a time.

Everything is computed from the residuals x - c: the inertia without cancellation, and the new centroid as the old one
plus the mean residual of its cluster, which is exact to the last digits once a centroid has settled.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from quantree.clustering.search import nearest, score_table
from quantree.clustering.threads import side_by_side

PIECE = 32  # blocks of points that a thread takes at once


class Points(NamedTuple):
    """x [blocks, d, size] and weights [blocks, size]; points that take no part have weight zero."""

    x: jax.Array
    weights: jax.Array


class Sums(NamedTuple):
    """What an iteration needs to know of all points.

    inertia []: sum of weight x squared distance; mass [k]: weight per cluster; pull [k, d]: weighted sum of residuals
    per cluster.
    """

    inertia: jax.Array
    mass: jax.Array
    pull: jax.Array


class Fit(NamedTuple):
    """How points lie about given centroids [k, d]. codes, costs [blocks, size]: weight x squared distance."""

    codes: jax.Array
    costs: jax.Array
    sums: Sums


class State(NamedTuple):
    """What an iteration hands to the next one."""

    centroids: jax.Array
    fit: Fit
    steps: jax.Array
    converged: jax.Array
    repaired: jax.Array


def lloyd(points: Points, start: jax.Array, pinned: int, iterations: jax.Array, tolerance: jax.Array) -> State:
    """Iterates from `start` [k, d], whose first `pinned` centroids stay.

    It ends when the inertia drops by no more than `tolerance` of itself, or `iterations` are done. The fit that is
    returned belongs to the centroids that are returned.
    """

    def unfinished(state: State) -> jax.Array:
        return (state.steps < iterations) & ~state.converged

    def iterate(state: State) -> State:
        centroids, moved = repair(points, move(state.centroids, state.fit.sums, pinned), state.fit, pinned)
        fit = measure(points, centroids)
        before = state.fit.sums.inertia
        settled = before - fit.sums.inertia <= tolerance * before
        return State(centroids, fit, state.steps + 1, settled & (moved == 0), state.repaired + moved)

    zero = jnp.zeros((), jnp.int32)
    return jax.lax.while_loop(
        unfinished, iterate, State(start, measure(points, start), zero, jnp.zeros((), bool), zero)
    )


def lloyd_in_threads(points: Points, start: jax.Array, pinned: int, iterations: int, tolerance: float) -> State:
    """As `lloyd`, driven from the host of a CPU; the number of blocks is a multiple of `PIECE`."""
    pieces = range(0, points.x.shape[0], PIECE)
    with side_by_side() as run:

        def fit_to(centroids: jax.Array) -> list[Fit]:
            return run(lambda first: jax.block_until_ready(_measure(points, np.int32(first), centroids)), pieces)

        centroids, steps, converged, repaired = start, 0, False, 0
        parts = fit_to(centroids)
        sums = _total([part.sums for part in parts])
        while steps < iterations and not converged:
            moved = 0
            if bool(np.any(np.asarray(sums.mass)[pinned:] <= 0)):
                centroids, moved = _advance(points, centroids, _whole(parts), pinned)
            else:
                centroids = _move(centroids, sums, pinned)
            parts, before = fit_to(centroids), sums.inertia
            sums = _total([part.sums for part in parts])
            converged = bool(before - sums.inertia <= tolerance * before) and int(moved) == 0
            steps, repaired = steps + 1, repaired + int(moved)
    counts = (jnp.asarray(steps, jnp.int32), jnp.asarray(converged), jnp.asarray(repaired, jnp.int32))
    return State(centroids, _whole(parts), *counts)


def measure(points: Points, centroids: jax.Array) -> Fit:
    """One pass over the points: assigns them and sums up their residuals."""
    table, columns = score_table(centroids), centroids.T
    k, d = centroids.shape

    def visit(totals: jax.Array, block: Points):
        codes = nearest(block.x, table)
        residuals = block.x - columns[:, codes]
        costs = block.weights * jnp.sum(residuals**2, axis=0)
        rows = jnp.concatenate([block.weights[None, :] * residuals, block.weights[None, :]]).T
        # Sums of a block first, then the sum of blocks: rounding grows with the block's size, not with n.
        return totals + jnp.zeros_like(totals).at[codes].add(rows), (codes, costs, jnp.sum(costs))

    totals, (codes, costs, inertias) = jax.lax.scan(visit, jnp.zeros((k, d + 1), centroids.dtype), points)
    return Fit(codes, costs, Sums(jnp.sum(inertias), totals[:, d], totals[:, :d]))


def move(centroids: jax.Array, sums: Sums, pinned: int) -> jax.Array:
    """Free centroids go to the mean of their points; those without points stay."""
    mass = jnp.where(sums.mass > 0, sums.mass, 1)
    free = jnp.arange(centroids.shape[0]) >= pinned
    return jnp.where(free[:, None], centroids + sums.pull / mass[:, None], centroids)


def repair(points: Points, centroids: jax.Array, fit: Fit, pinned: int) -> tuple[jax.Array, jax.Array]:
    """Moves centroids without points to far points -> (centroids, number moved).

    Each goes to the costliest point of another cluster, the costliest clusters first, so that no two meet. Where all
    points already lie on centroids nothing moves: with k above the number of distinct points, duplicates stay. Every
    iteration repairs each centroid at most once, so `iterations` bounds the whole. The inertia never rises by it.
    """
    k = centroids.shape[0]
    empty = (fit.sums.mass <= 0) & (jnp.arange(k) >= pinned)

    def relocate() -> tuple[jax.Array, jax.Array]:
        codes, costs = fit.codes.reshape(-1), fit.costs.reshape(-1)
        highest = jnp.zeros((k,), costs.dtype).at[codes].max(costs)
        where = jnp.where(costs == highest[codes], jnp.arange(costs.size, dtype=jnp.int32), costs.size)
        farthest = jnp.full((k,), costs.size, jnp.int32).at[codes].min(where)
        donors = jnp.argsort(highest, descending=True)
        donor = donors[jnp.cumsum(empty) - 1]
        moved = empty & (highest[donor] > 0)
        block, place = jnp.divmod(farthest[donor], points.x.shape[2])
        return jnp.where(moved[:, None], points.x[block, :, place], centroids), jnp.sum(moved, dtype=jnp.int32)

    return jax.lax.cond(jnp.any(empty), relocate, lambda: (centroids, jnp.zeros((), jnp.int32)))


@jax.jit
def _measure(points: Points, first: jax.Array, centroids: jax.Array) -> Fit:
    return measure(Points(*(jax.lax.dynamic_slice_in_dim(each, first, PIECE) for each in points)), centroids)


@jax.jit
def _total(parts: list[Sums]) -> Sums:
    return jax.tree.map(lambda *each: functools.reduce(jnp.add, each), *parts)


@jax.jit
def _whole(parts: list[Fit]) -> Fit:
    codes, costs = (jnp.concatenate([getattr(part, name) for part in parts]) for name in ("codes", "costs"))
    return Fit(codes, costs, _total([part.sums for part in parts]))


@functools.partial(jax.jit, static_argnums=2)
def _move(centroids: jax.Array, sums: Sums, pinned: int) -> jax.Array:
    return move(centroids, sums, pinned)


@functools.partial(jax.jit, static_argnums=3)
def _advance(points: Points, centroids: jax.Array, fit: Fit, pinned: int) -> tuple[jax.Array, jax.Array]:
    return repair(points, move(centroids, fit.sums, pinned), fit, pinned)
