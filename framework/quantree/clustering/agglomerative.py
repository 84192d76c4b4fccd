"""Agglomerative clustering: the two nearest clusters are merged, again and again, as for neurons that act alike.

The distances of all pairs are computed on the device, rows by rows; SciPy grows the tree from them on the host.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

from quantree.clustering import checks, masses
from quantree.clustering.problem import power_of_two
from quantree.errors import LeafError

ROWS = 256  # whose distances to all points are computed at once
CANCELLED = 1e-3  # share of |x|^2 + |y|^2 below which a squared distance is computed again from differences
METHODS = ("ward", "average")


class Agglomeration(NamedTuple):
    """Result of agglomerative clustering.

    centroids: [k, d] means of the clusters, float32 (float64 for float64 input). codes: [n] int32, the cluster of each
    point; clusters are numbered in the order of their first points. counts: [k] int32. inertia: [], sum of squared
    distances to the means. merges: [n - 1, 4] float64 as SciPy gives them: two clusters (below n: points; n + i: what
    row i has merged), their distance, and the number of points in both. With weights, means and inertia are weighted,
    and the last column of merges is the weight of both.
    """

    centroids: jax.Array
    codes: jax.Array
    counts: jax.Array
    inertia: jax.Array
    merges: np.ndarray


def agglomerate(
    x: Any,
    *,
    k: int | None = None,
    distance: float | None = None,
    method: Literal["ward", "average"] = "ward",
    weights: Any = None,
) -> Agglomeration:
    """Merges the points x [n, d] until k clusters are left, or all are farther apart than `distance`; deterministic.

    method: how far two clusters are apart. "ward": the square root of twice the inertia that merging them adds (Ward
        1963); "average": the mean Euclidean distance of their points.
    weights: [n] positive masses of the points, for "ward": a point of weight 2 is two points in one place.
    Give either k, at most n, or distance, at least 0. Memory: 8 bytes per pair of points, 24 with weights; time grows
    with n^2 d and n^2. It runs on the host, so arguments must be concrete.
    `LeafError` for wrong shapes and settings, and for NaN or infinity.
    """
    checks.concrete("x", x)
    points = checks.points("x", x)
    if points.ndim != 2:
        raise LeafError(f"x has shape {points.shape}; expected [n, d]")
    checks.finite(x=points)
    n = points.shape[0]
    if method not in METHODS:
        raise LeafError(f"method is {method!r}; known: {', '.join(METHODS)}")
    if (k is None) == (distance is None):
        raise LeafError("give either k or distance")
    if k is not None:
        checks.codebook_size(k)
        if k > n:
            raise LeafError(f"k is {k}, but there are {n} points")
    elif not (distance is not None and 0 <= distance < np.inf):
        raise LeafError(f"distance is {distance!r}; expected at least 0, and finite")
    mass = np.ones(n) if weights is None else np.asarray(weights, np.float64)
    if weights is not None and method != "ward":
        raise LeafError(f'weights are for "ward"; method is {method!r}')
    if mass.shape != (n,) or not (np.isfinite(mass) & (mass > 0)).all():
        raise LeafError(f"weights must be {n} positive numbers, one for each point")
    # In units in which no square under- or overflows.
    unit = power_of_two(jnp.max(jnp.abs(points)))
    host = np.asarray(points)
    merges = np.zeros((0, 4))
    if n > 1:
        distances = _distances(points / unit, host / np.asarray(unit))
        weighted = weights is not None
        merges = masses.ward(squareform(distances), mass) if weighted else hierarchy.linkage(distances, method)
        merges[:, 2] *= float(unit)
    done = int(np.count_nonzero(merges[:, 2] <= distance)) if distance is not None else n - (k or 0)
    codes = _cut(merges[:done], n)
    counts = np.bincount(codes)
    sums = np.zeros((counts.size, host.shape[1]))
    np.add.at(sums, codes, host.astype(np.float64) * mass[:, None])
    means = (sums / np.bincount(codes, mass)[:, None]).astype(host.dtype)
    with np.errstate(over="ignore"):
        inertia = np.sum((host.astype(np.float64) - means[codes]) ** 2 * mass[:, None]).astype(host.dtype)
    return Agglomeration(
        jnp.asarray(means), jnp.asarray(codes), jnp.asarray(counts, jnp.int32), jnp.asarray(inertia), merges
    )


def _distances(points: jax.Array, host: np.ndarray) -> np.ndarray:
    """Euclidean distances of all pairs, in SciPy's condensed form: float64 [n (n - 1) / 2]."""
    n = host.shape[0]
    rows = min(ROWS, n)
    centred = points - jnp.mean(points, axis=0, keepdims=True)
    # One shape for all calls: what is beyond the end is not looked at.
    padded = jnp.pad(centred, ((0, -n % rows), (0, 0)))
    found, place = np.empty(n * (n - 1) // 2), 0
    for start in range(0, n, rows):
        squares, sizes = (np.asarray(each, np.float64) for each in _squares(padded, centred, start, rows))
        for i in range(start, min(start + rows, n - 1)):
            row = np.maximum(squares[i - start, i + 1 :], 0.0)
            near = np.flatnonzero(row <= CANCELLED * (sizes[i] + sizes[i + 1 :]))
            if near.size:
                row[near] = np.sum((host[i + 1 + near].astype(np.float64) - host[i]) ** 2, axis=1)
            found[place : place + row.size] = row
            place += row.size
    return np.sqrt(found, out=found)


@jax.jit(static_argnames="rows")
def _squares(padded: jax.Array, points: jax.Array, start: jax.Array, rows: int) -> tuple[jax.Array, jax.Array]:
    """Squared distances [rows, n] from some points to all, and the squared norms of all [n]."""
    some = jax.lax.dynamic_slice_in_dim(padded, start, rows)
    sizes, own = jnp.sum(points**2, axis=1), jnp.sum(some**2, axis=1)
    products = jnp.matmul(some, points.T, precision=jax.lax.Precision.HIGHEST)
    return own[:, None] + sizes[None, :] - 2 * products, sizes


def _cut(merges: np.ndarray, n: int) -> np.ndarray:
    """Codes [n] int32 after these merges."""
    root = np.arange(n + len(merges))
    for i, (one, other) in enumerate(merges[:, :2].astype(np.int64)):
        root[one] = root[other] = n + i
    for node in range(len(root) - 1, -1, -1):  # parents have higher numbers than their children
        root[node] = root[root[node]]
    _, first, codes = np.unique(root[:n], return_index=True, return_inverse=True)
    order = np.empty(first.size, np.int32)
    order[np.argsort(first)] = np.arange(first.size)
    return order[codes]
