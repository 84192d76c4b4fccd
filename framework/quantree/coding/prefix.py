"""Canonical Huffman codes: the best whole number of bits for each symbol.

A codeword is determined by its length and its place: codewords ascend with (length, symbol), so lengths alone describe
the code. Symbols are called by their *rank* in that order; rank 0 has the shortest codeword, which is all zeros.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from quantree.coding import codewords
from quantree.coding.base import Symbols, counted
from quantree.coding.bits import pack, packed_size, unpack, width_of
from quantree.coding.subset import read_subset, write_subset
from quantree.errors import FormatError, LeafError

LARGEST = 1 << 16
"""Symbols of an alphabet, at most."""
LONGEST = 24
"""Bits of a codeword, at most. Optimal codes are longer only for counts that grow like Fibonacci's numbers."""


@dataclass(frozen=True, eq=False)
class PrefixCode:
    """symbols: int64 [n], those that have a codeword, by rank; lengths: int64 [n], ascending, in bits.

    One symbol alone has a codeword of no bits.
    """

    symbols: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(cls, counts: np.ndarray) -> "PrefixCode":
        """The code that takes the fewest bits for symbols that occur so often: int64 [alphabet]."""
        used = np.flatnonzero(counts)
        return cls._ranked(used, code_lengths(counts[used]))

    @classmethod
    def _ranked(cls, symbols: np.ndarray, lengths: np.ndarray) -> "PrefixCode":
        rank = np.argsort(lengths, kind="stable")
        return cls(symbols[rank], lengths[rank])

    @cached_property
    def words(self) -> np.ndarray:
        """Codewords by rank: uint32 [n], the first bit highest."""
        ends = np.cumsum(1 << (LONGEST - self.lengths))
        return ((ends - (1 << (LONGEST - self.lengths))) >> (LONGEST - self.lengths)).astype(np.uint32)

    @cached_property
    def reader(self) -> "codewords.Reader":
        """What the decoder looks up."""
        return codewords.Reader.of(self.words, self.lengths)

    def bits(self, counts: np.ndarray) -> int:
        """Bits of a stream with these counts, int64 [alphabet]. `LeafError` if a symbol occurs that has no codeword."""
        if int(counts[self.symbols].sum()) != int(counts.sum()):
            raise LeafError("prefix code: the table lacks a symbol that occurs")
        return int(counts[self.symbols] @ self.lengths)

    def ranks(self, values: np.ndarray, alphabet: int) -> np.ndarray:
        """The rank of each symbol; those without a codeword must not occur."""
        places = np.zeros(alphabet, np.uint16)
        places[self.symbols] = np.arange(len(self.symbols))
        return places[values.reshape(-1)]

    def encode(self, values: np.ndarray, alphabet: int) -> bytes:
        """Codewords back to back, the first bit of a byte highest; zeros fill the last byte."""
        if len(self.symbols) < 2:
            return b""
        return codewords.write(self.ranks(values, alphabet), self.words, self.lengths)

    def decode(self, data: bytes, count: int) -> np.ndarray:
        """Inverse of `encode` -> int32 [count]. `FormatError` if the symbols do not end where the bytes end."""
        if len(self.symbols) < 2:
            if data or (count and not len(self.symbols)):
                raise FormatError("prefix code: bytes where none are needed, or symbols without a code")
            return np.full(count, self.symbols[0] if count else 0, np.int32)
        return self.symbols.astype(np.int32)[codewords.read(data, self.reader, count)]

    def pack(self, alphabet: int) -> bytes:
        """The code as bytes; nothing for a code without symbols."""
        if not len(self.symbols):
            return b""
        order = np.argsort(self.symbols)
        kind, head = write_subset(self.symbols[order], alphabet)
        least = int(self.lengths[0])
        width = width_of(int(self.lengths[-1]) - least)
        return bytes([kind | width << 2, least]) + head + pack(self.lengths[order] - least, width)

    @classmethod
    def unpack(cls, data: bytes, alphabet: int, start: int = 0) -> tuple["PrefixCode", int]:
        """Inverse of `pack`, from `start` -> (code, where it ends). `FormatError` if that describes no code."""
        if not 1 <= alphabet <= LARGEST:
            raise FormatError(f"prefix code: alphabets have 1 to {LARGEST:,} symbols, not {alphabet:,}")
        if start >= len(data):
            return cls(np.zeros(0, np.int64), np.zeros(0, np.int64)), start
        kind, width = data[start] & 3, data[start] >> 2
        if start + 1 >= len(data) or width > width_of(LONGEST):
            raise FormatError("prefix code: table that describes no code")
        used, place = read_subset(kind, data, start + 2, alphabet)
        end = place + packed_size(len(used), width)
        lengths = unpack(data[place:end], width, len(used)).astype(np.int64) + data[start + 1]
        # One symbol has a codeword of no bits, which fills the tree too.
        if not len(used) or lengths.max() > LONGEST or (1 << (LONGEST - lengths)).sum() != 1 << LONGEST:
            raise FormatError("prefix code: table whose codewords are not the leaves of a tree")
        return cls._ranked(used, lengths), end


def shared_code(streams: Sequence[Symbols], coder: str) -> PrefixCode:
    """The best code for several streams of one alphabet together. `LeafError` if there are too many symbols."""
    return PrefixCode.of(counted(streams, LARGEST, coder)[0])


def code_lengths(counts: np.ndarray) -> np.ndarray:
    """Lengths of an optimal prefix code with codewords of at most `LONGEST` bits: positive counts [n] -> int64 [n].

    Package-merge (Larmore and Hirschberg 1990): a code of n symbols is a choice of 2 n - 2 of the cheapest items, where
    an item is a symbol at one depth or a package, a pair of items one level deeper.
    """
    n = len(counts)
    if n < 2:
        return np.zeros(n, np.int64)
    order = np.argsort(counts, kind="stable")
    symbols = items = counts[order].astype(np.int64)
    levels = [np.ones(n, bool)]
    for _ in range(LONGEST - 1):
        packages = items[: len(items) // 2 * 2].reshape(-1, 2).sum(axis=1)
        both = np.concatenate([symbols, packages])
        cheapest = np.argsort(both, kind="stable")
        items = both[cheapest]
        levels.append(cheapest < n)
    lengths, take = np.zeros(n, np.int64), 2 * n - 2
    for symbol in reversed(levels):
        chosen = int(np.count_nonzero(symbol[:take]))
        lengths[order[:chosen]] += 1
        take = 2 * (take - chosen)
    return lengths


def bound(counts: np.ndarray) -> float:
    """Bits that the best code of symbols with these counts can't exceed: int64 [alphabet].

    n (H + 1 - log2(1 - k / 2**24)) for n symbols of k kinds of entropy H, which is at most log2 k. Proof: lengths
    ceil(-log2 p) make a code of less than H + 1 bits (Shannon 1948); with probabilities (1 - e) p + e / k and
    e = k / 2**24 none is longer than 24, and each grows by -log2(1 - e) at most.
    """
    used = counts[counts > 0].astype(np.float64)
    if not len(used):
        return 0.0
    n = used.sum()
    return float(n + used @ np.log2(n / used) - n * np.log2(1 - len(used) / (1 << LONGEST)))


def table_bound(alphabet: int) -> int:
    """Bits of a packed code, at most: kind and least length, a bitmap of the alphabet, and each length in 5 bits."""
    return 16 + 8 * packed_size(alphabet, 1) + 8 * packed_size(alphabet, width_of(LONGEST))
