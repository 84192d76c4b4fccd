"""k-means as a learner: free centroids that minimise the squared error."""

from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from quantree import clustering
from quantree.encodings import Codebook, Table
from quantree.quantizers.base import Learner, bucket
from quantree.registry import register


@register("kmeans")
class KMeans(Learner):
    """Lloyd's k-means; on scalars from the best start that a fine histogram gives, on vectors from k-means++ by
    default.
    """

    example: ClassVar = {"k": 3}

    k: int = Field(ge=1, le=65536, description="number of centroids of each codebook")
    init: Literal["best", "k-means++", "random", "linear", "density"] = Field(
        default="best",
        description="start: 'best' is the optimum on a histogram for scalars, k-means++ for vectors; 'linear' spaces "
        "centroids evenly between the extremes and 'density' by the distribution function (Han et al. 2016)",
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
        if segments == 1 and d == 1 and self.init == "best":
            found = clustering.kmeans_1d(blocks.reshape(n), self.k, mask=mask.reshape(n))
            return Table(jnp.asarray(found.centroids).reshape(1, -1, 1)), jnp.asarray(found.codes).reshape(1, n)
        # Sizes are rounded up so that the leaves of a network need a handful of compiled programs, not one each.
        room = bucket(n) - n
        result = clustering.kmeans(
            jnp.pad(blocks, ((0, 0), (0, room), (0, 0))),
            self.k,
            key=key,
            mask=jnp.pad(mask, ((0, 0), (0, room))),
            init="k-means++" if self.init == "best" else self.init,
            iterations=self.iterations,
            tolerance=self.tolerance,
            restarts=self.restarts,
        )
        return Table(result.centroids), result.codes[:, :n]
