"""How a tensor is cut into the vectors that get one code each."""

from typing import Literal

import jax
import jax.numpy as jnp
from pydantic import Field

from quantree.registry import Plugin, register


class Blocking(Plugin, family="blocking"):
    """Cuts a leaf into `segments` sets of n vectors of length d, and puts it together again. Pure and jit-able."""

    def segments(self, shape: tuple[int, ...]) -> int:
        """How many codebooks a leaf of this shape has."""
        raise NotImplementedError

    def width(self, shape: tuple[int, ...]) -> int:
        """d, the length of one vector."""
        raise NotImplementedError

    def split(self, leaf: jax.Array) -> jax.Array:
        """The leaf as blocks, [segments, n, d]."""
        raise NotImplementedError

    def join(self, blocks: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """The inverse of `split`."""
        raise NotImplementedError


@register("scalar")
class Scalar(Blocking):
    """Every weight has a code of its own (d = 1)."""

    def segments(self, shape: tuple[int, ...]) -> int:
        return 1

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
    with d = kh kw a sub-vector along the inputs is one kernel slice. Each row is cut into sub-vectors of length d; a
    last piece that is shorter is filled up with zeros, which are dropped again by `join`.
    """

    d: int = Field(ge=1, description="length of a sub-vector, in weights")
    along: Literal["inputs", "outputs"] = Field(default="inputs", description="the axis that a sub-vector runs along")
    codebooks: Literal["segment", "layer"] = Field(
        default="layer",
        description="one codebook for each position of the sub-vector in its row (Gong et al.), or one per layer",
    )

    def _pieces(self, shape: tuple[int, ...]) -> int:
        outputs = shape[-1]
        inputs = 1
        for size in shape[:-1]:
            inputs *= size
        return -(-(inputs if self.along == "inputs" else outputs) // self.d)

    def segments(self, shape: tuple[int, ...]) -> int:
        return self._pieces(shape) if self.codebooks == "segment" else 1

    def width(self, shape: tuple[int, ...]) -> int:
        return self.d

    def split(self, leaf: jax.Array) -> jax.Array:
        outputs_first = jnp.moveaxis(leaf, (-1, -2), (0, 1)) if leaf.ndim > 1 else leaf[:, None]
        matrix = outputs_first.reshape(outputs_first.shape[0], -1)
        rows = matrix if self.along == "inputs" else matrix.T
        pieces = self._pieces(leaf.shape)
        filled = jnp.pad(rows, ((0, 0), (0, pieces * self.d - rows.shape[1])))
        blocks = filled.reshape(rows.shape[0], pieces, self.d)
        return blocks.swapaxes(0, 1) if self.codebooks == "segment" else blocks.reshape(1, -1, self.d)

    def join(self, blocks: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        pieces = self._pieces(shape)
        rows = blocks.swapaxes(0, 1) if self.codebooks == "segment" else blocks.reshape(-1, pieces, self.d)
        rows = rows.reshape(rows.shape[0], -1)
        if len(shape) == 1:
            return (rows if self.along == "inputs" else rows.T)[:, :1].reshape(-1)[: shape[0]]
        outputs, channels, kernel = shape[-1], shape[-2], shape[:-2]
        inputs = channels
        for size in kernel:
            inputs *= size
        matrix = rows[:, :inputs] if self.along == "inputs" else rows[:, :outputs].T
        return jnp.moveaxis(matrix.reshape(outputs, channels, *kernel), (0, 1), (-1, -2))
