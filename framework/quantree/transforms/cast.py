"""Storing floats at a smaller width."""

from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field

from quantree.encodings import Compressed, Encoding, float_fields, map_floats, match
from quantree.errors import LeafError
from quantree.registry import register
from quantree.stage import Context, Patterns, Transform

_ALL: Patterns = ("*",)
_LOSS = 0.01  # of a field's root mean square; rounding alone costs 0.0003, in bfloat16 0.002


@register("cast")
class Cast(Transform):
    """Rounds float fields (weights, centroids, scales) to 16 bits for storage; leaves decode to the dtype they had.

    Fields are named after their leaf or codebook: `fc1/bias/value`, `codebooks/fc1/kernel/centroids`. Fields of 16
    bits stay as they are. `LeafError` if the new width can't hold a field and `unfit` does not say to keep it: a value
    is too large, or so many are too small that the field's error is above 1 % (float16 ends at 65504, and below 6e-5
    it loses digits).
    """

    match: Patterns = Field(default=_ALL, description="float fields to take")
    dtype: Literal["float16", "bfloat16"] = Field(default="float16", description="the width to store")
    unfit: Literal["error", "keep"] = Field(
        default="error", description="what becomes of a field that the new width can't hold: an error, or it stays"
    )

    def check(self, leaves: Mapping[str, Encoding]) -> None:
        """Codebooks aren't known before the recipe runs, so patterns are matched when it does."""

    def run(self, compressed: Compressed, context: Context) -> Compressed:
        del context
        taken = set(match(self.match, float_fields(compressed)))

        def cast(name: str, value: jax.Array) -> jax.Array:
            if name not in taken or value.dtype.itemsize <= 2:
                return value
            narrow = value.astype(jnp.dtype(self.dtype))
            reason = _unfit(np.asarray(value, np.float64), np.asarray(narrow, np.float64))
            if reason is not None and self.unfit == "error":
                raise LeafError(f"{name}: {reason} for {self.dtype}; leave it out of `match`, or set `unfit: keep`")
            return narrow if reason is None else value

        return map_floats(cast, compressed)


def _unfit(value: np.ndarray, narrow: np.ndarray) -> str | None:
    """Why the narrow form of an array is no good."""
    if not np.isfinite(value).all():
        return "a value is NaN or infinite, no good"
    if not np.isfinite(narrow).all():
        return f"a value of {np.abs(value).max():.3g} is too large"
    if np.sum((value - narrow) ** 2) > _LOSS**2 * np.sum(value**2):
        return f"values of at most {np.abs(value).max():.3g} are too small"
    return None
