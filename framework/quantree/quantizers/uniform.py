"""Evenly spaced levels as a learner: two numbers describe the whole codebook."""

from typing import Literal

import jax
import jax.numpy as jnp
from pydantic import Field

from quantree.encodings import Affine, Codebook
from quantree.quantizers.base import Learner
from quantree.registry import register

_CLIPS = 64


@register("uniform")
class Uniform(Learner):
    """Rounds to k evenly spaced levels. Scalars only."""

    scalars_only = True

    k: int = Field(ge=2, le=65536, description="number of levels")
    clip: Literal["none", "mse"] = Field(
        default="mse",
        description="range of the levels: from the least to the greatest weight, or shrunk to the least squared error",
    )

    def learn(self, blocks: jax.Array, mask: jax.Array, key: jax.Array) -> tuple[Codebook, jax.Array]:
        del key
        n = blocks.shape[1]
        shares = jnp.linspace(1.0, 0.1, _CLIPS) if self.clip == "mse" else jnp.ones(1)
        scale, offset, codes = _fit(blocks.reshape(n), mask.reshape(n), shares, self.k)
        return Affine(scale, offset, self.k), codes.reshape(1, n)


@jax.jit(static_argnames="k")
def _fit(x: jax.Array, mask: jax.Array, shares: jax.Array, k: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Tries each share of the full range about its middle; x [n] -> scale, offset, codes [n]."""
    low = jnp.min(x, initial=jnp.inf, where=mask)
    high = jnp.max(x, initial=-jnp.inf, where=mask)
    middle = (low + high) / 2

    def grid(share: jax.Array) -> tuple[jax.Array, jax.Array]:
        scale = share * (high - low) / (k - 1)
        # One value repeated has no range; any positive step then codes it exactly.
        return jnp.where(scale > 0, scale, jnp.ones_like(scale)), jnp.where(
            high > low, middle - share * (high - low) / 2, low
        )

    def encode(share: jax.Array) -> jax.Array:
        scale, offset = grid(share)
        return jnp.clip(jnp.round((x - offset) / scale), 0, k - 1)

    def error(share: jax.Array) -> jax.Array:
        scale, offset = grid(share)
        return jnp.sum(jnp.where(mask, (offset + scale * encode(share) - x) ** 2, jnp.zeros_like(x)))

    best = shares[jnp.argmin(jax.lax.map(error, shares))]
    scale, offset = grid(best)
    return scale, offset, encode(best).astype(jnp.int32)
