"""Soft k-means, differentiable: the clustering that a network can be trained through.

Each point attends to all centroids, a = softmax(-squared distance / temperature), and each centroid is the mean of the
points by attention, over and over until nothing moves (DKM: Cho et al., ICLR 2022, arXiv 2108.12659, section 3). With
the square of the distance this is expectation maximisation for equal round Gaussians: it can't diverge.

The gradient is that of the fixed point, not of the way to it (implicit differentiation): memory does not grow with the
number of iterations, as it does where they are unrolled, and where the run started plays no part. At a fixed point the
means, as a function of the centroids, have a derivative J that is symmetric and positive under the masses of the
centroids, with all eigenvalues below 1 where the fixed point is stable. So (1 - J) is solved for by conjugate
gradients, which need far fewer passes over the points than the series 1 + J + J^2 + ... of an unrolled run.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer
from numpy.typing import ArrayLike

from quantree.clustering import checks
from quantree.clustering.search import block_size, to_blocks
from quantree.errors import LeafError

NUMBERS = 1 << 18  # of a block of points against all centroids, in all problems together
SMALLEST_BLOCK = 16
COLD = 1e-12  # temperatures below this count as 0, where the largest coordinate is 1
LOST = 1e-20  # mass of a centroid, where the largest weight is 1, at which it stays where it is
UNSTABLE = 1e-6  # the least of 1 - J that is solved for


class SoftKMeans(NamedTuple):
    """Result of soft k-means; a pytree. `..` is nothing for one problem and [b] for a batch of problems.

    centroids: [.., k, d] float32 (float64 for float64 input), the pinned ones first.
    points: [.., n, d], what stands for each point: the sum over centroids of attention x centroid; 0 for masked ones.
    steps: [..] int32, iterations done. converged: [..] bool, whether they ended by tolerance.
    """

    centroids: jax.Array
    points: jax.Array
    steps: jax.Array
    converged: jax.Array


def soft_kmeans(
    x: ArrayLike,
    centroids: ArrayLike,
    *,
    temperature: ArrayLike,
    weights: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    pinned: ArrayLike | None = None,
    iterations: int = 100,
    tolerance: float = 1e-5,
) -> SoftKMeans:
    """Soft k-means from given centroids; `jax.grad` goes through it, to x, weights, pinned and temperature.

    x: points [n, d], or [b, n, d] for b independent problems; below single precision it is computed in float32.
    centroids: where the free centroids start, [k - p, d] or [b, k - p, d], as `kmeans` gives them; no gradient.
    temperature: at least 0, in squared units of x: [] or [b]. At 0 each point attends to its nearest centroid alone
        (Lloyd's k-means without repair), and the gradient is that for these codes.
    weights: importance of each point in the means, at least 0, [n] or [b, n].
    mask: [n] or [b, n], False for points that take no part; they may hold anything, NaN too.
    pinned: centroids that stay where they are: [p, d] or [b, p, d].
    iterations: the most that are done; as many passes at most solve for the gradient.
    tolerance: ends when no centroid moves by more than this share of the largest distance (per coordinate) of a point
        from the mean. The same share of its residual ends the solution for the gradient.

    The gradient supposes that the run has converged. A centroid without any attention stays where it is, and directions
    in which a fixed point is not stable (centroids that coincide and would part) are left out of the gradient. Reverse
    mode only, once. Memory beyond x and the result, forward and backward: five copies of x, and the numbers of a block,
    at most max(2^18, 16 b k d); nothing grows with n x k.

    `LeafError` if shapes don't fit, and for NaN, infinity, negative weights or temperatures in arrays that are not
    traced.
    """
    x = checks.points("x", x)
    batch, (n, d) = x.shape[:-2], x.shape[-2:]
    real = jnp.ones(x.shape[:-1], bool) if mask is None else checks.per_point("mask", mask, x).astype(bool)
    weight = jnp.ones(x.shape[:-1], x.dtype) if weights is None else checks.per_point("weights", weights, x)
    free = _rows("centroids", centroids, x)
    fixed = _rows("pinned", jnp.zeros((0, d)) if pinned is None else pinned, x)
    k = fixed.shape[-2] + free.shape[-2]
    checks.codebook_size(k)
    heat = checks.floating("temperature", temperature).astype(x.dtype)
    if heat.shape not in ((), batch):
        raise LeafError(f"temperature has shape {heat.shape}; expected one number, or one per problem, {batch}")
    for name, value in (("iterations", iterations), ("tolerance", tolerance)):
        if not value >= 0:
            raise LeafError(f"{name} is {value!r}; expected at least 0")
    checks.finite(real, x=x, centroids=free, pinned=fixed)
    checks.importances(weight)
    checks.finite(temperature=heat)
    if not isinstance(heat, Tracer) and bool(jnp.any(heat < 0)):
        raise LeafError(f"temperature is {temperature!r}; expected at least 0")
    problems = batch[0] if batch else 1
    size = min(block_size(problems, n), max(SMALLEST_BLOCK, NUMBERS // (problems * k * d)))
    return _soft_kmeans(
        x,
        weight.astype(x.dtype),
        real,
        free,
        fixed,
        jnp.broadcast_to(heat, batch),
        jnp.asarray(iterations, jnp.int32),
        jnp.asarray(tolerance, x.dtype),
        size=size,
    )


def _rows(name: str, value: Any, x: jax.Array) -> jax.Array:
    """`value` as [.., rows, d] with the batch and d of x; `LeafError` if it does not fit."""
    array = checks.floating(name, value).astype(x.dtype)
    if array.ndim < 2 or array.shape[-1] != x.shape[-1] or array.shape[:-2] not in ((), x.shape[:-2]):
        raise LeafError(f"{name} has shape {array.shape}; expected [.., number of centroids, {x.shape[-1]}]")
    return jnp.broadcast_to(array, (*x.shape[:-2], *array.shape[-2:]))


@functools.partial(jax.jit, static_argnames="size")
def _soft_kmeans(
    x: jax.Array,
    weights: jax.Array,
    real: jax.Array,
    free: jax.Array,
    pinned: jax.Array,
    temperature: jax.Array,
    iterations: jax.Array,
    tolerance: jax.Array,
    *,
    size: int,
) -> SoftKMeans:
    def solve(x, weights, real, free, pinned, temperature) -> SoftKMeans:
        n = x.shape[0]
        x, weights = jnp.where(real[:, None], x, 0), jnp.where(real, weights, 0)
        # Origin and units in which nothing cancels, under- or overflows. What comes out moves with them: no gradient.
        still = jax.lax.stop_gradient(x)
        low = jnp.min(jnp.where(real[:, None], still, jnp.inf), axis=0)
        high = jnp.max(jnp.where(real[:, None], still, -jnp.inf), axis=0)
        origin = jnp.where(jnp.any(real), low / 2 + high / 2, 0)
        unit = jnp.max(jnp.where(jnp.any(real), high / 2 - low / 2, 0))
        unit, weight_unit = (jnp.where(u > 0, u, 1) for u in (unit, jnp.max(jax.lax.stop_gradient(weights))))
        moved = jnp.where(real[:, None], (x - origin[None]) / unit, 0)
        cloud = _Cloud(to_blocks(moved, size), to_blocks(weights[:, None] / weight_unit, size)[:, 0])
        start, held = ((rows - origin[None]) / unit for rows in (jax.lax.stop_gradient(free), pinned))
        # The barrier keeps XLA from dividing by the square of the unit, which may be 0 or infinite.
        heat = jax.lax.optimization_barrier(temperature / unit) / unit
        found = _fixed_point(cloud, start, held, heat, iterations, tolerance)
        soft = found.points.transpose(0, 2, 1).reshape(-1, x.shape[1])[:n] * unit + origin[None]
        centroids = jnp.concatenate([pinned, found.centroids[pinned.shape[0] :] * unit + origin[None]])
        return SoftKMeans(centroids, jnp.where(real[:, None], soft, 0), found.steps, found.converged)

    arguments = x, weights, real, free, pinned, temperature
    if x.ndim == 2:
        return solve(*arguments)
    if x.shape[0] == 1:  # in a batch, soft and hard attention are both computed
        return jax.tree.map(lambda each: each[None], solve(*(each[0] for each in arguments)))
    return jax.vmap(solve)(*arguments)


class _Cloud(NamedTuple):
    """x [blocks, d, size] and weights [blocks, size]; points that take no part have weight zero."""

    x: jax.Array
    weights: jax.Array


def _attention(centroids: jax.Array, x: jax.Array, temperature: jax.Array) -> jax.Array:
    """[k, size] of the points of a block [d, size]; each column has sum 1."""
    squares = jnp.sum((centroids[:, :, None] - x[None]) ** 2, axis=1)
    cold = temperature < COLD

    def soft(squares: jax.Array) -> jax.Array:
        gaps = squares - jax.lax.stop_gradient(jnp.min(squares, axis=0, keepdims=True))
        return jax.nn.softmax(-gaps / jnp.where(cold, 1, temperature), axis=0)

    def hard(squares: jax.Array) -> jax.Array:
        return jax.nn.one_hot(jnp.argmin(squares, axis=0), squares.shape[0], dtype=squares.dtype, axis=0)

    return jax.lax.cond(cold, hard, soft, squares)


def _totals(centroids: jax.Array, x: jax.Array, weights: jax.Array, temperature: jax.Array) -> jax.Array:
    """[k, d + 1]: per centroid the sum over a block of attention x weight x (point, 1)."""
    shares = _attention(centroids, x, temperature) * weights[None]
    return jnp.matmul(shares, jnp.concatenate([x, jnp.ones_like(x[:1])]).T, precision=jax.lax.Precision.HIGHEST)


def _soften(centroids: jax.Array, x: jax.Array, temperature: jax.Array) -> jax.Array:
    """[d, size]: what stands for the points of a block."""
    return jnp.matmul(centroids.T, _attention(centroids, x, temperature), precision=jax.lax.Precision.HIGHEST)


def _all_totals(centroids: jax.Array, cloud: _Cloud, temperature: jax.Array) -> jax.Array:
    def visit(totals: jax.Array, block: _Cloud) -> tuple[jax.Array, None]:
        return totals + _totals(centroids, block.x, block.weights, temperature), None

    k, d = centroids.shape
    return jax.lax.scan(visit, jnp.zeros((k, d + 1), centroids.dtype), cloud)[0]


def _run(
    cloud: _Cloud,
    start: jax.Array,
    pinned: jax.Array,
    temperature: jax.Array,
    iterations: jax.Array,
    tolerance: jax.Array,
) -> SoftKMeans:
    """Centroids, points in blocks [blocks, d, size], steps, converged."""

    def iterate(state: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        centroids, steps, _ = state
        totals = _all_totals(centroids, cloud, temperature)
        moves = _moves(totals, pinned.shape[0])
        new = jnp.where(moves[:, None], totals[:, :-1] / jnp.where(moves, totals[:, -1], 1)[:, None], centroids)
        return new, steps + 1, jnp.max(jnp.abs(new - centroids)) <= tolerance

    def unfinished(state: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        return (state[1] < iterations) & ~state[2]

    begin = jnp.concatenate([pinned, start]), jnp.zeros((), jnp.int32), jnp.zeros((), bool)
    centroids, steps, converged = jax.lax.while_loop(unfinished, iterate, begin)
    points = jax.lax.map(lambda x: _soften(centroids, x, temperature), cloud.x)
    return SoftKMeans(centroids, points, steps, converged)


def _moves(totals: jax.Array, pinned: int) -> jax.Array:
    """[k] bool: which centroids go to the mean of their points."""
    return (jnp.arange(totals.shape[0]) >= pinned) & (totals[:, -1] > LOST)


_fixed_point = jax.custom_vjp(_run)


def _forward(cloud, start, pinned, temperature, iterations, tolerance) -> Any:
    found = _run(cloud, start, pinned, temperature, iterations, tolerance)
    return found, (cloud, found.centroids, pinned, temperature, iterations, tolerance)


def _backward(kept: Any, cotangents: SoftKMeans) -> Any:
    """Cotangents of the arguments of `_run` from those of its result."""
    cloud, centroids, pinned, temperature, iterations, tolerance = kept

    def pull_points(sums: Any, block: tuple[jax.Array, jax.Array]) -> tuple[Any, jax.Array]:
        x, towards = block
        to_centroids, to_x, to_temperature = jax.vjp(_soften, centroids, x, temperature)[1](towards)
        return jax.tree.map(jnp.add, sums, (to_centroids, to_temperature)), to_x

    zeros = jnp.zeros_like(centroids), jnp.zeros_like(temperature)
    (direct, direct_temperature), direct_x = jax.lax.scan(pull_points, zeros, (cloud.x, cotangents.points))
    wanted = cotangents.centroids + direct

    totals = _all_totals(centroids, cloud, temperature)
    free = _moves(totals, pinned.shape[0])[:, None]
    mass = jnp.where(free, totals[:, -1:], 1)
    means = totals[:, :-1] / mass

    def to_totals(towards: jax.Array) -> jax.Array:
        """From a cotangent of the means to that of the sums that they are quotients of."""
        share = jnp.where(free, towards / mass, 0)
        return jnp.concatenate([share, -jnp.sum(share * means, axis=1, keepdims=True)], axis=1)

    def transposed(towards: jax.Array) -> jax.Array:
        """J transposed, applied to a cotangent of the means."""
        towards = to_totals(towards)

        def visit(sums: jax.Array, block: _Cloud) -> tuple[jax.Array, None]:
            back = jax.vjp(lambda c: _totals(c, block.x, block.weights, temperature), centroids)[1]
            return sums + back(towards)[0], None

        return jax.lax.scan(visit, zeros[0], cloud)[0]

    def product(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(free, a * b / mass, 0))  # in which J transposed is symmetric

    def advance(state: Any) -> Any:
        steps, solution, residual, towards, squared, _ = state
        image = jnp.where(free, towards - transposed(towards), 0)
        curvature, length = product(towards, image), product(towards, towards)
        stable = curvature > UNSTABLE * length
        step = jnp.where(stable, squared / jnp.where(stable, curvature, 1), 0)
        left = residual - step * image
        new = product(left, left)
        turned = left + new / jnp.where(squared > 0, squared, 1) * towards
        return steps + 1, solution + step * towards, left, turned, new, stable

    first = jnp.where(free, wanted, 0)
    enough = tolerance**2 * product(first, first)

    def unfinished(state: Any) -> jax.Array:
        return (state[0] < iterations) & (state[4] > enough) & state[5]

    # Where not even the first direction is stable, the gradient is the one without feedback.
    residual = jnp.where(free, transposed(first), 0)
    begin = jnp.zeros((), jnp.int32), first, residual, residual, product(residual, residual), jnp.ones((), bool)
    sources = to_totals(jax.lax.while_loop(unfinished, advance, begin)[1])

    def pull_means(sums: Any, block: _Cloud) -> tuple[Any, _Cloud]:
        back = jax.vjp(_totals, centroids, block.x, block.weights, temperature)[1]
        to_centroids, to_x, to_weights, to_temperature = back(sources)
        return jax.tree.map(jnp.add, sums, (to_centroids, to_temperature)), _Cloud(to_x, to_weights)

    (onward, to_temperature), to_cloud = jax.lax.scan(pull_means, zeros, cloud)
    to_pinned = (wanted + onward)[: pinned.shape[0]]
    return (
        _Cloud(direct_x + to_cloud.x, to_cloud.weights),
        None,
        to_pinned,
        direct_temperature + to_temperature,
        None,
        None,
    )


_fixed_point.defvjp(_forward, _backward)
