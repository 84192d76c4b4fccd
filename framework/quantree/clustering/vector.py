"""k-means for vectors: one problem or a batch of independent ones, compiled once per shape."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.sharding import Mesh
from numpy.typing import ArrayLike

from quantree.clustering import checks
from quantree.clustering.annealing import RELAXATIONS, Relaxation
from quantree.clustering.host import solve_by_pieces, solve_in_threads, solve_on
from quantree.clustering.meshes import mesh_of
from quantree.clustering.problem import Limits, Problem, Settings, filled, solve
from quantree.clustering.result import KMeans
from quantree.clustering.starts import DETERMINISTIC, STARTS, Start
from quantree.clustering.threads import on_host
from quantree.errors import LeafError, nearest

HISTORY = 32  # iterations for which a program has room; with more it is compiled anew, for the next power of two


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
    mesh: Mesh | None = None,
) -> KMeans:
    """Lloyd's k-means under Euclidean distance, deterministic for a key.

    x: points [n, d], or [b, n, d] for b independent problems; below single precision it is computed in float32.
    k: number of centroids. Above the number of distinct points the surplus ends as duplicates with count 0.
    key: the random key; a batch splits it, `jax.random.split(key, b)`, one for each problem.
    weights: importance of each point, at least 0, [n] or [b, n]. Without weight a point gets a code and moves nothing.
    mask: [n] or [b, n], False for points that take no part (code 0); they may hold anything, NaN too.
    pinned: centroids that stay where they are, such as an exact zero: [p, d] or [b, p, d]. Their codes are 0 to p - 1.
    init: how the k - p free centroids start: "k-means++" (greedy), "k-means||" (its parallel form, for large k),
        "random" (points), "linear" (equal steps from least to greatest, per dimension), "density" (equal steps of the
        distribution function, for d > 1 along the first principal direction).
    initial: their starting values, [k - p, d] or [b, k - p, d], instead of `init`.
    iterations: the most that are done; 0 only assigns to the start.
    tolerance: ends when an iteration lowers the inertia by no more than this share of it.
    restarts: independent starts, of which the one with the least inertia is kept; for random starts only.
    mesh: devices over which the points are split, over all its axes; by default those that x is spread over already.
        Then the codes stay with their points if n is a multiple of the devices; else, as all other results, they are
        whole on every device, and zeros fill x up. Of several processes each gives the same arrays, or parts of arrays
        that are spread over all. Sums of clusters are what devices tell each other in an iteration; random starts
        gather a number per point, k-means++ also its sample.

    A centroid that loses all points is moved to a far one, at most once per iteration (`repaired` counts it). A problem
    without any point of weight gives zeros. Memory beyond x and the result: two copies of x and 32 bytes per point,
    with restarts 4 more for each; nothing grows with n x k. The starts need room of their own: k-means++ holds
    2 (2 + ln k) min(n, max(8192, 32 k)) distances, the others at most a sort of n numbers.

    `LeafError` if shapes or k don't fit, and for NaN, infinity or negative weights in arrays that are not traced.
    """
    return _run(x, k, key, weights, mask, pinned, init, initial, iterations, tolerance, restarts, mesh, None, 0)


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
    mesh: Mesh | None = None,
) -> KMeans:
    """k-means whose first `steps` iterations are disturbed by noise that fades (see `annealing`), then Lloyd's.

    relaxation: "SR-C" disturbs the points that centroids are the means of, "SR-D" the centroids. All else as in
    `kmeans`; `iterations`, `steps` and `converged` of the result are those of the undisturbed end.
    """
    if relaxation not in RELAXATIONS:
        raise LeafError(f"relaxation is {relaxation!r}; known: {', '.join(RELAXATIONS)}")
    checks.whole("steps", steps, 0)
    return _run(
        x, k, key, weights, mask, pinned, init, initial, iterations, tolerance, restarts, mesh, relaxation, steps
    )


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
    mesh: Mesh | None,
    relaxation: Relaxation | None,
    noisy: int,
) -> KMeans:
    """Checks what a caller gave, and solves it where it is."""
    checks.codebook_size(k)
    checks.whole("iterations", iterations, 0)
    checks.whole("restarts", restarts, 1)
    checks.share("tolerance", tolerance)
    checks.random_key(key)
    x = checks.compact("x", x)
    width = jnp.float64 if x.dtype == jnp.float64 else jnp.float32
    real = None if mask is None else checks.per_point("mask", mask, x).astype(bool)
    weight = None if weights is None else checks.per_point("weights", weights, x).astype(width)
    fixed = _centroids("pinned", jnp.zeros((0, x.shape[-1])) if pinned is None else pinned, None, x, width)
    free = k - fixed.shape[-2]
    if free < 0:
        raise LeafError(f"{fixed.shape[-2]} centroids are pinned, but k is {k}")
    given = None if initial is None else _centroids("initial", initial, free, x, width)
    if init not in STARTS:
        raise LeafError(f"init is {init!r}; {nearest(str(init), STARTS)}")
    if restarts > 1 and (given is not None or init in DETERMINISTIC):
        raise LeafError(f"restarts is {restarts}; expected 1 where the start is not random")
    checks.finite(real, x=x, pinned=fixed, initial=given)
    if weight is not None:
        checks.importances(weight)
    each = key if x.ndim == 2 else jax.random.split(key, x.shape[0])
    problem = Problem(x, weight, real, fixed, given, each)
    settings = Settings(int(k), init, int(restarts), relaxation, max(HISTORY, 1 << int(iterations).bit_length()))
    limits = Limits(jnp.asarray(iterations, jnp.int32), jnp.asarray(tolerance, width), jnp.asarray(noisy, jnp.int32))
    mesh = mesh_of(x) if mesh is None else mesh
    if mesh is not None:
        found = solve_on(mesh, problem, limits, settings)
    elif on_host(*problem):
        found = (solve_by_pieces if x.ndim == 2 else solve_in_threads)(problem, limits, settings)
    elif isinstance(x, Tracer):
        found = solve(problem, limits, settings=settings)
    else:
        found = solve(filled(problem), limits, settings=settings)
        found = found._replace(codes=found.codes[..., : x.shape[-2]])
    return found._replace(history=found.history[..., : int(iterations) + 1])


def _centroids(name: str, value: Any, count: int | None, x: jax.Array, width: Any) -> jax.Array:
    """`value` as [.., count, d] with the batch of x; `LeafError` if it does not fit."""
    array = checks.floating(name, value).astype(width)
    rows = array.shape[-2] if count is None and array.ndim > 1 else count
    if array.shape not in ((rows, x.shape[-1]), (*x.shape[:-2], rows, x.shape[-1])):
        wanted = "the number of pinned centroids" if count is None else str(count)
        raise LeafError(f"{name} has shape {array.shape}; expected [.., {wanted}, {x.shape[-1]}]")
    return jnp.broadcast_to(array, (*x.shape[:-2], *array.shape[-2:]))
