"""k-means for vectors: one problem or a batch of independent ones, compiled once per shape."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from numpy.typing import ArrayLike

from quantree.clustering import checks
from quantree.clustering.annealing import RELAXATIONS, Relaxation, anneal
from quantree.clustering.lloyd import PIECE, Points, State, lloyd, lloyd_in_threads
from quantree.clustering.result import KMeans
from quantree.clustering.search import BLOCK, block_size, to_blocks
from quantree.clustering.starts import DETERMINISTIC, STARTS, Start, fill, start
from quantree.clustering.threads import worth_it
from quantree.errors import LeafError, nearest


def kmeans(
    x: ArrayLike,
    k: int,
    *,
    key: jax.Array,
    weights: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    pinned: ArrayLike | None = None,
    init: Start = "k-means++",
    initial: ArrayLike | None = None,
    iterations: int = 25,
    tolerance: float = 1e-4,
    restarts: int = 1,
) -> KMeans:
    """Lloyd's k-means under Euclidean distance, deterministic for a key.

    x: points [n, d], or [b, n, d] for b independent problems; below single precision it is computed in float32.
    k: number of centroids. Above the number of distinct points the surplus ends as duplicates with count 0.
    key: the random key; a batch splits it, `jax.random.split(key, b)`, one for each problem.
    weights: importance of each point, at least 0, [n] or [b, n]. Without weight a point gets a code and moves nothing.
    mask: [n] or [b, n], False for points that take no part (code 0); they may hold anything, NaN too.
    pinned: centroids that stay where they are, such as an exact zero: [p, d] or [b, p, d]. Their codes are 0 to p - 1.
    init: how the k - p free centroids start: "k-means++" (greedy), "random" (points), "linear" (equal steps from least
        to greatest, per dimension), "density" (equal steps of the distribution function, for d > 1 along the first
        principal direction).
    initial: their starting values, [k - p, d] or [b, k - p, d], instead of `init`.
    iterations: the most that are done; 0 only assigns to the start.
    tolerance: ends when an iteration lowers the inertia by no more than this share of it.
    restarts: independent starts, of which the one with the least inertia is kept; for random starts only.

    A centroid that loses all points is moved to a far one, at most once per iteration (`repaired` counts it). A problem
    without any point of weight gives zeros. Memory beyond x and the result: two copies of x, 16 bytes per point, and
    64 bytes per point of a block; nothing grows with n x k. The starts need room of their own: k-means++ holds
    2 (2 + ln k) min(n, max(8192, 32 k)) distances, the others at most a sort of n numbers.

    `LeafError` if shapes or k don't fit, and for NaN, infinity or negative weights in arrays that are not traced.
    """
    return _run(x, k, key, weights, mask, pinned, init, initial, iterations, tolerance, restarts, None, 0)


def annealed(
    x: ArrayLike,
    k: int,
    *,
    key: jax.Array,
    relaxation: Relaxation = "SR-C",
    steps: int = 100,
    weights: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    pinned: ArrayLike | None = None,
    init: Start = "random",
    initial: ArrayLike | None = None,
    iterations: int = 25,
    tolerance: float = 1e-4,
    restarts: int = 1,
) -> KMeans:
    """k-means whose first `steps` iterations are disturbed by noise that fades (see `annealing`), then Lloyd's.

    relaxation: "SR-C" disturbs the points that centroids are the means of, "SR-D" the centroids. All else as in
    `kmeans`; `iterations`, `steps` and `converged` of the result are those of the undisturbed end.
    """
    if relaxation not in RELAXATIONS:
        raise LeafError(f"relaxation is {relaxation!r}; known: {', '.join(RELAXATIONS)}")
    if isinstance(steps, bool) or not hasattr(steps, "__index__") or steps < 0:
        raise LeafError(f"steps is {steps!r}; expected a whole number, at least 0")
    return _run(x, k, key, weights, mask, pinned, init, initial, iterations, tolerance, restarts, relaxation, steps)


def _run(
    x: ArrayLike,
    k: int,
    key: jax.Array,
    weights: ArrayLike | None,
    mask: ArrayLike | None,
    pinned: ArrayLike | None,
    init: Start,
    initial: ArrayLike | None,
    iterations: int,
    tolerance: float,
    restarts: int,
    relaxation: Relaxation | None,
    noisy: int,
) -> KMeans:
    """Checks what a caller gave, and solves."""
    checks.codebook_size(k)
    x = checks.points("x", x)
    batch, (n, d) = x.shape[:-2], x.shape[-2:]
    real = jnp.ones(x.shape[:-1], bool) if mask is None else checks.per_point("mask", mask, x).astype(bool)
    weight = jnp.ones(x.shape[:-1], x.dtype) if weights is None else checks.per_point("weights", weights, x)
    fixed = _centroids("pinned", jnp.zeros((0, d)) if pinned is None else pinned, None, x)
    free = k - fixed.shape[-2]
    if free < 0:
        raise LeafError(f"{fixed.shape[-2]} centroids are pinned, but k is {k}")
    given = None if initial is None else _centroids("initial", initial, free, x)
    if init not in STARTS:
        raise LeafError(f"init is {init!r}; {nearest(str(init), STARTS)}")
    if restarts < 1 or (restarts > 1 and (given is not None or init in DETERMINISTIC)):
        raise LeafError(f"restarts is {restarts}; expected at least 1, and 1 where the start is not random")
    checks.finite(real, x=x, pinned=fixed, initial=given)
    checks.importances(weight)
    return (_kmeans_in_threads if worth_it(x, 2 * PIECE * BLOCK) else _kmeans)(
        x,
        weight.astype(x.dtype),
        real,
        fixed,
        given,
        jax.random.split(key, batch[0]) if batch else key,
        jnp.asarray(iterations, jnp.int32),
        jnp.asarray(tolerance, x.dtype),
        jnp.asarray(noisy, jnp.int32),
        k=int(k),
        init=init,
        restarts=int(restarts),
        relaxation=relaxation,
        block=block_size(batch[0] if batch else 1, n),
    )


def _centroids(name: str, value: Any, count: int | None, x: jax.Array) -> jax.Array:
    """`value` as [.., count, d] with the batch of x; `LeafError` if it does not fit."""
    array = checks.floating(name, value).astype(x.dtype)
    rows = array.shape[-2] if count is None and array.ndim > 1 else count
    if array.shape not in ((rows, x.shape[-1]), (*x.shape[:-2], rows, x.shape[-1])):
        wanted = "the number of pinned centroids" if count is None else str(count)
        raise LeafError(f"{name} has shape {array.shape}; expected [.., {wanted}, {x.shape[-1]}]")
    return jnp.broadcast_to(array, (*x.shape[:-2], *array.shape[-2:]))


class _Problem(NamedTuple):
    """One problem in units in which nothing under- or overflows."""

    x: jax.Array
    weights: jax.Array
    pinned: jax.Array
    initial: jax.Array | None
    unit: jax.Array
    weight_unit: jax.Array
    points: Points


def _problem(
    x: jax.Array,
    weights: jax.Array,
    real: jax.Array,
    pinned: jax.Array,
    initial: jax.Array | None,
    *,
    block: int,
    blocks: int = 1,
) -> _Problem:
    """blocks: the number of blocks is a multiple of this."""
    x, weights = fill(x, real), jnp.where(real, weights, 0)
    unit, weight_unit = _power_of_two(jnp.max(jnp.abs(x))), _power_of_two(jnp.max(weights))
    x, weights = x / unit, weights / weight_unit
    points = Points(to_blocks(x, block), to_blocks(weights[:, None], block)[:, 0])
    points = jax.tree.map(lambda each: jnp.pad(each, ((0, -len(each) % blocks), *[(0, 0)] * (each.ndim - 1))), points)
    return _Problem(x, weights, pinned / unit, None if initial is None else initial / unit, unit, weight_unit, points)


def _begin(
    problem: _Problem, key: jax.Array, noisy: jax.Array, *, k: int, init: Start, relaxation: Relaxation | None
) -> jax.Array:
    """Centroids [k, d] to start from, the pinned ones first."""
    pinned = problem.pinned
    if problem.initial is not None:
        free = problem.initial
    elif k == pinned.shape[0]:
        free = jnp.zeros((0, pinned.shape[1]), pinned.dtype)
    else:
        x = fill(problem.x, problem.weights > 0)
        free = start(init, key, x, problem.weights, k - pinned.shape[0], pinned)
    begin = jnp.concatenate([pinned, free])
    if relaxation is None:
        return begin
    return anneal(problem.points, begin, pinned.shape[0], jax.random.fold_in(key, 2), relaxation, noisy)


def _keys(key: jax.Array, restarts: int) -> jax.Array:
    """One key for each start; the first is that of a single one, so that restarts never hurt."""
    again = jax.random.split(jax.random.fold_in(key, 1), restarts - 1)
    return jnp.concatenate([key[None], again])


def _result(problem: _Problem, state: State, real: jax.Array, *, k: int) -> KMeans:
    codes = jnp.where(real, state.fit.codes.reshape(-1)[: real.shape[0]], 0)
    return KMeans(
        centroids=state.centroids * problem.unit,
        codes=codes,
        inertia=state.fit.sums.inertia * problem.weight_unit * problem.unit * problem.unit,
        counts=jnp.zeros((k,), jnp.int32).at[codes].add(real.astype(jnp.int32)),
        steps=state.steps,
        converged=state.converged,
        repaired=state.repaired,
    )


@functools.partial(jax.jit, static_argnames=("k", "init", "restarts", "relaxation", "block"))
def _kmeans(
    x: jax.Array,
    weights: jax.Array,
    real: jax.Array,
    pinned: jax.Array,
    initial: jax.Array | None,
    keys: jax.Array,
    iterations: jax.Array,
    tolerance: jax.Array,
    noisy: jax.Array,
    *,
    k: int,
    init: Start,
    restarts: int,
    relaxation: Relaxation | None,
    block: int,
) -> KMeans:
    def solve(x, weights, real, pinned, initial, key) -> KMeans:
        problem = _problem(x, weights, real, pinned, initial, block=block)

        def attempt(key: jax.Array) -> State:
            begin = _begin(problem, key, noisy, k=k, init=init, relaxation=relaxation)
            return lloyd(problem.points, begin, pinned.shape[0], iterations, tolerance)

        if restarts == 1:
            best = attempt(key)
        else:
            attempts = jax.lax.map(attempt, _keys(key, restarts))
            best = jax.tree.map(lambda leaf: leaf[jnp.argmin(attempts.fit.sums.inertia)], attempts)
        return _result(problem, best, real, k=k)

    return (solve if x.ndim == 2 else jax.vmap(solve))(x, weights, real, pinned, initial, keys)


_problem_jit = jax.jit(_problem, static_argnames=("block", "blocks"))
_begin_jit = jax.jit(_begin, static_argnames=("k", "init", "relaxation"))
_result_jit = jax.jit(_result, static_argnames="k")


def _kmeans_in_threads(
    x: jax.Array,
    weights: jax.Array,
    real: jax.Array,
    pinned: jax.Array,
    initial: jax.Array | None,
    key: jax.Array,
    iterations: jax.Array,
    tolerance: jax.Array,
    noisy: jax.Array,
    *,
    k: int,
    init: Start,
    restarts: int,
    relaxation: Relaxation | None,
    block: int,
) -> KMeans:
    """`_kmeans` of one large problem on a CPU, by the same parts."""
    problem = _problem_jit(x, weights, real, pinned, initial, block=block, blocks=PIECE)
    best = None
    for each in _keys(key, restarts):
        begin = _begin_jit(problem, each, noisy, k=k, init=init, relaxation=relaxation)
        state = lloyd_in_threads(problem.points, begin, pinned.shape[0], int(iterations), float(tolerance))
        if best is None or state.fit.sums.inertia < best.fit.sums.inertia:
            best = state
    assert best is not None
    return _result_jit(problem, best, real, k=k)


def _power_of_two(value: jax.Array) -> jax.Array:
    """The power of two just below `value`: dividing by it is exact, and squares don't under- or overflow after it."""
    return jnp.ldexp(jnp.ones((), value.dtype), jnp.clip(jnp.frexp(value)[1] - 1, -100, 126))
