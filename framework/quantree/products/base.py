"""What a coded matrix is, and what every layout must be able to do."""

import dataclasses
from abc import ABC, abstractmethod
from typing import ClassVar, Self, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np

from quantree.coding.matrix import matrix
from quantree.encodings.base import static
from quantree.errors import LeafError

LARGEST = 1 << 16
"""Symbols of a matrix, at most."""

C = TypeVar("C", bound=type)


@dataclass_transform(frozen_default=True, field_specifiers=(static, dataclasses.field))
def pytree(cls: C) -> C:
    """Class decorator: a frozen dataclass whose fields are children, but for those that are `static()`."""
    return jax.tree_util.register_dataclass(dataclasses.dataclass(frozen=True)(cls))


@pytree
class CodedMatrix(ABC):
    """A matrix [n, m] of symbols, stored in few bits, and the values that they stand for. A pytree.

    centroids: [k] float. If `zero`, symbol 0 is the value 0 and symbol j > 0 is centroid j - 1; otherwise symbol j is
    centroid j. They alone are trained: `dataclasses.replace(matrix, centroids=...)` is the same matrix with others.
    Columns are read `width` at a time, in lock step.
    """

    centroids: jax.Array
    n: int = static()
    m: int = static()
    zero: bool = static()
    width: int = static()

    forms: ClassVar[tuple[str, ...]]
    """How a product may be computed; see `matmul`."""
    alone: ClassVar[int] = 1 << 25
    """Multiplications of the dense product up to which one core is as fast as several."""

    @classmethod
    @abstractmethod
    def of(cls, symbols: np.ndarray, centroids: jax.Array | np.ndarray, zero: bool) -> Self:
        """From integers [..., m], or [n] for one column. `LeafError` if this layout can't hold them."""

    @property
    @abstractmethod
    def form(self) -> str:
        """The form that is fastest on the backend of this process."""

    def values(self) -> jax.Array:
        """What the symbols stand for: [k + zero] float32."""
        centroids = self.centroids.astype(jnp.float32)
        return jnp.concatenate([jnp.zeros(1, jnp.float32), centroids]) if self.zero else centroids

    @abstractmethod
    def tile(self, first: jax.Array) -> jax.Array:
        """Symbols of columns `first`, ..., `first` + width - 1 <= m - 1: int32 [n, width]."""

    def sums(self, inputs: jax.Array, values: jax.Array, first: jax.Array) -> jax.Array:
        """The product for the columns of a tile: inputs [n, b], values by symbol -> [width, b], all float32. Only of
        layouts with the form "sums".
        """
        raise NotImplementedError

    def column(self, inputs: jax.Array, values: jax.Array, place: jax.Array) -> jax.Array:
        """The product for one column, to be mapped over many: inputs [n, b], values by symbol -> [b], all float32. Only
        of layouts with the form "lockstep".
        """
        raise NotImplementedError

    @abstractmethod
    def bits(self) -> dict[str, int]:
        """Bits in memory of each array, by its name."""

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays: codes, tables, where columns start, centroids."""
        return sum(self.bits().values()) // 8

    @property
    def shape(self) -> tuple[int, int]:
        return self.n, self.m


def check_coded(matrix: object) -> None:
    """`LeafError` if that is no coded matrix."""
    if not isinstance(matrix, CodedMatrix):
        raise LeafError(f"a product takes a CodedMatrix, made by coded_matrix or pack, not {type(matrix).__name__}")


def checked(symbols: np.ndarray, centroids: jax.Array | np.ndarray, zero: bool) -> tuple[np.ndarray, jax.Array]:
    """Symbols as [n, m], a vector as one column, and centroids as an array of floats.

    `LeafError` if they are none or do not fit together.
    """
    symbols, centroids = np.asarray(symbols), jnp.asarray(centroids)
    if not np.issubdtype(symbols.dtype, np.integer) or symbols.ndim < 1:
        raise LeafError(f"symbols are an array of integers, not {symbols.dtype} of shape {symbols.shape}")
    if centroids.ndim != 1 or not jnp.issubdtype(centroids.dtype, jnp.floating):
        raise LeafError(f"centroids are floats [k], not {centroids.dtype} of shape {centroids.shape}")
    kinds = len(centroids) + zero
    if kinds > LARGEST:
        raise LeafError(f"a coded matrix has up to {LARGEST:,} symbols, not {kinds:,}")
    if symbols.size and not 0 <= int(symbols.min()) <= int(symbols.max()) < kinds:
        raise LeafError(f"symbols lie in {symbols.min()}..{symbols.max()}; the centroids explain 0..{kinds - 1}")
    return matrix(symbols), centroids


def array_bits(**arrays: jax.Array) -> dict[str, int]:
    """Bits in memory of each of these."""
    return {name: 8 * array.nbytes for name, array in arrays.items()}


def tile_width(m: int) -> int:
    """Columns of a tile: on a CPU few, so that it stays in the cache; elsewhere a step costs the same for many."""
    return max(1, min(128 if jax.default_backend() == "cpu" else 1024, m))


def skipped_symbol(counts: np.ndarray, zero: bool) -> int:
    """The symbol that a sparse layout leaves out: that of zeros, or else the commonest."""
    return 0 if zero else int(np.argmax(counts))


def line_type(largest: int) -> type[np.unsignedinteger]:
    """The smallest unsigned integers that hold 0..largest."""
    return np.uint8 if largest < 1 << 8 else np.uint16 if largest < 1 << 16 else np.uint32
