"""Codewords <-> bytes: the two loops of every prefix coder, compiled by XLA.

Symbols are ranks (see `prefix`), of which 0 is the commonest, with a codeword of zeros. The decoder looks at the next
`WINDOW` bits at once: a table says how many codewords of rank 0 they begin with, which codeword follows, if it is
whole, and how many bits that takes. Longer codewords, which are rare, are found by their length. A bit string has its
first bit highest, in bytes and in words of 32 bits.

Both loops run on the host's processor, whatever the accelerator, and on a fixed number of symbols at a time, so that
streams of any length share a few compiled programs.
"""

import functools
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from quantree.errors import FormatError

WINDOW = 12  # bits that one look-up decodes: the table, 16 KB, stays in the nearest cache
_ROOMS = (1 << 12, 1 << 20)  # symbols at a time
_MOST = 24  # bits of a codeword
_SLACK = WINDOW  # a run of rank 0 may be looked up that reaches beyond the end


@dataclass(frozen=True, eq=False)
class Reader:
    """A decoder's tables.

    quick: uint32 [2**WINDOW]: rank << 16 | bits << 8 | run << 4 | symbols, where `run` counts the leading codewords of
    rank 0 and `symbols` these and the one that follows; symbols = 0: the codeword is longer than the window. past:
    uint32 [32]: the word of that length that follows the last codeword of that length (or its shorter prefixes);
    base: uint32 [32]: what a codeword of that length lacks to its rank, modulo 2**32. first: bits of rank 0.
    """

    quick: np.ndarray
    past: np.ndarray
    base: np.ndarray
    first: int

    @classmethod
    def of(cls, words: np.ndarray, lengths: np.ndarray) -> "Reader":
        """Codewords uint32 [n] and their lengths int64 [n], by rank; n > 1."""
        past, base = np.zeros(32, np.uint32), np.zeros(32, np.uint32)
        for length in range(1, _MOST + 1):
            past[length] = past[length - 1] << 1
            ranks = np.flatnonzero(lengths == length)
            if len(ranks):
                past[length] = words[ranks[-1]] + 1
                base[length] = (int(ranks[0]) - int(words[ranks[0]])) % (1 << 32)
        return cls(cls._quick(words, lengths), past, base, int(lengths[0]))

    @staticmethod
    def _quick(words: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        first = int(lengths[0])
        short = int(np.count_nonzero(lengths <= WINDOW))
        windows = np.arange(1 << WINDOW)
        leading = WINDOW - np.array([int(window).bit_length() for window in windows])
        run = leading // first
        # The codeword after the run; codewords ascend, so the last one that is not above what follows is the one.
        left = WINDOW - run * first
        rest = windows << (run * first) & ((1 << WINDOW) - 1)
        starts = words[:short].astype(np.int64) << (WINDOW - lengths[:short])
        rank = np.searchsorted(starts, rest, side="right") - 1
        size = lengths[rank]
        whole = (rank > 0) & (size <= left) & (rest < starts[rank] + (1 << (WINDOW - size)))
        rank, bits, symbols = np.where(whole, rank, 0), run * first + whole * size, run + whole
        return (rank << 16 | bits << 8 | run << 4 | symbols).astype(np.uint32)


def read(data: bytes, reader: Reader, count: int) -> np.ndarray:
    """A bit string -> ranks, uint16 [count]. `FormatError` if they do not end in its last byte, filled with zeros."""
    words = np.frombuffer(data + bytes(-len(data) % 4), ">u4").astype(np.uint32)
    ranks, at = np.empty(count, np.uint16), 0
    room = _ROOMS[0] if count <= _ROOMS[0] else _ROOMS[1]
    for start in range(0, count, room):
        if at > 8 * len(data):
            break
        size = min(room, count - start)
        piece = np.zeros(_words(room), np.uint32)
        here = words[at // 32 : at // 32 + len(piece)]
        piece[: len(here)] = here
        with on_host():
            taken, found = _read(
                *(piece, reader.quick, reader.past, reader.base),
                np.int32(reader.first),
                np.int32(at % 32),
                np.int32(size),
                room=room,
            )
        ranks[start : start + size] = np.asarray(found)[:size]
        at += int(taken) - at % 32
    if (at + 7) // 8 != len(data) or (at % 8 and data[-1] & (255 >> at % 8)):
        raise FormatError("the symbols do not end where the payload ends")
    return ranks


def write(ranks: np.ndarray, words: np.ndarray, lengths: np.ndarray) -> bytes:
    """Ranks uint16 [n] -> their codewords as a bit string, zeros in what is left of its last byte."""
    room = _ROOMS[0] if ranks.size <= _ROOMS[0] else _ROOMS[1]
    # Each codeword as a word of 32 bits, with the length in the 8 bits that it can't reach.
    entries = np.zeros(1 << max(8, (len(words) - 1).bit_length()), np.uint32)
    entries[: len(words)] = words << np.uint32(8) | lengths.astype(np.uint32)
    out, at, last = [], 0, np.uint32(0)
    for start in range(0, ranks.size, room):
        size = min(room, ranks.size - start)
        piece = np.zeros(room, np.uint16)
        piece[:size] = ranks[start : start + size]
        with on_host():
            end, last, found = _write(piece, entries, last, np.int32(at), np.int32(size))
        whole, at = divmod(int(end), 32)
        out.append(np.asarray(found)[:whole])
    out.append(np.array([int(last)], np.uint32)[: at > 0])
    data = np.concatenate(out).astype(">u4").tobytes()
    return data[: len(data) - (32 - at) // 8] if at else data


def on_host() -> AbstractContextManager[None]:
    """Inside, what is not on a device yet goes to the host's processor: a loop over symbols is nothing for others."""
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:  # the process has no other device than its accelerator
        return nullcontext()


def _words(room: int) -> int:
    return room * _MOST // 32 + 3


@functools.partial(jax.jit, static_argnames="room")
def _read(
    words: jax.Array,
    quick: jax.Array,
    past: jax.Array,
    base: jax.Array,
    first: jax.Array,
    at: jax.Array,
    count: jax.Array,
    room: int,
) -> tuple[jax.Array, jax.Array]:
    """Words uint32 [_words(room)], from bit `at` -> the bit after `count` symbols, ranks uint16 [room + _SLACK]."""

    def step(carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        place, at, ranks = carry
        shift = (at & 31).astype(jnp.uint32)
        ahead = words[at >> 5] << shift | words[(at >> 5) + 1] >> 1 >> (31 - shift)
        entry = quick[ahead >> (32 - WINDOW)]
        symbols, run, bits = ((entry >> field & mask).astype(jnp.int32) for field, mask in ((0, 15), (4, 15), (8, 255)))
        long = symbols == 0
        # Zero iterations but for long codewords: nothing is beyond length 0.
        length = jax.lax.while_loop(
            lambda length: ahead >> (32 - length) >= past[length],
            lambda length: length + 1,
            jnp.where(long, jnp.uint32(WINDOW + 1), jnp.uint32(0)),
        )
        rank = jnp.where(long, base[length] + (ahead >> (32 - length)), entry >> 16)
        ranks = ranks.at[place + run].set(rank.astype(jnp.uint16), mode="promise_in_bounds")
        beyond = run >= count - place
        symbols = jnp.where(beyond, count - place, jnp.where(long, 1, symbols))
        bits = jnp.where(beyond, symbols * first, jnp.where(long, length.astype(jnp.int32), bits))
        return place + symbols, at + bits, ranks

    start = jnp.zeros((), jnp.int32), at, jnp.zeros(room + _SLACK, jnp.uint16)
    _, end, ranks = jax.lax.while_loop(lambda carry: carry[0] < count, step, start)
    return end, ranks


@jax.jit
def _write(
    ranks: jax.Array, entries: jax.Array, last: jax.Array, at: jax.Array, count: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Ranks uint16 [room]; entries uint32 [n]: codeword << 8 | length. `last` is a word of which `at` bits are taken
    already -> the bit after `count` codewords, the word that it lies in, and all words before that.
    """

    def step(place: jax.Array, carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        at, last, words = carry
        entry = entries[ranks[place].astype(jnp.int32)]
        length, shift = entry & 255, (at & 31).astype(jnp.uint32)
        codeword = entry >> 8 << (32 - length)  # its first bit highest
        here, next_word = last | codeword >> shift, codeword << 1 << (31 - shift)
        words = words.at[at >> 5].set(here, mode="promise_in_bounds")
        end = at + length.astype(jnp.int32)
        return end, jnp.where(end >> 5 > at >> 5, jnp.where(shift > 0, next_word, 0), here), words

    start = at, last, jnp.zeros(_words(len(ranks)), jnp.uint32)
    return jax.lax.fori_loop(0, count, step, start)
