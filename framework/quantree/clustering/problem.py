"""A k-means problem, or a batch of them, in one program: scaled, started, iterated, and scaled back."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from quantree.clustering.annealing import Noise, Relaxation, anneal, noise
from quantree.clustering.lloyd import Axis, Points, State, lloyd
from quantree.clustering.meshes import WHOLE
from quantree.clustering.result import KMeans
from quantree.clustering.search import block_size, to_blocks
from quantree.clustering.starts import Start, fill, start
from quantree.clustering.threads import wide_jit


class Problem(NamedTuple):
    """What is to be clustered, as in `kmeans`; real: the mask. Each array for one problem, or each for a batch."""

    x: jax.Array
    weights: jax.Array | None
    real: jax.Array | None
    pinned: jax.Array
    initial: jax.Array | None
    key: jax.Array


class Limits(NamedTuple):
    """iterations []; tolerance []; noisy []: iterations that are disturbed, before the others."""

    iterations: jax.Array
    tolerance: jax.Array
    noisy: jax.Array


class Settings(NamedTuple):
    """What decides the program besides shapes. most: room for the history, at least the number of iterations."""

    k: int
    init: Start
    restarts: int
    relaxation: Relaxation | None
    most: int


@wide_jit(static_argnames=("settings", "mesh"))
def solve(problem: Problem, limits: Limits, *, settings: Settings, mesh: Mesh | None = None) -> KMeans:
    """One problem or a batch. mesh: the points, a multiple of its devices, are split over all its axes."""
    if problem.x.ndim == 2:
        batch: Any = jax.tree.map(lambda array: array[None], problem)
        return jax.tree.map(lambda array: array[0], _solve(batch, limits, settings, mesh))
    return _solve(problem, limits, settings, mesh)


def filled(problem: Problem) -> Problem:
    """The same with masked points, up to the next of a few sizes: fewer programs to compile."""
    axis, n = problem.x.ndim - 2, problem.x.shape[-2]
    room = bucket(n) - n
    if not room:
        return problem
    real = jnp.ones(problem.x.shape[:-1], bool) if problem.real is None else problem.real
    x, weights, real = (
        None if array is None else jnp.pad(array, [(0, room if i == axis else 0) for i in range(array.ndim)])
        for array in (problem.x, problem.weights, real)
    )
    assert x is not None
    return problem._replace(x=x, weights=weights, real=real)


def bucket(n: int) -> int:
    """The next of 1, 2, 3, 4, 6, 8, 12, 16, 24, ...: at most half as much again as n.

    Problems that are filled up to such sizes need a handful of compiled programs, not one each.
    """
    power = 1 << max(0, (n - 1).bit_length())
    return power * 3 // 4 if power >= 4 and n <= power * 3 // 4 else power


def begin(
    key: jax.Array, x: jax.Array, weights: jax.Array, pinned: jax.Array, initial: jax.Array | None, settings: Settings
) -> jax.Array:
    """Centroids [k, d] that one problem starts from, the pinned ones first; x [n, d] where weights [n] are not zero."""
    if initial is not None:
        free = initial
    elif settings.k == pinned.shape[0]:
        free = jnp.zeros((0, pinned.shape[1]), pinned.dtype)
    else:
        x = fill(x.astype(pinned.dtype), weights > 0)
        free = start(settings.init, key, x, weights, settings.k - pinned.shape[0], pinned)
    return jnp.concatenate([pinned, free])


def keys(key: jax.Array, restarts: int) -> jax.Array:
    """One key for each start; the first is that of a single one, so that restarts never hurt."""
    again = jax.random.split(jax.random.fold_in(key, 1), restarts - 1)
    return jnp.concatenate([key[None], again])


def noise_key(key: jax.Array) -> jax.Array:
    """The key of the noise beside that of the start."""
    return jax.random.fold_in(key, 2)


def power_of_two(value: jax.Array) -> jax.Array:
    """The power of two just below `value`: dividing by it is exact, and squares don't under- or overflow after it."""
    return jnp.ldexp(jnp.ones((), value.dtype), jnp.clip(jnp.frexp(value)[1] - 1, -100, 126))


def _solve(problem: Problem, limits: Limits, settings: Settings, mesh: Mesh | None) -> KMeans:
    x, width = problem.x, problem.pinned.dtype
    real = jnp.ones(x.shape[:2], bool) if problem.real is None else problem.real
    weights = jnp.where(real, jnp.ones(x.shape[:2], width) if problem.weights is None else problem.weights, 0)
    x = x if problem.real is None else jax.vmap(fill)(x, real)
    given = [each for each in (x, problem.pinned, problem.initial) if each is not None and each.shape[1]]
    largest = functools.reduce(jnp.maximum, (jnp.max(jnp.abs(each), axis=(1, 2)).astype(width) for each in given))
    unit = jax.vmap(power_of_two)(largest)
    weight_unit = jax.vmap(power_of_two)(jnp.max(weights, axis=1))
    x, weights = x / unit[:, None, None].astype(x.dtype), weights / weight_unit[:, None]
    pinned = problem.pinned / unit[:, None, None]
    initial = None if problem.initial is None else problem.initial / unit[:, None, None]
    iterate = functools.partial(_iterate, pinned=pinned.shape[1], most=settings.most)
    axis = None if mesh is None else tuple(mesh.axis_names)
    split = PartitionSpec(None, axis)
    if mesh is not None:
        iterate = jax.shard_map(
            functools.partial(iterate, axis=axis),
            mesh=mesh,
            in_specs=(split, split, WHOLE, WHOLE, WHOLE),
            out_specs=State._make([WHOLE, split, *[WHOLE] * 5]),  # codes alone are split
            check_vma=False,
        )

    def attempt(key: jax.Array) -> State:
        at = jax.vmap(functools.partial(begin, settings=settings))(key, x, weights, pinned, initial)
        what = None
        if settings.relaxation is not None:
            disturbing = functools.partial(noise, settings.relaxation, limits.noisy)
            what = jax.vmap(disturbing)(jax.vmap(noise_key)(key), x, weights)
        return iterate(x, weights, at, what, limits)

    if settings.restarts == 1:
        best: State = attempt(problem.key)
    else:
        each = jax.vmap(functools.partial(keys, restarts=settings.restarts), out_axes=1)(problem.key)
        attempts = jax.lax.map(attempt, each)
        first = jnp.argmin(jnp.sum(attempts.sums.inertia, axis=2), axis=0)
        best = jax.tree.map(lambda leaf: jax.vmap(lambda i, of: of[i], in_axes=(0, 1))(first, leaf), attempts)
    codes = jnp.where(real, best.codes, 0)
    square = weight_unit * unit * unit
    found = KMeans(
        centroids=best.centroids * unit[:, None, None],
        codes=codes,
        inertia=jnp.sum(best.sums.inertia, axis=1) * square,
        counts=jax.vmap(lambda codes, real: jnp.zeros((settings.k,), jnp.int32).at[codes].add(real))(
            codes, real.astype(jnp.int32)
        ),
        steps=best.steps,
        converged=best.converged,
        repaired=best.repaired,
        history=best.history * square[:, None],
    )
    if mesh is None:
        return found
    # Every process of several can then read all of it, but for the codes of others.
    whole = jax.lax.with_sharding_constraint(found._replace(codes=None), NamedSharding(mesh, WHOLE))
    return whole._replace(codes=jax.lax.with_sharding_constraint(codes, NamedSharding(mesh, split)))


def _iterate(
    x: jax.Array,
    weights: jax.Array,
    at: jax.Array,
    disturbing: Noise | None,
    limits: Limits,
    *,
    pinned: int,
    most: int,
    axis: Axis = None,
) -> State:
    """The iterations from centroids `at` [b, k, d]; codes [b, n]. With `axis` the points are those of one device."""
    n = x.shape[1]
    size = block_size(x.shape[0], n)
    points = Points(
        jax.vmap(functools.partial(to_blocks, size=size))(x),
        jax.vmap(functools.partial(to_blocks, size=size))(weights[..., None])[:, :, 0],
    )
    if disturbing is not None:
        at = anneal(points, at, pinned, disturbing, axis)
    state = lloyd(points, at, pinned, limits.iterations, limits.tolerance, most=most, axis=axis)
    return state._replace(codes=state.codes.reshape(x.shape[0], -1)[:, :n])
