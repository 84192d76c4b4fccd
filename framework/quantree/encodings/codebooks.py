"""Codebooks: what the codes of one or more leaves point into."""

from collections.abc import Mapping
from typing import Any, Self

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from quantree.encodings.base import Codebook, Stream, encoding, static, stored
from quantree.errors import FormatError

MOST_LEVELS = 1 << 16
"""Levels of an affine codebook, at most: a file of a few bytes must not ask for any amount of memory."""


@encoding("table")
class Table(Codebook):
    """Free centroids.

    centroids: [segments, k, d] float.
    """

    centroids: jax.Array

    def table(self) -> jax.Array:
        return self.centroids

    @property
    def size(self) -> int:
        return self.centroids.shape[1]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.centroids.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.centroids.dtype)

    def streams(self) -> dict[str, Stream]:
        return {"centroids": Stream(np.asarray(self.centroids).reshape(-1))}

    @classmethod
    def restore(
        cls, shape: tuple[int, ...], dtype: np.dtype[Any], meta: tuple[Any, ...], streams: Mapping[str, np.ndarray]
    ) -> Self:
        if len(shape) != 3 or min(shape) < 1:
            raise FormatError(f"a codebook has shape [segments, k, d], not {shape}")
        return cls(jnp.asarray(stored(streams, "centroids", shape)))


@encoding("affine")
class Affine(Codebook):
    """Evenly spaced scalars: centroid j is offset + j scale. Two numbers, whatever k is.

    scale, offset: scalars, float. k: number of levels.
    """

    scale: jax.Array
    offset: jax.Array
    k: int = static()

    def table(self) -> jax.Array:
        # In 16 bits not even the level numbers would be exact.
        wide = np.promote_types(self.scale.dtype, np.float32)
        if isinstance(self.scale, jax.core.Tracer) or isinstance(self.offset, jax.core.Tracer):
            levels = jnp.arange(self.k, dtype=wide)
            return (self.offset.astype(wide) + self.scale.astype(wide) * levels).reshape(1, self.k, 1)
        # Outside of a program in NumPy: XLA would compile one for each k.
        scale, offset = np.asarray(self.scale).astype(wide), np.asarray(self.offset).astype(wide)
        return jax.device_put((offset + scale * np.arange(self.k, dtype=wide)).reshape(1, self.k, 1))

    @property
    def size(self) -> int:
        return self.k

    @property
    def shape(self) -> tuple[int, ...]:
        return (1, self.k, 1)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.scale.dtype)

    def streams(self) -> dict[str, Stream]:
        return {name: Stream(np.asarray(getattr(self, name)).reshape(-1)) for name in ("scale", "offset")}

    @classmethod
    def restore(
        cls, shape: tuple[int, ...], dtype: np.dtype[Any], meta: tuple[Any, ...], streams: Mapping[str, np.ndarray]
    ) -> Self:
        if len(shape) != 3 or shape[::2] != (1, 1) or not 1 <= shape[1] <= MOST_LEVELS:
            raise FormatError(f"an affine codebook has shape [1, k, 1] with k up to {MOST_LEVELS}, not {shape}")
        scale, offset = (jnp.asarray(stored(streams, name, ())) for name in ("scale", "offset"))
        return cls(scale, offset, shape[1])
