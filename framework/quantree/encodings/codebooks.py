"""Codebooks: what the codes of one or more leaves point into."""

from collections.abc import Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from quantree.encodings.base import Codebook, Stream, encoding, static
from quantree.errors import FormatError


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
        return {"centroids": Stream(np.asarray(self.centroids).reshape(-1), "centroids")}

    @classmethod
    def restore(
        cls, shape: tuple[int, ...], dtype: np.dtype[Any], meta: tuple[Any, ...], streams: Mapping[str, np.ndarray]
    ) -> Self:
        centroids = streams.get("centroids")
        if len(shape) != 3 or centroids is None or centroids.size != int(np.prod(shape, dtype=np.int64)):
            raise FormatError("a codebook's centroids don't fit its shape [segments, k, d]")
        return cls(jnp.asarray(centroids.reshape(shape)))


@encoding("affine")
class Affine(Codebook):
    """Evenly spaced scalars: centroid j is offset + j scale. Two numbers, whatever k is.

    scale, offset: scalars, float. k: number of levels.
    """

    scale: jax.Array
    offset: jax.Array
    k: int = static()

    def table(self) -> jax.Array:
        levels = jnp.arange(self.k, dtype=self.scale.dtype)
        return (self.offset + self.scale * levels).reshape(1, self.k, 1)

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
        return {name: Stream(np.asarray(getattr(self, name)).reshape(-1), "scale") for name in ("scale", "offset")}

    @classmethod
    def restore(
        cls, shape: tuple[int, ...], dtype: np.dtype[Any], meta: tuple[Any, ...], streams: Mapping[str, np.ndarray]
    ) -> Self:
        scale, offset = streams.get("scale"), streams.get("offset")
        if len(shape) != 3 or scale is None or offset is None or scale.size != 1 or offset.size != 1:
            raise FormatError("an affine codebook needs a shape [1, k, 1], one scale and one offset")
        return cls(jnp.asarray(scale.reshape(())), jnp.asarray(offset.reshape(())), shape[1])
