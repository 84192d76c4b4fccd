"""Asymmetric numeral systems with one static model per stream (Duda 2013), coded by the library constriction.

The model is kept small: a file of a few kilobytes can't afford 16 bits per symbol of the alphabet. Frequencies are
stored as minifloats, an exponent and a mantissa of a few bits. A relative error e of the frequencies costs about
e**2 / 1.4 bits per symbol that is not the commonest, so that 3 bits of mantissa are plenty for a thousand symbols and
8 for millions; the encoder tries all widths. docs/file-format.md has the layout.
"""

import math
from dataclasses import dataclass
from typing import Any

import constriction
import numpy as np

from quantree.coding.base import Coder, Symbols, counted
from quantree.coding.bits import pack, packed_size, unpack, width_of
from quantree.coding.subset import ALL, read_subset, write_subset
from quantree.errors import FormatError, LeafError
from quantree.registry import register

_stream: Any = constriction.stream  # pyright: ignore[reportAttributeAccessIssue]  (it has no stubs)
_LARGEST = 1 << 16
_TOTAL = 1 << 24  # constriction's precision: frequencies are integers that add up to this
_MANTISSAS = range(11)
_EXPONENTS = 25  # weights that differ by more than the total can't be told apart
_ENDING = 20  # bits, on average, by which constriction's last words exceed the information in them

_LONG = 1 << 16  # symbols; in longer streams a byte counts less than the time to renumber them
_PLAIN = 3  # beside the kinds of subset: all symbols, and in their own order


@dataclass(frozen=True, eq=False)
class _Model:
    """symbols: those that occur, in the model's order; frequencies: int64, > 0, sum 2**24."""

    symbols: np.ndarray
    frequencies: np.ndarray

    @classmethod
    def from_weights(cls, kind: int, symbols: np.ndarray, weights: np.ndarray) -> "_Model":
        """Symbols [n] ascending, weights int64 [n] below 2**36."""
        spare = _TOTAL - len(symbols)
        frequencies = 1 + weights * spare // weights.sum()
        top = int(np.argmax(weights))
        frequencies[top] += _TOTAL - frequencies.sum()
        if kind == _PLAIN:
            return cls(symbols, frequencies)
        # Constriction starts from an empty state: a tail of the symbol at the bottom of the range costs nothing.
        order = np.concatenate([[top], np.delete(np.arange(len(symbols)), top)])
        return cls(symbols[order], frequencies[order])

    @property
    def plain(self) -> bool:
        """True if symbol i is the i-th."""
        return bool((self.symbols == np.arange(len(self.symbols))).all())

    def categorical(self) -> Any:
        # Given weights f - 1 that add up to 2**24 - n, constriction's rule (1 + weight * (2**24 - n) / sum) gives back
        # exactly f, in float32 too: all its sums are integers up to 2**24.
        return _stream.model.Categorical((self.frequencies - 1).astype(np.float32), perfect=False)


@register("ans")
class Ans(Coder):
    """Within a fraction of a percent of the entropy, and a few bytes; alphabets up to 65,536."""

    def table(self, *streams: Symbols) -> bytes:
        counts, alphabet = counted(streams, _LARGEST, self.name)
        used = np.flatnonzero(counts)
        if not len(used):
            return b""
        kind, head = write_subset(used, alphabet)
        if kind == ALL and max(symbols.size for symbols in streams) > _LONG:
            kind = _PLAIN
        if len(used) == 1:
            return bytes([kind << 4]) + head
        best, least = b"", math.inf
        for mantissa in _MANTISSAS:
            fields = _minifloats(counts[used], mantissa)
            size = packed_size(len(fields), width_of(int(fields.max())))
            model = _Model.from_weights(kind, used, _weights(fields, mantissa))
            cost = 8 * size + float(counts[model.symbols] @ (24 - np.log2(model.frequencies)))
            if cost < least:
                # Fields are as wide as the bytes allow, so that the width follows from the length of the table.
                packed = pack(fields, min(8 * size // len(fields), 32))
                best, least = bytes([kind << 4 | mantissa]) + head + packed, cost
        return best

    def encode(self, symbols: Symbols, table: bytes) -> bytes:
        if not symbols.size:
            return b""
        model = _read_table(table, symbols.alphabet)
        if int(symbols.counts[model.symbols].sum()) != symbols.size:
            raise LeafError("ans: the table lacks a symbol that occurs")
        if len(model.symbols) == 1:
            return b""
        values = symbols.values.reshape(-1)
        if not model.plain:
            places = np.zeros(symbols.alphabet, np.int32)
            places[model.symbols] = np.arange(len(model.symbols))
            values = places[values]
        coder = _stream.stack.AnsCoder()
        coder.encode_reverse(np.ascontiguousarray(values, np.int32), model.categorical())
        # The last word is the top of the state and not zero; its leading zeros, the last bytes, are understood.
        return coder.get_compressed().astype("<u4").tobytes().rstrip(b"\0")

    def decode(self, payload: bytes, table: bytes, shape: tuple[int, ...], alphabet: int) -> np.ndarray:
        count = int(np.prod(shape, dtype=object))
        if not count:
            if payload or table:
                raise FormatError("ans: bytes for a stream without symbols")
            return np.zeros(shape, np.int32)
        model = _read_table(table, alphabet)
        if payload[-1:] == b"\0" or (payload and len(model.symbols) == 1):
            raise FormatError("ans: the payload ends in bytes that say nothing")
        if len(model.symbols) == 1:
            return np.full(shape, model.symbols[0], np.int32)
        words = np.frombuffer(payload + b"\0" * (-len(payload) % 4), "<u4").astype(np.uint32)
        coder = _stream.stack.AnsCoder(words)
        values = coder.decode(model.categorical(), count)
        if not coder.is_empty():
            raise FormatError("ans: the payload does not end where the symbols end")
        return (values if model.plain else model.symbols.astype(np.int32)[values]).reshape(shape)

    def cost(self, symbols: Symbols, table: bytes) -> float:
        if not symbols.size:
            return math.inf if table else 0
        try:
            model = _read_table(table, symbols.alphabet)
        except FormatError:
            return math.inf
        counts = symbols.counts[model.symbols]
        if int(counts.sum()) != symbols.size:
            return math.inf
        return float(counts @ (24 - np.log2(model.frequencies))) + (_ENDING if len(counts) > 1 else 0)

    def bound(self, symbols: Symbols) -> float:
        """N (H + e) for n symbols of k kinds of entropy H, where e is about 0.007: proven, not what is observed.

        A mantissa of 10 bits, no better than the one that is chosen, changes shares by 2**-11 of themselves, and what
        is raised to the least or reserved by k / 2**24 in all. A symbol of frequency F takes a state s >= 2**32 to at
        most s 2**24 / F + 2**24, which is 1 + 2**-8 times what it should be; the first two may cost 24 bits more, and
        the state at the end takes 64.
        """
        used = symbols.counts[symbols.counts > 0].astype(np.float64)
        if len(used) < 2:
            return 8 * (2 + packed_size(symbols.alphabet, 1)) if symbols.size else 0
        share, few = 2.0**-11, len(used) / _TOTAL
        more = math.log2((1 + share + few) / ((1 - share) * (1 - few))) + math.log2(1 + 2**-8)
        table = 8 * (1 + packed_size(symbols.alphabet, 1) + packed_size(len(used), 15))
        return symbols.entropy + symbols.size * more + table + 2 * 24 + 64 + 31


def _minifloats(counts: np.ndarray, mantissa: int) -> np.ndarray:
    """Positive counts -> fields (exponent << mantissa bits | mantissa) of their ratio to the smallest one, rounded.

    Where the largest is more than 2**24 times as large, what is smallest is raised: it costs nothing to speak of.
    """
    ratios = np.maximum(counts / max(counts.min(), counts.max() / (1 << _EXPONENTS - 1)), 1)
    fraction, exponent = np.frexp(ratios)  # ratio = fraction * 2**exponent, fraction in [0.5, 1)
    rounded = np.rint((2 * fraction - 1) * (1 << mantissa)).astype(np.int64)  # 2**mantissa carries into the exponent
    return np.minimum(((exponent.astype(np.int64) - 1) << mantissa) + rounded, (_EXPONENTS << mantissa) - 1)


def _weights(fields: np.ndarray, mantissa: int) -> np.ndarray:
    fields, one = fields.astype(np.int64), 1 << mantissa
    return (one + (fields & (one - 1))) << (fields >> mantissa)


def _read_table(table: bytes, alphabet: int) -> _Model:
    if not 1 <= alphabet <= _LARGEST:
        raise FormatError(f"ans: alphabets have 1 to {_LARGEST:,} symbols, not {alphabet:,}")
    if not table:
        raise FormatError("ans: the table is missing")
    kind, mantissa = table[0] >> 4, table[0] & 15
    used, end = read_subset(ALL if kind == _PLAIN else kind, table, 1, alphabet)
    fields = table[end:]
    if not len(used) or mantissa not in _MANTISSAS or (len(used) == 1 and fields):
        raise FormatError("ans: table that describes no model")
    if len(used) == 1:
        return _Model(used, np.array([_TOTAL]))
    packed = unpack(fields, min(8 * len(fields) // len(used), 32), len(used))
    if int(packed.max()) >= _EXPONENTS << mantissa:
        raise FormatError("ans: table with a frequency out of range")
    return _Model.from_weights(kind, used, _weights(packed, mantissa))
