"""What a coder is, and how the smallest one for a stream is found."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from quantree.errors import FormatError, LeafError
from quantree.registry import Plugin, registered

_BLOCK = 1 << 20
_SLACK = 64  # bits by which the cost that a coder predicts may be off, and then some


@dataclass(frozen=True, eq=False)
class Symbols:
    """A stream to be coded: an integer array of any shape with values in 0..alphabet-1 (`LeafError` if it is not)."""

    values: np.ndarray
    alphabet: int

    def __post_init__(self) -> None:
        if not isinstance(self.values, np.ndarray) or not np.issubdtype(self.values.dtype, np.integer):
            given = getattr(self.values, "dtype", type(self.values).__name__)
            raise LeafError(f"symbols must be an array of integers, not {given}")
        if not isinstance(self.alphabet, int | np.integer) or self.alphabet < 1:
            raise LeafError(f"an alphabet has one symbol or more, not {self.alphabet}")
        if self.values.size:
            low, high = int(self.values.min()), int(self.values.max())
            if low < 0 or high >= self.alphabet:
                raise LeafError(f"symbols must lie in 0..{self.alphabet - 1}; these lie in {low}..{high}")

    @property
    def size(self) -> int:
        return self.values.size

    @cached_property
    def counts(self) -> np.ndarray:
        """How often each symbol occurs: int64 [alphabet]."""
        flat = self.values.reshape(-1)
        counts = np.zeros(self.alphabet, np.int64)
        for start in range(0, flat.size, _BLOCK):  # bincount widens its input to 64 bits: not all of it at once
            counts += np.bincount(flat[start : start + _BLOCK], minlength=self.alphabet)
        return counts

    @property
    def entropy(self) -> float:
        """Bits of the whole stream when each symbol costs -log2 of its share."""
        counts = self.counts[self.counts > 0]
        return float(counts @ (math.log2(self.size) - np.log2(counts))) if self.size else 0.0


class Coder(Plugin, family="coder"):
    """Symbols <-> bytes, without loss.

    What the decoder must know besides the payload is the *table*; another stream may reuse it. A file names the coder
    and stores table and payload, never settings: they steer the encoder, all have defaults, and any instance decodes.
    A coder may make use of the shape of the values (the columns of a matrix), which `decode` is told.
    """

    @abstractmethod
    def table(self, *streams: Symbols) -> bytes:
        """The table that codes all of these streams best, one or more of the same alphabet; b"" if none is needed.

        `LeafError` if this coder can't code them.
        """

    @abstractmethod
    def encode(self, symbols: Symbols, table: bytes) -> bytes:
        """The payload. `LeafError` if the table has no code for a symbol that occurs."""

    @abstractmethod
    def decode(self, payload: bytes, table: bytes, shape: tuple[int, ...], alphabet: int) -> np.ndarray:
        """The symbols again, int32 of `shape`. `FormatError` if payload and table do not fit together, the shape and
        the alphabet; damage that fits gives other symbols. Memory is bounded by the shape and the bytes given.
        """

    def cost(self, symbols: Symbols, table: bytes) -> float:
        """Bits of the payload, give or take a few bytes; infinite if `table` can't code `symbols`."""
        try:
            return 8 * len(self.encode(symbols, table))
        except (LeafError, FormatError):
            return math.inf

    def bound(self, symbols: Symbols) -> float:
        """Bits that a table of its own and the payload can't exceed together, by a proof; infinite if there is none."""
        return math.inf


def shared_alphabet(streams: Sequence[Symbols], largest: int, coder: str) -> int:
    """The alphabet of all these streams. `LeafError` if they differ in it or it is too large for a coder."""
    if not streams:
        raise LeafError(f"{coder}: a table is made for one stream or more, not for none")
    alphabet = streams[0].alphabet
    if any(symbols.alphabet != alphabet for symbols in streams):
        raise LeafError(f"{coder}: streams with different alphabets share no table")
    if alphabet > largest:
        raise LeafError(f"{coder} codes alphabets up to {largest:,}, not {alphabet:,}")
    return alphabet


def counted(streams: Sequence[Symbols], largest: int, coder: str) -> tuple[np.ndarray, int]:
    """How often each symbol occurs in all streams together, int64 [alphabet], and the alphabet. `LeafError`."""
    alphabet = shared_alphabet(streams, largest, coder)
    return np.sum([symbols.counts for symbols in streams], axis=0), alphabet


@dataclass(frozen=True)
class Coded:
    """A coded stream. `shared` is the number of the earlier table that it uses (see `share`), None if it is its own."""

    coder: str
    table: bytes
    payload: bytes
    shared: int | None = None

    @property
    def size(self) -> int:
        """Bytes that this stream adds to the file."""
        return len(self.payload) + (len(self.table) if self.shared is None else 0)


def every_coder() -> list[Coder]:
    """Every registered coder with default settings, by name."""
    return [coder() for _, coder in sorted(registered("coder").items())]


def smallest(symbols: Symbols, coders: Sequence[Coder] | None = None) -> Coded:
    """Codes `symbols` in the fewest bytes, with a table of its own.

    coders: candidates; every registered coder with default settings if None. Of equal ones the first wins.
    """
    coders = every_coder() if coders is None else coders
    offers: list[tuple[float, Coder, bytes]] = []
    reasons: list[str] = []
    for coder in coders:
        try:
            table = coder.table(symbols)
        except LeafError as error:
            reasons.append(str(error))
        else:
            offers.append((8 * len(table) + coder.cost(symbols, table), coder, table))
    least = min((offer[0] for offer in offers), default=math.inf)
    if math.isinf(least):
        raise LeafError("no coder can code this stream: " + "; ".join(reasons or ["none was given"]))
    coded = [
        Coded(coder.name, table, coder.encode(symbols, table))
        for cost, coder, table in offers
        if cost <= least + _SLACK  # costs are predictions: near ties are settled by coding
    ]
    return min(coded, key=lambda one: one.size)
