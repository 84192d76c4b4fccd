"""Evenly spaced levels as a learner: two numbers describe the whole codebook."""

from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field

from quantree.clustering.problem import bucket
from quantree.encodings import Affine, Codebook
from quantree.quantizers.base import LADDER, Learner
from quantree.registry import register

_CLIPS = 64
_FINE = (512, 1024, 4096, 16384)  # where hardly anything is to be lost, there is nothing to be won by clipping


@register("uniform")
class Uniform(Learner):
    """Rounds to k evenly spaced levels. Scalars only."""

    scalars_only = True
    example: ClassVar = {"k": 3}

    k: int = Field(ge=2, le=65536, description="number of levels")
    clip: Literal["none", "mse"] = Field(
        default="mse",
        description="range of the levels: from the least to the greatest weight, or shrunk to the least squared error",
    )

    @classmethod
    def ladder(cls) -> tuple["Uniform", ...]:
        # A wide grid spends fewer bits than its k tells: entropy coding makes the rare outer levels nearly free.
        coarse = tuple(cls(k=k, clip=clip) for k in LADDER for clip in ("mse", "none"))
        return (*coarse, *(cls(k=k, clip="none") for k in _FINE))

    def learn(self, blocks: jax.Array, mask: jax.Array, key: jax.Array) -> tuple[Codebook, jax.Array]:
        del key
        n = blocks.shape[1]
        # One compiled program serves every k and all sizes up to a bucket's: `budget` tries many of both.
        room = bucket(n) - n
        x, real = (np.pad(np.asarray(array).reshape(n), (0, room)) for array in (blocks, mask))
        tries = np.int32(_CLIPS if self.clip == "mse" else 1)
        scale, offset, codes = _fit(x, real, jnp.linspace(1.0, 0.1, _CLIPS), tries, np.float32(self.k - 1))
        return Affine(scale, offset, self.k), jax.device_put(np.asarray(codes)[None, :n])


@jax.jit
def _fit(
    x: jax.Array, mask: jax.Array, shares: jax.Array, tries: jax.Array, top: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Tries the first so many shares of the full range about its middle; x [n], top: the last level -> scale, offset,
    codes [n].
    """
    low = jnp.min(x, initial=jnp.inf, where=mask)
    high = jnp.max(x, initial=-jnp.inf, where=mask)
    middle = (low + high) / 2

    def grid(share: jax.Array) -> tuple[jax.Array, jax.Array]:
        scale = share * (high - low) * (1 / top)
        # One value repeated has no range; any positive step then codes it exactly.
        return jnp.where(scale > 0, scale, jnp.ones_like(scale)), jnp.where(
            high > low, middle - share * (high - low) / 2, low
        )

    def encode(share: jax.Array) -> jax.Array:
        scale, offset = grid(share)
        return jnp.clip(jnp.round((x - offset) / scale), 0, top)

    def error(share: jax.Array) -> jax.Array:
        scale, offset = grid(share)
        return jnp.sum(jnp.where(mask, (offset + scale * encode(share) - x) ** 2, jnp.zeros_like(x)))

    def closer(i: jax.Array, found: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        least, best = found
        new = error(shares[i])
        return jnp.minimum(new, least), jnp.where(new < least, shares[i], best)

    _, best = jax.lax.fori_loop(0, tries, closer, (jnp.asarray(jnp.inf, x.dtype), shares[0]))
    scale, offset = grid(best)
    return scale, offset, encode(best).astype(jnp.int32)
