"""The sparse format of Deep Compression: Huffman codes of values and gaps (Han, Mao, Dally 2016, sections 2 and 4).

Elements that are not symbol 0 are listed in order, each with its distance to the one before. The distance is a field of
b bits, which holds 1 to 2**b; where it is longer, *fillers* stand in between: elements that are symbol 0 after all,
2**b after what comes before.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from quantree.coding.base import Coder, Symbols, shared_alphabet
from quantree.coding.bits import read_varint, varint
from quantree.coding.prefix import LARGEST, PrefixCode, bound, table_bound
from quantree.errors import FormatError, LeafError
from quantree.registry import register

WIDEST = 16
"""Bits of a gap, at most."""


@dataclass(frozen=True, eq=False)
class Gaps:
    """What is not symbol 0. values: [q], symbols; distances: int64 [q] to the element before, first from place -1."""

    values: np.ndarray
    distances: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> "Gaps":
        """From symbols of any shape, in the order of rows."""
        flat = values.reshape(-1)
        places = np.flatnonzero(flat)
        return cls(flat[places], np.diff(places, prepend=-1))

    @cached_property
    def _distinct(self) -> tuple[np.ndarray, np.ndarray]:
        often = np.bincount(self.distances)  # no longer than the stream, and faster than to sort
        distances = np.flatnonzero(often)
        return distances, often[distances]

    def fillers(self, width: int) -> int:
        """How many fillers gaps of so many bits need."""
        distances, often = self._distinct
        return int(often @ ((distances - 1) >> width))

    def counts(self, width: int) -> np.ndarray:
        """How often each gap less 1 occurs, fillers included: int64 [2**width]."""
        distances, often = self._distinct
        counts = np.bincount((distances - 1) & ((1 << width) - 1), often, 1 << width).astype(np.int64)
        counts[-1] += self.fillers(width)
        return counts

    def filled(self, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Codes and gaps less 1, with fillers: two arrays of one length."""
        fillers = (self.distances - 1) >> width
        ends = np.cumsum(fillers + 1) - 1
        codes = np.zeros(len(self.values) + int(fillers.sum()), self.values.dtype)
        gaps = np.full(len(codes), (1 << width) - 1)
        codes[ends], gaps[ends] = self.values, (self.distances - 1) & ((1 << width) - 1)
        return codes, gaps


@dataclass(frozen=True, eq=False)
class _Table:
    """width: of a gap, in bits; the codes of symbols and of gaps less 1."""

    width: int
    codes: PrefixCode
    gaps: PrefixCode

    @classmethod
    def of(cls, streams: list[tuple[np.ndarray, Gaps]], width: int) -> "_Table":
        """The best codes for several streams, given their counts and gaps."""
        codes = np.sum([_with_fillers(counts, gaps, width) for counts, gaps in streams], axis=0)
        steps = np.sum([gaps.counts(width) for _, gaps in streams], axis=0)
        return cls(width, PrefixCode.of(codes), PrefixCode.of(steps))

    def bits(self, counts: np.ndarray, gaps: Gaps) -> int:
        return self.codes.bits(_with_fillers(counts, gaps, self.width)) + self.gaps.bits(gaps.counts(self.width))

    def pack(self, alphabet: int) -> bytes:
        return bytes([self.width]) + self.codes.pack(alphabet) + self.gaps.pack(1 << self.width)

    @classmethod
    def unpack(cls, data: bytes, alphabet: int) -> "_Table":
        if not data or data[0] > WIDEST:
            raise FormatError("relative: the table is missing")
        codes, end = PrefixCode.unpack(data, alphabet, 1)
        gaps, end = PrefixCode.unpack(data, 1 << data[0], end)
        if end < len(data) or not len(codes.symbols) or not len(gaps.symbols):
            raise FormatError("relative: a table that describes no codes")
        return cls(data[0], codes, gaps)


@register("relative")
class Relative(Coder):
    """Relative index: codes and gaps with filler zeros, Huffman-coded, in the width of gaps that takes the fewest bits;
    alphabets up to 65,536.
    """

    def table(self, *streams: Symbols) -> bytes:
        alphabet = shared_alphabet(streams, LARGEST, self.name)
        found = [(symbols.counts, Gaps.of(symbols.values)) for symbols in streams]
        if not any(len(gaps.values) for _, gaps in found):
            return b""
        sizes: list[tuple[int, bytes]] = []
        for width in _promising(found):
            table = _Table.of(found, width)
            packed = table.pack(alphabet)
            sizes.append((8 * len(packed) + sum(table.bits(*each) for each in found), packed))
        return min(sizes, key=lambda size: size[0])[1]

    def encode(self, symbols: Symbols, table: bytes) -> bytes:
        gaps = Gaps.of(symbols.values)
        if not len(gaps.values):
            return b""
        codes = _Table.unpack(table, symbols.alphabet)
        codes.bits(symbols.counts, gaps)
        values, distances = gaps.filled(codes.width)
        coded = codes.codes.encode(values, symbols.alphabet)
        return varint(len(values)) + varint(len(coded)) + coded + codes.gaps.encode(distances, 1 << codes.width)

    def decode(self, payload: bytes, table: bytes, shape: tuple[int, ...], alphabet: int) -> np.ndarray:
        if not 1 <= alphabet <= LARGEST:
            raise FormatError(f"relative: alphabets have 1 to {LARGEST:,} symbols, not {alphabet:,}")
        symbols = np.zeros(shape, np.int32)
        if not payload:
            return symbols
        codes = _Table.unpack(table, alphabet)
        count, start = read_varint(payload)
        length, start = read_varint(payload, start)
        if count > symbols.size:
            raise FormatError(f"relative: {count:,} elements in {symbols.size:,}")
        values = codes.codes.decode(payload[start : start + length], count)
        places = np.cumsum(codes.gaps.decode(payload[start + length :], count).astype(np.int64) + 1) - 1
        if count and places[-1] >= symbols.size:
            raise FormatError(f"relative: an element at place {places[-1]:,} of {symbols.size:,}")
        symbols.reshape(-1)[places] = values
        return symbols

    def cost(self, symbols: Symbols, table: bytes) -> float:
        gaps = Gaps.of(symbols.values)
        if not len(gaps.values):
            return 0
        try:
            return _Table.unpack(table, symbols.alphabet).bits(symbols.counts, gaps) + _HEAD
        except (LeafError, FormatError):
            return math.inf

    def bound(self, symbols: Symbols) -> float:
        """The least, over the width b of gaps, of what two Huffman codes take at most for q elements and the fillers,
        of which there are no more than zeros / 2**b; their tables; and the lengths.
        """
        gaps = Gaps.of(symbols.values)
        if not len(gaps.values):
            return 0
        return (
            7
            + 2 * 7
            + 2 * 8 * 5
            + min(
                bound(_with_fillers(symbols.counts, gaps, width))
                + bound(gaps.counts(width))
                + 8
                + table_bound(symbols.alphabet)
                + table_bound(1 << width)
                for width in range(WIDEST + 1)
            )
        )


_HEAD = 32  # bits of the two lengths, about
_TRIED = 4  # widths of gaps


def _promising(streams: list[tuple[np.ndarray, Gaps]]) -> list[int]:
    """The widths of gaps with the least entropy of symbols and gaps, of which one gives the shortest codes."""
    bits = []
    for width in range(WIDEST + 1):
        codes = np.sum([_with_fillers(counts, gaps, width) for counts, gaps in streams], axis=0)
        bits.append(bound(codes) + bound(np.sum([gaps.counts(width) for _, gaps in streams], axis=0)))
        if not any(gaps.fillers(width) for _, gaps in streams):
            break
    return sorted(range(len(bits)), key=bits.__getitem__)[:_TRIED]


def _with_fillers(counts: np.ndarray, gaps: Gaps, width: int) -> np.ndarray:
    """How often each symbol is listed: int64 [alphabet]; symbol 0 only as a filler."""
    listed = counts.copy()
    listed[0] = gaps.fillers(width)
    return listed
