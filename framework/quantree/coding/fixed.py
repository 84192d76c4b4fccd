"""Fixed width: every symbol takes the bits that tell the alphabet apart (the "index map" of Marino et al. 2021)."""

import numpy as np

from quantree.coding.base import Coder, Symbols, shared_alphabet
from quantree.coding.bits import pack, unpack, width_of
from quantree.errors import FormatError, LeafError
from quantree.registry import register

_LARGEST = 1 << 31  # symbols are int32


@register("fixed")
class Fixed(Coder):
    """ceil(log2(alphabet)) bits per symbol, back to back, lowest bit first; no table; alphabets up to 2**31."""

    def table(self, *streams: Symbols) -> bytes:
        shared_alphabet(streams, _LARGEST, self.name)
        return b""

    def encode(self, symbols: Symbols, table: bytes) -> bytes:
        if table:
            raise LeafError("fixed uses no table")
        return pack(symbols.values, width_of(symbols.alphabet - 1))

    def decode(self, payload: bytes, table: bytes, shape: tuple[int, ...], alphabet: int) -> np.ndarray:
        if table:
            raise FormatError("fixed: a table where none is expected")
        if not 1 <= alphabet <= _LARGEST:
            raise FormatError(f"fixed: alphabets have 1 to {_LARGEST:,} symbols, not {alphabet:,}")
        count = int(np.prod(shape, dtype=object))
        values = unpack(payload, width_of(alphabet - 1), count)
        if count and int(values.max()) >= alphabet:
            raise FormatError(f"fixed: symbol {int(values.max())} in an alphabet of {alphabet:,}")
        return values.astype(np.int32).reshape(shape)

    def cost(self, symbols: Symbols, table: bytes) -> float:
        return symbols.size * width_of(symbols.alphabet - 1)

    def bound(self, symbols: Symbols) -> float:
        """What it takes, to the last bit: ceil(log2 alphabet) per symbol, and what is left of a byte."""
        return symbols.size * width_of(symbols.alphabet - 1) + 7
