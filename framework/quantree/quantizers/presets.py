"""Familiar names for common choices; each expands to a `quantize` stage."""

from typing import ClassVar, Literal

from pydantic import Field

from quantree.encodings import SubVectors
from quantree.quantizers.base import Grouping
from quantree.quantizers.groupings import PerTensor
from quantree.quantizers.kmeans import KMeans
from quantree.quantizers.quantize import CoderName, Quantize
from quantree.quantizers.uniform import Uniform
from quantree.registry import Choice, register
from quantree.stage import Patterns, Stage


class Preset(Stage):
    """A stage that only stands for others; settings it lacks are those of `quantize` itself."""

    match: Patterns | None = Field(
        default=None, description="leaves to take; default: every float leaf with two or more axes"
    )
    coder: CoderName = Field(default=None, description="coder of the codes; default: the smallest for each leaf")


@register("kmeans")
class KMeansPreset(Preset):
    """Scalar k-means: each weight becomes one of k values (Gong et al. 2014; Han et al. 2016)."""

    example: ClassVar = {"k": 3}

    k: int = Field(ge=1, le=65536, description="number of centroids of each codebook")
    grouping: Choice[Grouping] = Field(default=PerTensor(), description="which leaves share a codebook")

    def expand(self) -> tuple[Stage, ...]:
        return (Quantize(match=self.match, grouping=self.grouping, learner=KMeans(k=self.k), coder=self.coder),)


@register("uniform")
class UniformPreset(Preset):
    """Rounding to k evenly spaced levels."""

    example: ClassVar = {"k": 3}

    k: int = Field(ge=2, le=65536, description="number of levels")
    grouping: Choice[Grouping] = Field(default=PerTensor(), description="which leaves share a codebook")

    def expand(self) -> tuple[Stage, ...]:
        return (Quantize(match=self.match, grouping=self.grouping, learner=Uniform(k=self.k), coder=self.coder),)


@register("product")
class ProductPreset(Preset):
    """Product quantization: sub-vectors of length d become one of k centroids (Gong et al. 2014)."""

    example: ClassVar = {"k": 3, "d": 4}

    k: int = Field(ge=1, le=65536, description="number of centroids of each codebook")
    d: int = Field(ge=1, description="length of a sub-vector, in weights")
    along: Literal["inputs", "outputs"] = Field(default="inputs", description="the axis that a sub-vector runs along")
    codebooks: Literal["segment", "layer"] = Field(
        default="layer",
        description="one codebook for each position of the sub-vector in its row (Gong et al.), or one per layer",
    )

    def expand(self) -> tuple[Stage, ...]:
        blocking = SubVectors(d=self.d, along=self.along, codebooks=self.codebooks)
        return (Quantize(match=self.match, blocking=blocking, learner=KMeans(k=self.k), coder=self.coder),)
