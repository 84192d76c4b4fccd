"""ANS over the rows and columns that are in use.

A heavily pruned layer has whole rows and columns of zeros: inputs that nobody reads, units that nobody feeds. A bit for
each says so, and the zeros inside of them need not be coded at all.
"""

from dataclasses import dataclass

import numpy as np

from quantree.coding.ans import Ans
from quantree.coding.base import Coder, Symbols
from quantree.coding.bits import pack, packed_size, unpack
from quantree.coding.matrix import matrix as as_matrix
from quantree.registry import register


@dataclass(frozen=True, eq=False)
class _Core:
    """rows, columns: bool, which of them hold a symbol other than 0. symbols: where both do."""

    rows: np.ndarray
    columns: np.ndarray
    symbols: Symbols

    @classmethod
    def of(cls, symbols: Symbols) -> "_Core":
        if not _says_something(symbols.values.shape, symbols.alphabet):
            return cls(np.zeros(0, bool), np.zeros(0, bool), symbols)
        matrix = as_matrix(symbols.values)
        rows, columns = (matrix != 0).any(axis=1), (matrix != 0).any(axis=0)
        return cls(rows, columns, Symbols(matrix[np.ix_(rows, columns)], symbols.alphabet))

    @property
    def head(self) -> bytes:
        return pack(np.concatenate([self.rows, self.columns]).astype(np.uint8), 1)


def _says_something(shape: tuple[int, ...], alphabet: int) -> bool:
    """False if there is nothing to tell: no symbol at all, or none but 0."""
    return alphabet > 1 and 0 not in shape


@register("live")
class Live(Coder):
    """A bitmap of the rows and columns in which anything but symbol 0 occurs, then ANS of what lies in both.

    Rows are all axes but the last. The payload is the bitmap, rows first, and then that of `ans`, whose table it is.
    """

    def table(self, *streams: Symbols) -> bytes:
        return Ans().table(*(_Core.of(symbols).symbols for symbols in streams))

    def encode(self, symbols: Symbols, table: bytes) -> bytes:
        core = _Core.of(symbols)
        return core.head + Ans().encode(core.symbols, table)

    def cost(self, symbols: Symbols, table: bytes) -> float:
        core = _Core.of(symbols)
        return 8 * len(core.head) + Ans().cost(core.symbols, table)

    def decode(self, payload: bytes, table: bytes, shape: tuple[int, ...], alphabet: int) -> np.ndarray:
        if not _says_something(shape, alphabet):
            return Ans().decode(payload, table, shape, alphabet)
        symbols = np.zeros(shape, np.int32)
        matrix = as_matrix(symbols)
        head = packed_size(sum(matrix.shape), 1)
        bits = unpack(payload[:head], 1, sum(matrix.shape)).astype(bool)
        rows, columns = bits[: matrix.shape[0]], bits[matrix.shape[0] :]
        place = np.ix_(rows, columns)
        inner = (int(np.count_nonzero(rows)), int(np.count_nonzero(columns)))
        matrix[place] = Ans().decode(payload[head:], table, inner, alphabet)
        return symbols

    def bound(self, symbols: Symbols) -> float:
        """A bit for each row and column, and the bound of `ans` for what is left."""
        core = _Core.of(symbols)
        return 8 * len(core.head) + Ans().bound(core.symbols)
