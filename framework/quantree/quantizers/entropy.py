"""Entropy-constrained learners: how many centroids there are follows from what a bit must be worth."""

from typing import ClassVar, Self

import jax
import numpy as np
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from quantree import clustering
from quantree.clustering import EntropyCoded
from quantree.encodings import Codebook
from quantree.quantizers.base import Learner
from quantree.quantizers.kmeans import scalar_table
from quantree.registry import register

_SLOPES = tuple(2.0**-i for i in range(10))  # half a bit apart, about


@register("ecsq")
class EntropyConstrained(Learner):
    """The least squared error plus `slope` times the bits of the codes, over all numbers of centroids. Scalars only.

    The optimum by dynamic programming of the problem of Choi et al. (ICLR 2017). Its codes want an entropy coder.
    """

    scalars_only = True
    example: ClassVar = {"bits": 1.5}

    slope: float | None = Field(
        default=None,
        gt=0,
        description="squared error that one bit must save, as a share of the variance of the weights: 0.1 gives some 2 "
        "bits for a normal distribution, a quarter of it one bit more",
    )
    bits: float | None = Field(
        default=None, gt=0, description="bits per weight, at most, of an ideal entropy coder; the slope is found"
    )
    overhead: float = Field(
        default=32, ge=0, description="bits that each centroid costs by itself, in the codebook and in the coding table"
    )

    @model_validator(mode="after")
    def _one_goal(self) -> Self:
        if (self.slope is None) == (self.bits is None):
            raise PydanticCustomError(
                "combination", "{reason}", {"reason": "give either slope or bits", "key": "slope"}
            )
        return self

    @classmethod
    def ladder(cls) -> tuple[Self, ...]:
        return tuple(cls(slope=slope) for slope in _SLOPES)

    def learn(self, blocks: jax.Array, mask: jax.Array, key: jax.Array) -> tuple[Codebook, jax.Array]:
        del key
        x, real, variance = _scalars(blocks, mask)
        slope = None if self.slope is None else self.slope * variance
        return _coded(clustering.entropy_constrained(x, slope, bits=self.bits, mask=real, overhead=self.overhead))


@register("ecsq_lloyd")
class EntropyLloyd(Learner):
    """The iterative form of `ecsq`: from 3 k clusters of equal size until k are left (ECSQ of Marino et al., arXiv
    2108.12704).

    The paper minimises (w - c)^2 - lambda ln p: its lambda is in nats and not a share of anything, so `slope` is
    lambda ln 2 / variance. Like the published code it may end with more than k centroids, where the cost hardly falls
    any more: then a larger slope leaves fewer. Scalars only.
    """

    scalars_only = True
    example: ClassVar = {"k": 3, "slope": 0.1}

    k: int = Field(ge=1, le=65536, description="it ends as soon as no more centroids are left")
    slope: float = Field(
        gt=0, description="squared error that one bit must save, as a share of the variance of the weights"
    )
    iterations: int = Field(default=50, ge=1, description="most iterations")
    tolerance: float = Field(
        default=1e-3, ge=0, description="stop when the cost falls by less than this share of itself"
    )

    def learn(self, blocks: jax.Array, mask: jax.Array, key: jax.Array) -> tuple[Codebook, jax.Array]:
        del key
        x, real, variance = _scalars(blocks, mask)
        return _coded(
            clustering.entropy_lloyd(
                x, self.slope * variance, self.k, mask=real, iterations=self.iterations, tolerance=self.tolerance
            )
        )


def _scalars(blocks: jax.Array, mask: jax.Array) -> tuple[np.ndarray, np.ndarray, float]:
    """Values [n], which of them take part, and their variance; any positive number if all are equal."""
    x, real = np.asarray(blocks).reshape(-1), np.asarray(mask).reshape(-1)
    return x, real, float(np.var(x[real], dtype=np.float64)) or 1.0


def _coded(found: EntropyCoded) -> tuple[Codebook, jax.Array]:
    return scalar_table(found.centroids, found.codes)
