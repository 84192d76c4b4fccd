"""Huffman streams of many columns, decoded in lock step.

A column begins at a bit of its own, so all columns of a tile can be read side by side: each step looks at the next 32
bits of each. A table of `WINDOW` bits says which codeword they begin with; where the commonest symbol has a codeword of
one bit, a zero, the leading zeros are counted and skipped in the same step.

Three facts about XLA on a CPU shape the loops. A gather is cut into tasks for threads if what it reads from is large,
hence `Codes.cut`. A loop whose body has more than 8 operations that XLA did not fuse goes through a scheduler, which
takes 2 microseconds per iteration. And more than 4 rows summed up in one fused loop are no longer read as vectors.
"""

from dataclasses import replace
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np

from quantree.coding.prefix import PrefixCode
from quantree.encodings.base import static
from quantree.errors import LeafError
from quantree.products.base import pytree, tile_width

WINDOW = 12  # bits that the table decodes: 16 KB, which stay in the nearest cache
STEPS = 256  # steps of a tile that are decoded before they are summed up
AT_ONCE = 4  # rows that are summed up at once
_PIECE = 48 << 10  # words that a tile may span if XLA is to read them on one thread
_SHORTEST = 8  # columns of a tile, at least, however many words they span


@pytree
class Codes:
    """The codewords of a matrix, column by column, and how to read them.

    words: uint32, the first bit highest. starts: uint32 [m + 1], the bit at which each column begins; the last is where
    all end. table: uint32 [2**WINDOW], rank << 8 | bits of the codeword, 0 bits: it is longer than the window. past,
    base: see `codewords.Reader`. order: [k], the symbol of each rank. span: words that `width` columns lie in, at most.
    deep: whether a codeword is longer than the window. runs: whether rank 0 has a codeword of one bit.
    """

    words: jax.Array
    starts: jax.Array
    table: jax.Array
    past: jax.Array
    base: jax.Array
    order: jax.Array
    width: int = static()
    span: int = static()
    deep: bool = static()
    runs: bool = static()

    @classmethod
    def of(cls, columns: list[np.ndarray] | np.ndarray, counts: np.ndarray) -> Self:
        """From the symbols of each column, which occur so often: int64 [alphabet]. `LeafError` from 2**32 bits on."""
        code = PrefixCode.of(counts)
        flat = np.concatenate(columns) if len(columns) else np.zeros(0, np.int64)
        lengths = np.zeros(len(counts), np.int64)
        lengths[code.symbols] = code.lengths
        ends = np.cumsum([0, *(int(lengths[column].sum()) for column in columns)])
        if ends[-1] >= 1 << 32:
            raise LeafError(f"a coded matrix has fewer than 2**32 bits, not {ends[-1]:,}")
        width = tile_width(len(columns))
        while jax.default_backend() == "cpu" and width > _SHORTEST and _span(ends, width) > _PIECE:
            width //= 2
        span = _span(ends, width)
        data = code.encode(flat, len(counts))
        words = np.frombuffer(data + bytes(-len(data) % 4), ">u4").astype(np.uint32)
        words = np.concatenate([words, np.zeros(max(1, span - len(words)), np.uint32)])
        several = len(code.symbols) > 1
        past, base = (code.reader.past, code.reader.base) if several else (np.zeros(32, np.uint32),) * 2
        order = code.symbols if len(code.symbols) else np.zeros(1, np.int64)
        return cls(
            words=jnp.asarray(words),
            starts=jnp.asarray(ends.astype(np.uint32)),
            table=jnp.asarray(_table(code)),
            past=jnp.asarray(past),
            base=jnp.asarray(base),
            order=jnp.asarray(order.astype(np.uint16)),
            width=width,
            span=span,
            deep=several and int(code.lengths[-1]) > WINDOW,
            runs=several and int(code.lengths[0]) == 1,
        )

    def cut(self, first: jax.Array) -> tuple[Self, jax.Array, jax.Array]:
        """What a tile needs -> (the same with few words, uint32 [width] where its columns start and end in these)."""
        starts = jax.lax.dynamic_slice(self.starts, (first,), (self.width,))
        ends = jax.lax.dynamic_slice(self.starts, (first + 1,), (self.width,))
        base = jnp.minimum((starts[0] >> 5).astype(jnp.int32), len(self.words) - self.span)
        words = jax.lax.dynamic_slice(self.words, (base,), (self.span,))
        shift = (base << 5).astype(jnp.uint32)
        return replace(self, words=words), starts - shift, ends - shift

    def look(self, at: jax.Array, end: jax.Array, skip: bool) -> jax.Array:
        """The codeword at a bit of a column that ends at bit `end`, after a run of rank 0 if `skip`; scalars or [w].

        uint32: rank << 12 | run << 6 | bits. A run alone has rank 0 and no further bits; beyond the end it is 63 << 6 |
        63, with rank 0.
        """
        word = (at >> 5).astype(jnp.int32)
        shift = at & 31
        ahead = _get(self.words, word) << shift | _get(self.words, word + 1) >> 1 >> (31 - shift)
        ahead = jax.lax.optimization_barrier(ahead)  # else XLA gathers the words for each of its uses
        run = jax.lax.clz(ahead) if skip else jnp.zeros_like(ahead)
        left = ahead << run  # XLA: 0 if the run is 32
        entry = _get(self.table, (left >> (32 - WINDOW)).astype(jnp.int32))
        rank, bits = entry >> 8, entry & 255
        if self.deep:
            longer = [
                (left >> (32 - length) >= self.past[length]).astype(jnp.int32) for length in range(WINDOW + 1, 24)
            ]
            length = jnp.sum(jnp.stack(longer), axis=0, dtype=jnp.int32) + (WINDOW + 1)
            deep = bits == 0
            rank = jnp.where(deep, _get(self.base, length) + (left >> (32 - length).astype(jnp.uint32)), rank)
            bits = jnp.where(deep, length.astype(jnp.uint32), bits)
        whole = run + bits <= 32
        found = jnp.where(whole, rank << 12 | run << 6 | (run + bits), run << 6 | run)
        beyond = at + (found & 63) > end
        return jnp.where(beyond | (at >= end), jnp.uint32(63 << 6 | 63), found)


def after(at: jax.Array, end: jax.Array, entry: jax.Array) -> jax.Array:
    """The bit that follows what `look` found."""
    return jnp.minimum(at + (entry & 63), end)


def run_of(entry: jax.Array) -> jax.Array:
    """How many symbols of rank 0 precede the codeword."""
    return entry >> 6 & 63


def taken(entry: jax.Array) -> jax.Array:
    """How many symbols that is: the run, and one more if a codeword was found."""
    return run_of(entry) + ((entry & 63) > run_of(entry)).astype(jnp.uint32)


def summed(
    entries: jax.Array, used: jax.Array, inputs: jax.Array, values: jax.Array, width: int, kinds: int
) -> jax.Array:
    """Entries row << b | kind, uint32 [STEPS, width], of which the first `used` lines count -> [width, inputs' b].

    Of each column the sum of inputs[row] values[kind]. kinds: fit in b bits. Lines up to a multiple of `AT_ONCE` are
    read; they must hold a kind of value 0.
    """
    shift = kinds.bit_length()
    flat = entries.T.reshape(-1)

    def column(place: jax.Array, out: jax.Array) -> jax.Array:
        start = place * STEPS

        def step(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            at, total = carry
            for k in range(AT_ONCE):
                entry = flat[at + k]
                value = _get(values, (entry & ((1 << shift) - 1)).astype(jnp.int32))
                total = total + value * row_of(inputs, entry >> shift)
            return at + AT_ONCE, total

        total = jnp.zeros((1, inputs.shape[1]), jnp.float32)
        _, total = jax.lax.while_loop(lambda carry: carry[0] < start + used, step, (start, total))
        return jax.lax.dynamic_update_slice(out, total, (place, jnp.int32(0)))

    return jax.lax.fori_loop(jnp.int32(0), jnp.int32(width), column, jnp.zeros((width, inputs.shape[1]), jnp.float32))


def row_of(inputs: jax.Array, row: jax.Array) -> jax.Array:
    """[1, b]; the last row if there is none such."""
    return jax.lax.dynamic_slice(inputs, (row.astype(jnp.int32), jnp.int32(0)), (1, inputs.shape[1]))


def _get(array: jax.Array, place: jax.Array) -> jax.Array:
    return array.at[place].get(mode="promise_in_bounds")


def _span(ends: np.ndarray, width: int) -> int:
    """Words that `width` columns lie in, at most, and the one that a look-up reads beyond."""
    return int((((ends[width:] + 31) >> 5) - (ends[: len(ends) - width] >> 5)).max(initial=0)) + 2


def _table(code: PrefixCode) -> np.ndarray:
    if len(code.symbols) < 2:
        return np.zeros(1 << WINDOW, np.uint32)
    short = int(np.count_nonzero(code.lengths <= WINDOW))
    starts = code.words[:short].astype(np.int64) << (WINDOW - code.lengths[:short])
    windows = np.arange(1 << WINDOW)
    rank = np.maximum(np.searchsorted(starts, windows, side="right") - 1, 0)
    if not short:
        return np.zeros(1 << WINDOW, np.uint32)
    whole = windows < starts[rank] + (1 << (WINDOW - code.lengths[rank]))
    return np.where(whole, rank << 8 | code.lengths[rank], 0).astype(np.uint32)
