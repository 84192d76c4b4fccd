"""What a clustering returns."""

from typing import NamedTuple

import jax


class KMeans(NamedTuple):
    """Result of k-means; a pytree. `..` is nothing for one problem and [b] for a batch of problems.

    centroids: [.., k, d], or [k] ascending from `kmeans_1d`; float32 (float64 for float64 input).
    codes: [.., n] int32, the nearest centroid of each point, ties to the lowest index; 0 for masked points.
    inertia: [..], sum over points of weight x squared distance to the centroid.
    counts: [.., k] int32, points per centroid, whatever their weight; masked points are not counted.
    steps: [..] int32, iterations done.
    converged: [..] bool, whether the run ended by tolerance and not by the limit on iterations.
    repaired: [..] int32, how often a centroid without points was moved to a far point.
    history: [.., most iterations + 1], the inertia at the start and after each iteration; the last one is repeated.
    """

    centroids: jax.Array
    codes: jax.Array
    inertia: jax.Array
    counts: jax.Array
    steps: jax.Array
    converged: jax.Array
    repaired: jax.Array
    history: jax.Array


class EntropyCoded(NamedTuple):
    """Result of entropy-constrained clustering of scalars; a pytree.

    centroids: [k] ascending, float32 (float64 for float64 input); k is found with the rest.
    codes: [n] int32; not always the nearest centroid, because frequent ones cost fewer bits. 0 for masked values.
    inertia: [], sum over values of weight x squared distance to the centroid.
    counts: [k] int32, values per centroid; masked values are not counted.
    bits: [], what an ideal entropy coder needs for all codes: the sum of -log2(counts / n).
    steps: [] int32, iterations done; 0 for the optimum.
    """

    centroids: jax.Array
    codes: jax.Array
    inertia: jax.Array
    counts: jax.Array
    bits: jax.Array
    steps: jax.Array
