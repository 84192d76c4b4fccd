"""Index map: a code of fixed width for every element."""

from typing import Self

import jax
import jax.numpy as jnp
import numpy as np

from quantree.coding.bits import width_of
from quantree.encodings.base import static
from quantree.products.base import CodedMatrix, array_bits, checked, pytree, tile_width

_WORD = 32  # bits


@pytree
class IndexMap(CodedMatrix):
    """ceil(log2 k) bits per element (Marino et al. 2021), as many elements of a column in a word as it has room for.

    words: uint32 [ceil(n / elements per word), m]; row i is in the fields of word i // elements per word, the first in
    the lowest bits. field: bits of an element.
    """

    words: jax.Array
    field: int = static()

    forms = ("tile",)

    @classmethod
    def of(cls, symbols: np.ndarray, centroids: jax.Array | np.ndarray, zero: bool) -> Self:
        symbols, centroids = checked(symbols, centroids, zero)
        n, m = symbols.shape
        field = max(1, width_of(len(centroids) + zero - 1))
        room = _WORD // field
        lines = -(-n // room)
        filled = np.zeros((lines * room, m), np.uint32)
        filled[:n] = symbols
        shifts = np.arange(0, room * field, field, dtype=np.uint32)[:, None]
        words = np.bitwise_or.reduce(filled.reshape(lines, room, m) << shifts, axis=1)
        return cls(centroids, n, m, zero, tile_width(m), jnp.asarray(words), field)

    @property
    def form(self) -> str:
        return "tile"

    def tile(self, first: jax.Array) -> jax.Array:
        words = jax.lax.dynamic_slice(self.words, (jnp.int32(0), first), (len(self.words), self.width))
        shifts = jnp.arange(0, _WORD // self.field * self.field, self.field, dtype=jnp.uint32)
        symbols = words[:, None] >> shifts[None, :, None] & ((1 << self.field) - 1)
        return symbols.reshape(-1, self.width)[: self.n].astype(jnp.int32)

    def bits(self) -> dict[str, int]:
        return array_bits(words=self.words, centroids=self.centroids)
