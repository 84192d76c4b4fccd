"""k-means driven by the host: one problem in pieces, and a batch in groups, which threads take side by side."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from quantree.clustering.annealing import noise
from quantree.clustering.meshes import WHOLE, automatic, place, spread
from quantree.clustering.pieces import Outcome, kept, lloyd_by_pieces, pieces_of
from quantree.clustering.problem import (
    Limits,
    Problem,
    Settings,
    begin,
    filled,
    keys,
    noise_key,
    power_of_two,
    solve,
)
from quantree.clustering.result import KMeans
from quantree.clustering.search import BLOCK, BLOCKS
from quantree.clustering.threads import side_by_side

COUNTED = 1 << 20  # codes that are counted at once


def solve_by_pieces(problem: Problem, limits: Limits, settings: Settings) -> KMeans:
    """`solve` of one problem on a CPU, by the same parts."""
    x, width = np.asarray(problem.x), problem.pinned.dtype
    weights = np.ones(len(x), width) if problem.weights is None else np.asarray(problem.weights)
    real = None if problem.real is None else np.asarray(problem.real)
    if real is not None:
        x, weights = np.where(real[:, None], x, np.zeros((), x.dtype)), np.where(real, weights, np.zeros((), width))
    given = [np.asarray(each) for each in (x, problem.pinned, problem.initial) if each is not None and len(each)]
    unit, weight_unit = (
        float(power_of_two(jnp.asarray(each, width))) for each in (max(map(_largest, given)), _largest(weights))
    )
    scaled, heavy = x / x.dtype.type(unit), weights / width.type(weight_unit)
    pieces = kept(pieces_of(len(x), lambda rows: (scaled[rows], heavy[rows])))
    initial = None if problem.initial is None else problem.initial / width.type(unit)
    pinned = problem.pinned / width.type(unit)
    best: Outcome | None = None
    for key in keys(problem.key, settings.restarts):
        at = begin(key, jnp.asarray(scaled), jnp.asarray(heavy), pinned, initial, settings)
        what = None
        if settings.relaxation is not None:
            what = noise(settings.relaxation, limits.noisy, noise_key(key), jnp.asarray(scaled), jnp.asarray(heavy))
        found = lloyd_by_pieces(pieces, at, len(pinned), int(limits.iterations), float(limits.tolerance), what)
        if best is None or found.inertia < best.inertia:
            best = found
    assert best is not None
    return result(best, real, unit, weight_unit, settings)


def result(found: Outcome, real: np.ndarray | None, unit: float, weight_unit: float, settings: Settings) -> KMeans:
    """What was found, in the units of the caller."""
    width = found.centroids.dtype
    codes = found.codes if real is None else np.where(real, found.codes, 0)
    with np.errstate(over="ignore"):
        history = np.pad(found.history, (0, settings.most + 1 - found.history.size), "edge") * weight_unit * unit**2
        history = history.astype(width)
    return KMeans(
        centroids=found.centroids * width.type(unit),
        codes=jax.device_put(codes),  # jnp.asarray would hold a third copy of them for a moment
        inertia=jnp.asarray(history[-1]),
        counts=jnp.asarray(_counts(codes if real is None else codes[real], settings.k), jnp.int32),
        steps=jnp.asarray(found.steps, jnp.int32),
        converged=jnp.asarray(found.converged),
        repaired=jnp.asarray(found.repaired, jnp.int32),
        history=jnp.asarray(history),
    )


def solve_in_threads(problem: Problem, limits: Limits, settings: Settings) -> KMeans:
    """`solve` of a batch on a CPU, in groups of one size that depends on the shape of x alone."""
    b, n = problem.x.shape[:2]
    problem = filled(problem)
    size = max(1, BLOCKS * BLOCK // problem.x.shape[1])
    if b <= size:
        found = solve(problem, limits, settings=settings)
        return found._replace(codes=found.codes[:, :n])
    host = jax.tree.map(np.asarray, problem._replace(key=jax.random.key_data(problem.key)))
    kind = jax.random.key_impl(problem.key)

    def visit(first: int) -> KMeans:
        # The last group is filled up with problems that were there already, so that all are one program.
        own = np.arange(first, first + size) % b
        group: Problem = jax.tree.map(lambda array: array[own], host)
        group = group._replace(key=jax.random.wrap_key_data(group.key, impl=kind))
        return jax.tree.map(np.asarray, solve(group, limits, settings=settings))

    with side_by_side() as run:
        groups = list(run(visit, range(0, b, size)))
    found: KMeans = jax.tree.map(lambda *parts: jnp.asarray(np.concatenate(parts)[:b]), *groups)
    return found._replace(codes=found.codes[:, :n])


def solve_on(mesh: Mesh, problem: Problem, limits: Limits, settings: Settings) -> KMeans:
    """`solve` with the points spread over the devices of a mesh; the codes stay there if they need no filling up."""
    mesh, axis = automatic(mesh), problem.x.ndim - 2
    n, room = problem.x.shape[axis], -problem.x.shape[axis] % mesh.size
    real = problem.real
    if room and real is None:
        real = jnp.ones(problem.x.shape[:-1], bool)
    spread_out: list[Any] = [
        None if array is None else spread(array, mesh, axis) for array in (problem.x, problem.weights, real)
    ]
    rest = (problem.pinned, problem.initial, problem.key, limits)
    *known, limits = jax.tree.map(lambda array: place(array, mesh, WHOLE), rest)
    found = solve(Problem(*spread_out, *known), limits, settings=settings, mesh=mesh)
    return found._replace(codes=found.codes[..., :n]) if room else found


def _counts(codes: np.ndarray, k: int) -> np.ndarray:
    """How often each code occurs, [k]; a part at a time, as NumPy counts 64-bit copies."""
    counts = np.zeros(k, np.int64)
    for first in range(0, codes.size, COUNTED):
        counts += np.bincount(codes[first : first + COUNTED], minlength=k)
    return counts


def _largest(array: np.ndarray) -> float:
    return float(max(array.max(), -array.min()))
