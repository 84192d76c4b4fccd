"""Positions and values of what is not symbol 0, line by line: CSC, CSR and sHAC.

A *line* is a column (CSC, sHAC) or a row (CSR) of the leaf as a matrix. The payload has one byte, the width of a count;
then how many elements each line has; then their places within the line, in the fewest bits that tell these apart; then
their values. That are symbols less 1, of fixed width or in a Huffman code.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from quantree.coding.base import Coder, Symbols, counted, shared_alphabet
from quantree.coding.bits import pack, packed_size, unpack, width_of
from quantree.coding.matrix import matrix, matrix_shape
from quantree.coding.prefix import LARGEST, PrefixCode, bound, table_bound
from quantree.errors import FormatError, LeafError
from quantree.registry import register


@dataclass(frozen=True, eq=False)
class Lines:
    """What is not symbol 0. counts: int64 [lines]; places: int64 [q] within the line; values: [q], symbols less 1.

    length: of a line.
    """

    length: int
    counts: np.ndarray
    places: np.ndarray
    values: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, by_columns: bool) -> "Lines":
        """From symbols of any shape."""
        lines = matrix(values).T if by_columns else matrix(values)
        lines = np.ascontiguousarray(lines)
        line, places = np.nonzero(lines)
        return cls(lines.shape[1], np.bincount(line, minlength=len(lines)), places, lines[line, places] - 1)

    def symbols(self, shape: tuple[int, ...], by_columns: bool) -> np.ndarray:
        """Inverse of `of` -> int32 of this shape."""
        lines = np.zeros((len(self.counts), self.length), np.int32)
        lines[np.repeat(np.arange(len(self.counts)), self.counts), self.places] = self.values + 1
        return np.ascontiguousarray(lines.T if by_columns else lines).reshape(shape)

    def pack(self) -> bytes:
        """Width of the counts, counts, places."""
        width = width_of(int(self.counts.max(initial=0)))
        return bytes([width]) + pack(self.counts, width) + pack(self.places, width_of(self.length - 1))


def read_positions(data: bytes, lines: int, length: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Inverse of `Lines.pack` -> (counts, places, where they end). `FormatError` if no matrix is like that."""
    width = data[0] if data else 255
    if width > 32:
        raise FormatError("the number of elements in each line is missing")
    end = 1 + packed_size(lines, width)
    counts = unpack(data[1:end], width, lines).astype(np.int64)
    if int(counts.max(initial=0)) > length:
        raise FormatError(f"{int(counts.max())} elements in a line of {length}")
    total, start = int(counts.sum()), end
    end += packed_size(total, width_of(length - 1))
    places = unpack(data[start:end], width_of(length - 1), total).astype(np.int64)
    # Within a line places ascend; from one line to the next they may do anything.
    first = np.zeros(total, bool)
    starts = np.cumsum(counts) - counts
    first[starts[counts > 0]] = True
    if total and (int(places.max()) >= length or not (first[1:] | (np.diff(places) > 0)).all()):
        raise FormatError("the places of a line are not ascending places of it")
    return counts, places, end


def position_bits(values: np.ndarray, by_columns: bool) -> int:
    """Bits of what `Lines.pack` writes."""
    lines = matrix(values)
    counts = np.count_nonzero(lines, axis=0 if by_columns else 1)
    length = lines.shape[0 if by_columns else 1]
    total, width = int(counts.sum()), width_of(int(counts.max(initial=0)))
    return 8 + 8 * packed_size(len(counts), width) + 8 * packed_size(total, width_of(length - 1))


class _Sparse(Coder):
    """What the coders of this file share: all but the values."""

    by_columns: ClassVar[bool] = True

    @abstractmethod
    def write_values(self, values: np.ndarray, table: bytes, alphabet: int) -> bytes:
        """Symbols less 1, below `alphabet` -> bytes."""

    @abstractmethod
    def read_values(self, data: bytes, table: bytes, count: int, alphabet: int) -> np.ndarray:
        """Inverse of `write_values` -> [count]. `FormatError`."""

    @abstractmethod
    def value_bits(self, counts: np.ndarray, table: bytes) -> int:
        """Bits of the values, of which there are so many of each kind: int64 [alphabet]. `LeafError`, `FormatError`."""

    def encode(self, symbols: Symbols, table: bytes) -> bytes:
        shared_alphabet([symbols], LARGEST, self.name)
        self.value_bits(symbols.counts[1:], table)
        if _silent(symbols.values.shape, symbols.alphabet):
            return b""
        lines = Lines.of(symbols.values, self.by_columns)
        return lines.pack() + self.write_values(lines.values, table, symbols.alphabet - 1)

    def decode(self, payload: bytes, table: bytes, shape: tuple[int, ...], alphabet: int) -> np.ndarray:
        if not 1 <= alphabet <= LARGEST:
            raise FormatError(f"{self.name}: alphabets have 1 to {LARGEST:,} symbols, not {alphabet:,}")
        if _silent(shape, alphabet):
            if payload or table:
                raise FormatError(f"{self.name}: bytes for a stream without any but symbol 0")
            return np.zeros(shape, np.int32)
        rows, columns = matrix_shape(shape)
        lines, length = (columns, rows) if self.by_columns else (rows, columns)
        counts, places, end = read_positions(payload, lines, length)
        values = self.read_values(payload[end:], table, len(places), alphabet - 1)
        return Lines(length, counts, places, values).symbols(shape, self.by_columns)

    def cost(self, symbols: Symbols, table: bytes) -> float:
        try:
            values = self.value_bits(symbols.counts[1:], table)
        except (LeafError, FormatError):
            return math.inf
        if _silent(symbols.values.shape, symbols.alphabet):
            return 0
        return position_bits(symbols.values, self.by_columns) + values

    def bound(self, symbols: Symbols) -> float:
        """With q elements other than 0 in m lines of n: q b(n - 1) + m b(n) and what the values take at most, where
        b(x) bits hold 0..x; and what is left of bytes.
        """
        rows, columns = matrix_shape(symbols.values.shape)
        lines, length = (columns, rows) if self.by_columns else (rows, columns)
        q = symbols.size - int(symbols.counts[0])
        return 8 + q * width_of(max(length - 1, 0)) + lines * width_of(length) + self.value_bound(symbols) + 3 * 7

    @abstractmethod
    def value_bound(self, symbols: Symbols) -> float:
        """Bits of values and table, at most."""


@register("csc")
class Csc(_Sparse):
    """Compressed sparse columns: values and places of fixed width; alphabets up to 65,536."""

    def table(self, *streams: Symbols) -> bytes:
        shared_alphabet(streams, LARGEST, self.name)
        return b""

    def write_values(self, values: np.ndarray, table: bytes, alphabet: int) -> bytes:
        return pack(values, _width(alphabet))

    def read_values(self, data: bytes, table: bytes, count: int, alphabet: int) -> np.ndarray:
        values = unpack(data, _width(alphabet), count)
        if table or (count and int(values.max()) >= alphabet):
            raise FormatError(f"{self.name}: a table, or a symbol that the alphabet lacks")
        return values.astype(np.int32)

    def value_bits(self, counts: np.ndarray, table: bytes) -> int:
        if table:
            raise LeafError(f"{self.name} uses no table")
        return 8 * packed_size(int(counts.sum()), _width(len(counts)))

    def value_bound(self, symbols: Symbols) -> float:
        return int(symbols.counts[1:].sum()) * _width(symbols.alphabet - 1)


@register("csr")
class Csr(Csc):
    """Compressed sparse rows: as `csc`, row by row."""

    by_columns = False


@register("shac")
class Shac(_Sparse):
    """Sparse Huffman address map (Marino et al. 2021): as `csc`, with the values in a Huffman code.

    Places take the fewest bits that hold a row number. It beats `hac` where these are fewer than the bits that `hac`
    spends on zeros, one each at the least: for a density below about 1 / (1 + bits of a place).
    """

    def table(self, *streams: Symbols) -> bytes:
        counts, alphabet = counted(streams, LARGEST, self.name)
        return PrefixCode.of(counts[1:]).pack(alphabet - 1)

    def write_values(self, values: np.ndarray, table: bytes, alphabet: int) -> bytes:
        return _code(table, alphabet).encode(values, alphabet)

    def read_values(self, data: bytes, table: bytes, count: int, alphabet: int) -> np.ndarray:
        return _code(table, alphabet).decode(data, count)

    def value_bits(self, counts: np.ndarray, table: bytes) -> int:
        return _code(table, len(counts)).bits(counts)

    def value_bound(self, symbols: Symbols) -> float:
        return bound(symbols.counts[1:]) + table_bound(symbols.alphabet)


def _silent(shape: tuple[int, ...], alphabet: int) -> bool:
    """True if there can be nothing but symbol 0."""
    return alphabet == 1 or 0 in shape


def _width(alphabet: int) -> int:
    return width_of(max(alphabet - 1, 0))


def _code(table: bytes, alphabet: int) -> PrefixCode:
    """The code of values; of an alphabet without any, the code without symbols."""
    if not table:
        return PrefixCode.of(np.zeros(0, np.int64))
    code, end = PrefixCode.unpack(table, alphabet)
    if end < len(table):
        raise FormatError("shac: a table that goes on")
    return code
