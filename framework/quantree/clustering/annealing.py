"""Lloyd's iterations with noise that fades: k-means that leaves bad local optima (stochastic relaxation).

SR-C adds noise to the points from which centroids are computed, SR-D to the centroids themselves (Martinez, Hoos and
Little, ECCV 2018, section 3.2; Martinez et al., "Permute, Quantize, and Fine-tune", CVPR 2021, section 3.3).
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp

from quantree.clustering.lloyd import Points, measure, move, repair

Relaxation = Literal["SR-C", "SR-D"]
RELAXATIONS: tuple[str, ...] = get_args(Relaxation)
POWER = 0.5  # of the share of steps that are left: the noise at each of them


def anneal(
    points: Points, start: jax.Array, pinned: int, key: jax.Array, relaxation: Relaxation, steps: jax.Array
) -> jax.Array:
    """Centroids [k, d] after `steps` iterations from `start`; the first `pinned` stay.

    At step i of T the noise has (1 - i / T)^0.5 times the deviation of the points (SR-C) or of the centroids (SR-D), in
    each dimension by itself. The points that are assigned have none.
    """
    total = jnp.maximum(jnp.sum(points.weights), jnp.finfo(start.dtype).tiny)
    mean = jnp.einsum("bds,bs->d", points.x, points.weights) / total
    centred = points.x - mean[None, :, None]
    spread = jnp.sqrt(jnp.einsum("bds,bs->d", centred**2, points.weights) / total)
    # A mean of noisy points is the mean of the points and one normal number, smaller by the root of how many they are.
    squares = points.weights**2

    def step(i: jax.Array, centroids: jax.Array) -> jax.Array:
        fit = measure(points, centroids)
        moved, _ = repair(points, move(centroids, fit.sums, pinned), fit, pinned)
        noise = jax.random.normal(jax.random.fold_in(key, i), centroids.shape, centroids.dtype)
        if relaxation == "SR-C":
            counts = jnp.zeros_like(fit.sums.mass).at[fit.codes].add(squares)
            shares = jnp.sqrt(counts) / jnp.where(fit.sums.mass > 0, fit.sums.mass, 1)
            noise = noise * spread[None, :] * shares[:, None]
        else:
            noise = noise * jnp.std(moved, axis=0)[None, :]
        free = jnp.arange(centroids.shape[0]) >= pinned
        left = 1 - i.astype(centroids.dtype) / jnp.maximum(steps, 1).astype(centroids.dtype)
        return moved + jnp.where(free[:, None], left**POWER * noise, 0)

    return jax.lax.fori_loop(0, steps, step, start)
