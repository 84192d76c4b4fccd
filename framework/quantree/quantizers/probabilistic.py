"""Levels at quantiles, and codes drawn so that nothing is biased, as a learner."""

from typing import ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field

from quantree.clustering.problem import bucket
from quantree.encodings import Codebook
from quantree.quantizers.base import Learner
from quantree.quantizers.kmeans import scalar_table
from quantree.registry import register


@register("probabilistic")
class Probabilistic(Learner):
    """Rounds up or down at random, so that each weight is right on average (PWS, Marino et al., arXiv 2108.12704).

    The levels are k quantiles, with equally many weights between any two. A weight w between neighbours v and V becomes
    V with probability (w - v) / (V - v), else v: its mean is w and its variance (w - v) (V - w). That is more than the
    squared error of rounding to the nearest, so `budget` does not try it. Scalars only.
    """

    scalars_only = True
    example: ClassVar = {"k": 9}

    k: int = Field(ge=2, le=65536, description="number of levels, the least and the greatest weight among them")

    @classmethod
    def ladder(cls) -> tuple[Self, ...]:
        return ()

    def learn(self, blocks: jax.Array, mask: jax.Array, key: jax.Array) -> tuple[Codebook, jax.Array]:
        n = blocks.shape[1]
        room = bucket(n) - n
        x, real = (np.pad(np.asarray(array).reshape(n), (0, room)) for array in (blocks, mask))
        # In float64, which holds any place; JAX has it only if asked to.
        places = np.linspace(0, np.count_nonzero(real) - 1, self.k)
        below = np.floor(places).astype(np.int32)
        levels, codes = _draw(x, real, below, (places - below).astype(np.float32), key)
        return scalar_table(levels, np.asarray(codes)[:n])


@jax.jit
def _draw(
    x: jax.Array, mask: jax.Array, below: jax.Array, between: jax.Array, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Levels [k] and codes [n] of x [n]; below, between [k]: whole and broken parts of the levels' places among the
    sorted.
    """
    ascending = jnp.sort(jnp.where(mask, x, jnp.inf))
    low, high = ascending[below], ascending[jnp.where(between > 0, below + 1, below)]
    # Rounding must not carry a level past its neighbours.
    levels = jnp.clip(low + between * (high - low), low, high)
    # Of equal levels the last counts, so that the next one is truly above; but for the greatest weights.
    codes = jnp.clip(jnp.searchsorted(levels, x, side="right") - 1, 0, levels.size - 2)
    gap = levels[codes + 1] - levels[codes]
    share = (x - levels[codes]) / jnp.where(gap > 0, gap, jnp.ones_like(gap))
    up = jax.random.uniform(key, x.shape, x.dtype) < share
    return levels, codes + up.astype(codes.dtype)
