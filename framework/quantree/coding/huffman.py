"""Huffman's code over all symbols, in the order of rows or of columns."""

import math

import numpy as np

from quantree.coding.base import Coder, Symbols
from quantree.coding.matrix import columns_first, columns_last
from quantree.coding.prefix import PrefixCode, bound, shared_code, table_bound
from quantree.errors import FormatError, LeafError
from quantree.registry import register


@register("huffman")
class Huffman(Coder):
    """A canonical Huffman code: the best that whole bits per symbol can do, at least 1 each; alphabets up to 65,536."""

    def table(self, *streams: Symbols) -> bytes:
        return shared_code(streams, self.name).pack(streams[0].alphabet)

    def encode(self, symbols: Symbols, table: bytes) -> bytes:
        code, _ = PrefixCode.unpack(table, symbols.alphabet)
        code.bits(symbols.counts)
        return code.encode(self.ordered(symbols.values), symbols.alphabet)

    def decode(self, payload: bytes, table: bytes, shape: tuple[int, ...], alphabet: int) -> np.ndarray:
        code, end = PrefixCode.unpack(table, alphabet)
        if end < len(table):
            raise FormatError(f"{self.name}: a table that goes on")
        return self.restored(code.decode(payload, int(np.prod(shape, dtype=object))), shape)

    def cost(self, symbols: Symbols, table: bytes) -> float:
        try:
            return PrefixCode.unpack(table, symbols.alphabet)[0].bits(symbols.counts)
        except (LeafError, FormatError):
            return math.inf

    def bound(self, symbols: Symbols) -> float:
        """A bit per symbol beyond the entropy, and the table; see `prefix.bound`."""
        return bound(symbols.counts) + 7 + table_bound(symbols.alphabet)

    def ordered(self, values: np.ndarray) -> np.ndarray:
        """The symbols in the order in which they are coded, flat."""
        return values.reshape(-1)

    def restored(self, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The inverse of `ordered`."""
        return values.reshape(shape)


@register("hac")
class Hac(Huffman):
    """Huffman address map (Marino et al. 2021): the same code, column by column, which a product with the coded matrix
    needs (`quantree.products`). As large as `huffman`.
    """

    def ordered(self, values: np.ndarray) -> np.ndarray:
        return columns_first(values)

    def restored(self, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        return columns_last(values, shape)
