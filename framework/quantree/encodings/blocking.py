"""How a tensor is cut into the vectors that get one code each."""

import math
from abc import abstractmethod
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from pydantic import Field

from quantree.registry import Plugin, register


class Blocking(Plugin, family="blocking"):
    """Cuts a leaf into `segments` sets of n vectors of length d, and puts it together again. Pure and jit-able."""

    @abstractmethod
    def segments(self, shape: tuple[int, ...]) -> int:
        """How many codebooks a leaf of this shape has."""

    @abstractmethod
    def count(self, shape: tuple[int, ...]) -> int:
        """n, how many vectors each segment has."""

    @abstractmethod
    def width(self, shape: tuple[int, ...]) -> int:
        """d, the length of one vector."""

    @abstractmethod
    def split(self, leaf: jax.Array) -> jax.Array:
        """The leaf as blocks, [segments, n, d]."""

    @abstractmethod
    def join(self, blocks: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """The inverse of `split`."""


@register("scalar")
class Scalar(Blocking):
    """Every weight has a code of its own (d = 1)."""

    def segments(self, shape: tuple[int, ...]) -> int:
        return 1

    def count(self, shape: tuple[int, ...]) -> int:
        return math.prod(shape)

    def width(self, shape: tuple[int, ...]) -> int:
        return 1

    def split(self, leaf: jax.Array) -> jax.Array:
        return leaf.reshape(1, -1, 1)

    def join(self, blocks: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        return blocks.reshape(shape)


@register("sub_vectors")
class SubVectors(Blocking):
    """Product quantization (Jegou et al. 2011; on weights Gong et al. 2014, arXiv 1412.6115, section 3.3).

    A dense kernel is read as a matrix [outputs, inputs], a convolution's as [outputs, channels x kh x kw], so that
    with d = kh kw a sub-vector along the inputs is one kernel slice; a vector is one row. Each row is cut into
    sub-vectors of length d; a last piece that is shorter is filled up with zeros, which are dropped again by `join`. A
    row shorter than d is one sub-vector.
    """

    example: ClassVar = {"d": 4, "along": "outputs"}

    d: int = Field(ge=1, description="length of a sub-vector, in weights")
    along: Literal["inputs", "outputs"] = Field(default="inputs", description="the axis that a sub-vector runs along")
    codebooks: Literal["segment", "layer"] = Field(
        default="layer",
        description="one codebook for each position of the sub-vector in its row (Gong et al.), or one per layer",
    )

    def length(self, shape: tuple[int, ...]) -> int:
        """Length of a sub-vector of a leaf of this shape whose rows are long enough."""
        return self.d

    def _rows(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Number and length of the rows that are cut."""
        if len(shape) < 2:
            return 1, math.prod(shape)
        inputs, outputs = math.prod(shape[:-1]), shape[-1]
        return (outputs, inputs) if self.along == "inputs" else (inputs, outputs)

    def _pieces(self, shape: tuple[int, ...]) -> int:
        return -(-self._rows(shape)[1] // self.length(shape))

    def segments(self, shape: tuple[int, ...]) -> int:
        return self._pieces(shape) if self.codebooks == "segment" else 1

    def count(self, shape: tuple[int, ...]) -> int:
        return self._rows(shape)[0] * (1 if self.codebooks == "segment" else self._pieces(shape))

    def width(self, shape: tuple[int, ...]) -> int:
        return min(self.length(shape), self._rows(shape)[1])

    def split(self, leaf: jax.Array) -> jax.Array:
        rows, length = self._rows(leaf.shape)
        pieces, d = self._pieces(leaf.shape), self.width(leaf.shape)
        if leaf.ndim > 1:
            leaf = jnp.moveaxis(leaf, (-1, -2), (0, 1))
            leaf = leaf.reshape(rows, length) if self.along == "inputs" else leaf.reshape(length, rows).T
        filled = jnp.pad(leaf.reshape(rows, length), ((0, 0), (0, pieces * d - length)))
        blocks = filled.reshape(rows, pieces, d)
        return blocks.swapaxes(0, 1) if self.codebooks == "segment" else blocks.reshape(1, rows * pieces, d)

    def join(self, blocks: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        rows, length = self._rows(shape)
        pieces, d = self._pieces(shape), self.width(shape)
        whole = blocks.swapaxes(0, 1) if self.codebooks == "segment" else blocks
        matrix = whole.reshape(rows, pieces * d)[:, :length]
        if len(shape) < 2:
            return matrix.reshape(shape)
        *kernel, channels, outputs = shape
        outputs_first = matrix if self.along == "inputs" else matrix.T
        return jnp.moveaxis(outputs_first.reshape(outputs, channels, *kernel), (0, 1), (-1, -2))


@register("kernel_slices")
class KernelSlices(SubVectors):
    """Sub-vectors that cut no kernel: those of a convolution are whole kh x kw slices, one input channel each (Stock et
    al. 2020; Martinez et al., CVPR 2021, section 3.1: "small blocks" have one, "large blocks" two). Dense and 1 x 1
    kernels have sub-vectors of length d.
    """

    example: ClassVar = {"slices": 1}

    d: int = Field(default=4, ge=1, description="length of a sub-vector of dense and 1 x 1 kernels, in weights")
    along: Literal["inputs"] = Field(default="inputs", description="sub-vectors run along the inputs")  # pyright: ignore[reportIncompatibleVariableOverride]
    slices: int = Field(default=1, ge=1, description="input channels whose kernel slices make one sub-vector")

    def length(self, shape: tuple[int, ...]) -> int:
        window = math.prod(shape[:-2])
        return self.d if window == 1 else self.slices * window
