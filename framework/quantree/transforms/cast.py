"""Storing floats at a smaller width."""

from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
from pydantic import Field

from quantree.encodings import Compressed, Encoding, float_fields, map_floats, match
from quantree.errors import LeafError
from quantree.registry import register
from quantree.stage import Context, Patterns, Transform

_ALL: Patterns = ("*",)


@register("cast")
class Cast(Transform):
    """Rounds float fields (weights, centroids, scales) to 16 bits for storage; leaves decode to the dtype they had.

    Fields are named after their leaf or codebook: `fc1/bias/value`, `codebooks/fc1/kernel/centroids`. Put it last:
    training in 16 bits is not what it is for. `LeafError` if a value is too large for the new width.
    """

    match: Patterns = Field(default=_ALL, description="float fields to take")
    dtype: Literal["float16", "bfloat16"] = Field(default="float16", description="the width to store")

    def check(self, leaves: Mapping[str, Encoding]) -> None:
        """Codebooks aren't known before the recipe runs, so patterns are matched when it does."""

    def run(self, compressed: Compressed, context: Context) -> Compressed:
        del context
        taken = set(match(self.match, float_fields(compressed)))

        def cast(name: str, value: jax.Array) -> jax.Array:
            if name not in taken:
                return value
            narrow = value.astype(jnp.dtype(self.dtype))
            if not bool(jnp.isfinite(narrow).all()):
                raise LeafError(f"{name}: a value is NaN, infinite, or too large for {self.dtype}")
            return narrow

        return map_floats(cast, compressed)
