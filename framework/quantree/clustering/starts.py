"""Where the centroids of one problem start. Points [n, d], weights [n] (zero: the point takes no part) -> [k, d].

Points without weight must hold a copy of one that has weight (`fill`), so that whatever is picked is a real point.
"""

import functools
import math
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from quantree.clustering.search import assign_blocks, block_size, to_blocks

Start = Literal["k-means++", "k-means||", "random", "linear", "density"]
STARTS: tuple[str, ...] = get_args(Start)
DETERMINISTIC = ("linear", "density")
SAMPLE = 32  # points per centroid that k-means++ looks at
SMALLEST_SAMPLE = 8192
ROUNDS = 5  # of k-means||, each of which draws k candidates


def start(init: Start, key: jax.Array, x: jax.Array, weights: jax.Array, k: int, pinned: jax.Array) -> jax.Array:
    """Starting values of k free centroids beside the pinned ones [p, d]."""
    match init:
        case "k-means++":
            return plus_plus(key, x, weights, k, pinned)
        case "k-means||":
            return parallel(key, x, weights, k, pinned)
        case "random":
            return random(key, x, weights, k)
        case "linear":
            return linear(x, k)
        case "density":
            return density(x, weights, k)


def fill(x: jax.Array, real: jax.Array) -> jax.Array:
    """Points that are not real become copies of the first that is; all zeros if none is."""
    stand_in = jnp.where(jnp.any(real), x[jnp.argmax(real)], 0)
    return jnp.where(real[:, None], x, stand_in[None, :])


def plus_plus(key: jax.Array, x: jax.Array, weights: jax.Array, k: int, pinned: jax.Array) -> jax.Array:
    """k-means++ with 2 + ln k candidates per centroid, of which the one that lowers the inertia most is kept.

    Arthur and Vassilvitskii, SODA 2007; the greedy form is that of section 7. Beyond `SAMPLE` points per centroid it
    works on a sample drawn by weight, with replacement.
    """
    sample_key, key = jax.random.split(key)
    x, weights = _sample(sample_key, x, weights, k)
    return _greedy(key, x, weights, pinned, k=k)


def parallel(key: jax.Array, x: jax.Array, weights: jax.Array, k: int, pinned: jax.Array) -> jax.Array:
    """k-means||: `ROUNDS` times k candidates at once, by squared distance; k-means++ then picks among them, each with
    the weight of the points next to it.

    Bahmani et al., "Scalable k-means++", VLDB 2012, with as many candidates in every round and drawn with replacement.
    The steps that must wait for each other look at 5 k candidates and not at all points, which tells where k is large.
    Samples as in `plus_plus`.
    """
    sample_key, key = jax.random.split(key)
    x, weights = _sample(sample_key, x, weights, k)
    candidates, mass = _candidates(key, x, weights, pinned, k=k)
    return _greedy(jax.random.fold_in(key, 0), candidates, mass, pinned, k=k)


def _sample(key: jax.Array, x: jax.Array, weights: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """At most max(`SMALLEST_SAMPLE`, `SAMPLE` k) points and their weights, drawn by weight with replacement."""
    count = max(SMALLEST_SAMPLE, SAMPLE * k)
    if x.shape[0] <= count:
        return x, weights
    return x[_draw(key, weights, count)], jnp.ones((count,), x.dtype)


# What starts have in common is compiled by itself: a start in steps of the host then needs few programs.
@functools.partial(jax.jit, static_argnames="k")
def _greedy(key: jax.Array, x: jax.Array, weights: jax.Array, pinned: jax.Array, *, k: int) -> jax.Array:
    """K points, each the best of a few drawn by weight x squared distance to those before it."""
    trials = 2 + int(math.log(k))
    columns = x.T

    def squared(centres: jax.Array) -> jax.Array:
        # A dimension at a time: XLA on CPU runs one fused reduction over them as a scalar loop.
        def add(total: jax.Array, dimension: tuple[jax.Array, jax.Array]):
            return total + (dimension[0][None, :] - dimension[1][:, None]) ** 2, None

        return jax.lax.scan(add, jnp.zeros((centres.shape[0], x.shape[0]), x.dtype), (columns, centres.T))[0]

    def pick(closest: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        # Before the first centroid every distance is infinite: draw by weight. Likewise when every point has its own.
        odds = weights * jnp.where(jnp.isinf(closest), 1, closest)
        candidates = _draw(key, jnp.where(jnp.sum(odds) > 0, odds, weights), trials)
        remaining = jnp.minimum(closest[None, :], squared(x[candidates]))
        best = jnp.argmin(remaining @ weights)
        return remaining[best], x[candidates[best]]

    closest = jnp.full((x.shape[0],), jnp.inf, x.dtype)
    closest = jax.lax.scan(lambda near, c: (jnp.minimum(near, squared(c[None, :])[0]), None), closest, pinned)[0]
    return jax.lax.scan(pick, closest, jax.random.split(key, k))[1]


@functools.partial(jax.jit, static_argnames="k")
def _candidates(
    key: jax.Array, x: jax.Array, weights: jax.Array, pinned: jax.Array, *, k: int
) -> tuple[jax.Array, jax.Array]:
    """Points [1 + rounds x k, d] and the weight that is nearest to each."""
    blocks = to_blocks(x, block_size(1, x.shape[0]))

    def nearest(centres: jax.Array) -> tuple[jax.Array, jax.Array]:
        codes = assign_blocks(blocks, centres).reshape(-1)[: x.shape[0]]
        return codes, jnp.sum((x - centres[codes]) ** 2, axis=1)

    def draw(closest: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        odds = weights * closest
        found = x[_draw(key, jnp.where(jnp.sum(odds) > 0, odds, weights), k)]
        return jnp.minimum(closest, nearest(found)[1]), found

    first_key, *each = jax.random.split(key, 1 + ROUNDS)
    first = x[_draw(first_key, weights, 1)]
    _, found = jax.lax.scan(draw, nearest(jnp.concatenate([pinned, first]))[1], jnp.stack(each))
    centres = jnp.concatenate([first, found.reshape(-1, x.shape[1])])
    return centres, jnp.zeros((centres.shape[0],), x.dtype).at[nearest(centres)[0]].add(weights)


def random(key: jax.Array, x: jax.Array, weights: jax.Array, k: int) -> jax.Array:
    """K different points, each as likely (Forgy); the same ones again when there are fewer than k."""
    ranks, order = jax.lax.top_k(jnp.where(weights > 0, jax.random.uniform(key, weights.shape), -1), min(k, x.shape[0]))
    real = jnp.maximum(jnp.sum(ranks >= 0), 1)
    return x[order[jnp.arange(k) % real]]


def linear(x: jax.Array, k: int) -> jax.Array:
    """Equal steps from least to greatest, in each dimension (for d = 1 that of Han et al., ICLR 2016, section 3.2)."""
    low, high = jnp.min(x, axis=0), jnp.max(x, axis=0)
    return jnp.linspace(low, high, k, dtype=x.dtype)


def density(x: jax.Array, weights: jax.Array, k: int) -> jax.Array:
    """Points at equal steps of the weighted distribution function (Han et al., ICLR 2016, section 3.2).

    For d > 1 the distribution is that of the projections on the first principal direction.
    """
    centred = x - (weights @ x / jnp.maximum(jnp.sum(weights), jnp.finfo(x.dtype).tiny))[None, :]
    axis = jnp.linalg.eigh((centred * weights[:, None]).T @ centred)[1][:, -1]
    axis = axis * jnp.sign(axis[jnp.argmax(jnp.abs(axis))])
    order = jnp.argsort(centred @ axis)
    cumulative = jnp.cumsum(weights[order])
    steps = (jnp.arange(k, dtype=x.dtype) + 0.5) / k * cumulative[-1]
    return x[order[_search(cumulative, steps)]]


def _draw(key: jax.Array, odds: jax.Array, count: int) -> jax.Array:
    """Indices [count], drawn with replacement by odds [n] that need not sum to 1."""
    cumulative = jnp.cumsum(odds)
    return _search(cumulative, (1 - jax.random.uniform(key, (count,), odds.dtype)) * cumulative[-1])


def _search(cumulative: jax.Array, values: jax.Array) -> jax.Array:
    return jnp.minimum(jnp.searchsorted(cumulative, values), cumulative.shape[0] - 1)
