"""Lloyd's iterations on one problem, blocks of points at a time.

Everything is computed from the residuals x - c: the inertia without cancellation, and the new centroid as the old one
plus the mean residual of its cluster, which is exact to the last digits once a centroid has settled.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from quantree.clustering.search import nearest, score_table


class Points(NamedTuple):
    """x [blocks, d, size] and weights [blocks, size]; points that take no part have weight zero."""

    x: jax.Array
    weights: jax.Array


class Fit(NamedTuple):
    """How points lie about given centroids [k, d].

    codes [blocks, size]; costs [blocks, size]: weight x squared distance; inertia []: their sum;
    mass [k]: weight per cluster; pull [k, d]: weighted sum of residuals per cluster.
    """

    codes: jax.Array
    costs: jax.Array
    inertia: jax.Array
    mass: jax.Array
    pull: jax.Array


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
        centroids, moved = repair(points, move(state.centroids, state.fit, pinned), state.fit, pinned)
        fit = measure(points, centroids)
        settled = state.fit.inertia - fit.inertia <= tolerance * state.fit.inertia
        return State(centroids, fit, state.steps + 1, settled & (moved == 0), state.repaired + moved)

    zero = jnp.zeros((), jnp.int32)
    return jax.lax.while_loop(
        unfinished, iterate, State(start, measure(points, start), zero, jnp.zeros((), bool), zero)
    )


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
    return Fit(codes, costs, jnp.sum(inertias), totals[:, d], totals[:, :d])


def move(centroids: jax.Array, fit: Fit, pinned: int) -> jax.Array:
    """Free centroids go to the mean of their points; those without points stay."""
    mass = jnp.where(fit.mass > 0, fit.mass, 1)
    free = jnp.arange(centroids.shape[0]) >= pinned
    return jnp.where(free[:, None], centroids + fit.pull / mass[:, None], centroids)


def repair(points: Points, centroids: jax.Array, fit: Fit, pinned: int) -> tuple[jax.Array, jax.Array]:
    """Moves centroids without points to far points -> (centroids, number moved).

    Each goes to the costliest point of another cluster, the costliest clusters first, so that no two meet. Where all
    points already lie on centroids nothing moves: with k above the number of distinct points, duplicates stay. Every
    iteration repairs each centroid at most once, so `iterations` bounds the whole. The inertia never rises by it.
    """
    k = centroids.shape[0]
    empty = (fit.mass <= 0) & (jnp.arange(k) >= pinned)

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
