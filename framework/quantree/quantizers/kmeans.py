"""k-means as a learner: free centroids that minimise the squared error."""

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

import jax
import numpy as np
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from quantree import clustering
from quantree.encodings import Codebook, Table
from quantree.quantizers.base import Learner
from quantree.registry import register

LeastBlocks = Annotated[
    int,
    Field(
        ge=1,
        description="blocks of a leaf for each centroid, at least; where there are fewer, k is the largest power of two"
        " that has them (4 in Martinez et al. 2021)",
    ),
]


@register("kmeans")
class KMeans(Learner):
    """Lloyd's k-means; on scalars from the best start that a fine histogram gives, on vectors from k-means++ by
    default.
    """

    example: ClassVar = {"k": 3}

    k: int = Field(ge=1, le=65536, description="number of centroids of each codebook")
    least_blocks: LeastBlocks = 1
    init: Literal["best", "k-means++", "k-means||", "random", "linear", "density"] = Field(
        default="best",
        description="start: 'best' is the optimum on a histogram for scalars, k-means++ for vectors; 'k-means||' is "
        "its parallel form, for large k; 'linear' spaces centroids evenly between the extremes and 'density' by the "
        "distribution function (Han et al. 2016)",
    )
    iterations: int = Field(default=50, ge=1, description="most Lloyd iterations")
    tolerance: float = Field(
        default=1e-5, ge=0, description="stop when the inertia falls by less than this share of itself"
    )
    restarts: int = Field(
        default=1, ge=1, description="runs from different starts, of which the best is kept; vectors only"
    )

    @model_validator(mode="after")
    def _restarts_differ(self) -> "KMeans":
        if self.restarts > 1 and self.init in ("linear", "density"):
            reason = f"every run from init {self.init!r} is the same; use 1, or another init"
            raise PydanticCustomError("combination", "{reason}", {"reason": reason, "key": "restarts"})
        return self

    def learn(self, blocks: jax.Array, mask: jax.Array, key: jax.Array) -> tuple[Codebook, jax.Array]:
        segments, n, d = blocks.shape
        k = affordable(self.k, n, self.least_blocks)
        if segments == 1 and d == 1 and self.init == "best":
            found = clustering.kmeans_1d(blocks.reshape(n), k, mask=mask.reshape(n))
            return scalar_table(found.centroids, found.codes)
        return tables(
            clustering.kmeans,
            blocks,
            k,
            key=key,
            mask=mask,
            init="k-means++" if self.init == "best" else self.init,
            iterations=self.iterations,
            tolerance=self.tolerance,
            restarts=self.restarts,
        )


def affordable(k: int, n: int, least: int) -> int:
    """At most k centroids for n blocks: the largest power of two that leaves each at least so many blocks."""
    return k if k * least <= n or least == 1 else 1 << max(0, (n // least).bit_length() - 1)


def scalar_table(centroids: jax.Array | np.ndarray, codes: jax.Array | np.ndarray) -> tuple[Codebook, jax.Array]:
    """What a learner gives, of centroids [k] and codes [n] that were found on the host."""
    # Shaped there too: XLA would compile a program for each k.
    table, symbols = np.asarray(centroids).reshape(1, -1, 1), np.asarray(codes).reshape(1, -1)
    return Table(jax.device_put(table)), jax.device_put(symbols)


def tables(
    cluster: Callable[..., clustering.KMeans], blocks: jax.Array, k: int, *, mask: jax.Array, **settings: Any
) -> tuple[Codebook, jax.Array]:
    """What a learner gives, by a clustering of its segments; one segment is one problem, not a batch."""
    if blocks.shape[0] > 1:
        found = cluster(blocks, k, mask=mask, **settings)
        return Table(found.centroids), found.codes
    found = cluster(blocks[0], k, mask=mask[0], **settings)
    return Table(found.centroids[None]), found.codes[None]
