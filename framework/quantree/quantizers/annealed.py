"""Annealed k-means as a learner: k-means that leaves bad local optima."""

from typing import ClassVar

import jax
from pydantic import Field

from quantree import clustering
from quantree.clustering.annealing import Relaxation
from quantree.encodings import Codebook
from quantree.quantizers.base import Learner
from quantree.quantizers.kmeans import LeastBlocks, affordable, tables
from quantree.registry import register


@register("annealed")
class Annealed(Learner):
    """k-means whose first iterations are disturbed by noise that fades (Martinez et al., CVPR 2021, section 3.3).

    It pays for vectors and many centroids: the squared error is some per cent lower than that of `kmeans`, which on
    scalars starts next to the optimum.
    """

    for_vectors = True
    example: ClassVar = {"k": 8}

    k: int = Field(ge=1, le=65536, description="number of centroids of each codebook")
    least_blocks: LeastBlocks = 1
    relaxation: Relaxation = Field(
        default="SR-C",
        description="what the noise disturbs: SR-C the points that centroids are means of, SR-D the centroids",
    )
    steps: int = Field(default=100, ge=0, description="iterations with noise; the paper has 10 to 1000")
    iterations: int = Field(default=25, ge=1, description="most Lloyd iterations after them")
    tolerance: float = Field(
        default=1e-5, ge=0, description="stop when the inertia falls by less than this share of itself"
    )

    def learn(self, blocks: jax.Array, mask: jax.Array, key: jax.Array) -> tuple[Codebook, jax.Array]:
        settings = self.model_dump(exclude={"k", "least_blocks"})
        k = affordable(self.k, blocks.shape[1], self.least_blocks)
        return tables(clustering.annealed, blocks, k, mask=mask, key=key, **settings)
