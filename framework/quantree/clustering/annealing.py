"""Lloyd's iterations with noise that fades: k-means that leaves bad local optima (stochastic relaxation).

SR-C adds noise to the points from which centroids are computed, SR-D to the centroids themselves (Martinez, Hoos and
Little, ECCV 2018, section 3.2; Martinez et al., "Permute, Quantize, and Fine-tune", CVPR 2021, section 3.3).
"""

import functools
from dataclasses import dataclass, field
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from quantree.clustering.lloyd import Axis, Points, State, advance, state

Relaxation = Literal["SR-C", "SR-D"]
RELAXATIONS: tuple[str, ...] = get_args(Relaxation)
POWER = 0.5  # of the share of steps that are left: the noise at each of them


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Noise:
    """What disturbs one problem in its first `steps` iterations.

    spread [d]: deviation of the points. unit: their mean weight, by weight; a mean of noisy points is the mean of the
    points and one normal number that is smaller by the root of how many they are, which is their weight over this.
    """

    steps: jax.Array
    key: jax.Array
    spread: jax.Array
    unit: jax.Array
    relaxation: Relaxation = field(metadata={"static": True})


def noise(relaxation: Relaxation, steps: jax.Array, key: jax.Array, x: jax.Array, weights: jax.Array) -> Noise:
    """Noise for points x [n, d] with weights [n]."""
    x = x.astype(weights.dtype)
    total = jnp.maximum(jnp.sum(weights), jnp.finfo(weights.dtype).tiny)
    mean = weights @ x / total
    spread = jnp.sqrt(weights @ (x - mean[None, :]) ** 2 / total)
    return Noise(steps, key, spread, jnp.sum(weights**2) / total, relaxation)


def disturb(noise: Noise, i: jax.Array, centroids: jax.Array, mass: jax.Array, pinned: int) -> jax.Array:
    """Centroids [k, d], which are means of clusters of these masses [k], after the noise of step i.

    At step i of T the noise has (1 - i / T)^0.5 times the deviation of the points (SR-C) or of the centroids (SR-D), in
    each dimension by itself. The points that are assigned have none. The first `pinned` centroids stay.
    """
    normal = jax.random.normal(jax.random.fold_in(noise.key, i), centroids.shape, centroids.dtype)
    if noise.relaxation == "SR-C":
        shares = jnp.where(mass > 0, jnp.sqrt(noise.unit / jnp.where(mass > 0, mass, 1)), 0)
        normal = normal * noise.spread[None, :] * shares[:, None]
    else:
        normal = normal * jnp.std(centroids, axis=0)[None, :]
    free = jnp.arange(centroids.shape[0]) >= pinned
    left = 1 - i.astype(centroids.dtype) / jnp.maximum(noise.steps, 1).astype(centroids.dtype)
    return centroids + jnp.where(free[:, None], left**POWER * normal, 0)


def anneal(points: Points, start: jax.Array, pinned: int, noise: Noise, axis: Axis = None) -> jax.Array:
    """Centroids [b, k, d] of b problems after the steps of their noise from `start`."""
    alike = functools.partial(disturb, pinned=pinned)

    def step(i: jax.Array, at: State) -> State:
        centroids, _ = advance(points, at, pinned, jnp.ones(start.shape[:1], bool), axis)
        disturbed = jax.vmap(alike, in_axes=(0, None, 0, 0))(noise, i, centroids, at.sums.mass)
        return state(points, disturbed, axis)

    return jax.lax.fori_loop(0, jnp.max(noise.steps), step, state(points, start, axis)).centroids
