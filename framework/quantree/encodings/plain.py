"""Leaves that have no codebook: untouched, or pruned and otherwise as they were."""

from collections.abc import Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from quantree.encodings.base import Codebook, Encoding, Stream, encoding, static, stored


@encoding("raw")
class Raw(Encoding):
    """The array itself, perhaps at a smaller float width than the one it is decoded to.

    value: the leaf's shape, any numeric or boolean dtype.
    """

    value: jax.Array
    dtype: np.dtype[Any] = static()

    @classmethod
    def of(cls, value: Any) -> Self:
        """Wraps an array as it is."""
        return cls(value, np.dtype(value.dtype))

    @property
    def shape(self) -> tuple[int, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.value.shape

    def decode(self, codebooks: Mapping[str, Codebook]) -> jax.Array:
        del codebooks
        return self.value.astype(self.dtype)

    def streams(self) -> dict[str, Stream]:
        return {"value": Stream(np.asarray(self.value).reshape(-1))}

    @classmethod
    def restore(
        cls, shape: tuple[int, ...], dtype: np.dtype[Any], meta: tuple[Any, ...], streams: Mapping[str, np.ndarray]
    ) -> Self:
        return cls(jnp.asarray(stored(streams, "value", shape)), dtype)


@encoding("pruned")
class Pruned(Encoding):
    """A float leaf of which only some entries are kept; the others are exact zeros.

    value: the leaf's shape, float; zero wherever the mask is False. mask: the leaf's shape, bool.
    """

    value: jax.Array
    mask: jax.Array
    dtype: np.dtype[Any] = static()

    @classmethod
    def of(cls, value: jax.Array, mask: jax.Array, dtype: Any = None) -> Self:
        """Keeps `value` where `mask`; what is masked out is forgotten, so that a saved model is the same model."""
        mask = jnp.asarray(mask, bool)
        return cls(jnp.where(mask, value, jnp.zeros_like(value)), mask, np.dtype(dtype or value.dtype))

    @property
    def shape(self) -> tuple[int, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.value.shape

    def decode(self, codebooks: Mapping[str, Codebook]) -> jax.Array:
        del codebooks
        return jnp.where(self.mask, self.value, jnp.zeros_like(self.value)).astype(self.dtype)

    def zeros(self) -> np.ndarray:
        return ~np.asarray(self.mask)

    def streams(self) -> dict[str, Stream]:
        mask = np.asarray(self.mask)
        return {
            "mask": Stream(mask.reshape(-1).astype(np.uint8), alphabet=2),
            "value": Stream(np.asarray(self.value)[mask]),
        }

    @classmethod
    def restore(
        cls, shape: tuple[int, ...], dtype: np.dtype[Any], meta: tuple[Any, ...], streams: Mapping[str, np.ndarray]
    ) -> Self:
        mask = stored(streams, "mask", shape).astype(bool)
        kept = stored(streams, "value", (int(np.count_nonzero(mask)),))
        value = np.zeros(shape, kept.dtype)
        value[mask] = kept
        return cls(jnp.asarray(value), jnp.asarray(mask), dtype)
