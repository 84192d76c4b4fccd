"""Adaptive binary arithmetic coding: no table, and a model that learns where zeros lie and which values go together.

The decisions of a stream are coded one after the other, each with the chance that `contexts` gives it. This can't be
done by array operations, so XLA compiles the loop for the CPU. There is one program that encodes and one that decodes,
for streams of any size: they work through a block of symbols and hand their state to the next call.
"""

import math
from collections.abc import Callable
from typing import NamedTuple
from weakref import WeakKeyDictionary

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.experimental.xla_metadata import set_xla_metadata

from quantree.coding import contexts, range_coder
from quantree.coding.base import Coder, Symbols, shared_alphabet
from quantree.coding.bits import read_varint, varint
from quantree.coding.codewords import on_host
from quantree.coding.contexts import RATES, SQUASH, STRETCH, Layout, Model
from quantree.coding.fixed import Fixed
from quantree.coding.matrix import matrix_shape
from quantree.coding.range_coder import MARGIN, WINDOW, Coding
from quantree.errors import FormatError, LeafError
from quantree.registry import register

_LARGEST = 1 << 16
_SHORT = 128  # symbols; a stream below that is too short to learn anything from
_BLOCK = 1 << 16  # symbols per call
_PLAIN = b"\0"  # a head that no learned payload has: `fixed` follows
_MOST = 1 << 31  # symbols, so that places fit 32 bits
_LAGS, _SAMPLE = 64, 1 << 18  # rows and symbols in the search for rows that resemble each other
_DIGITS = WINDOW + MARGIN


class _State(NamedTuple):
    """offset: how many symbols of the block are done."""

    model: Model
    coding: Coding
    offset: Array

    def at(self, offset: int) -> "_State":
        """For the next call, which starts at a symbol of its block and at the start of its window of bytes."""
        return self._replace(offset=jnp.uint32(offset), coding=self.coding._replace(place=jnp.uint32(0)))


_fresh = jax.jit(contexts.fresh)
_Loop = tuple[_State, Array]


def _loop(body: Callable[[_Loop], _Loop], going: Callable[[_Loop], Array], value: _Loop) -> _Loop:
    """A while loop that XLA's CPU backend compiles into one function. By itself it does so for the smallest loops only,
    and calls a function for each of some thirty operations: a step takes thirty times as long. Not a promise of XLA's;
    without it the result is the same.
    """
    with set_xla_metadata(xla_cpu_small_call="true", inlineable="false"):
        return jax.jit(lambda value: lax.while_loop(going, body, value))(value)


@jax.jit
def _encode(
    state: _State, layout: Layout, symbols: Array, count: Array, stretch: Array, squash: Array, rates: Array
) -> _Loop:
    """Codes symbols[index:count] until the window is full -> (state, digits)."""

    def body(value: _Loop) -> _Loop:
        (model, coding, index), digits = value
        symbol = symbols[index]
        bit = jnp.where(
            model.node == 0, (symbol != 0).astype(jnp.uint32), (symbol - layout.flags) >> (model.level - 1) & 1
        )
        chance, inputs = contexts.predict(model, stretch, squash)
        coding, digits = range_coder.encode(coding, bit, chance, digits)
        model, done, _ = contexts.learn(model, layout, bit, chance, inputs, rates)
        return _State(model, coding, index + done.astype(jnp.uint32)), digits

    def going(value: _Loop) -> Array:
        return (value[0].offset < count) & (value[0].coding.place < WINDOW)

    return _loop(body, going, (state, jnp.zeros(_DIGITS, jnp.uint32)))


@jax.jit
def _decode(
    state: _State, layout: Layout, words: Array, count: Array, stretch: Array, squash: Array, rates: Array
) -> _Loop:
    """Decodes symbols up to `count` until the window is empty -> (state, symbols [_BLOCK])."""

    def body(value: _Loop) -> _Loop:
        (model, coding, index), symbols = value
        chance, inputs = contexts.predict(model, stretch, squash)
        coding, bit = range_coder.decode(coding, chance, words)
        model, done, symbol = contexts.learn(model, layout, bit, chance, inputs, rates)
        symbols = lax.dynamic_update_slice(symbols, symbol[None], (index,))
        return _State(model, coding, index + done.astype(jnp.uint32)), symbols

    def going(value: _Loop) -> Array:
        return (value[0].offset < count) & (value[0].coding.place < WINDOW)

    return _loop(body, going, (state, jnp.zeros(_BLOCK, jnp.uint32)))


@register("adaptive")
class Adaptive(Coder):
    """Smaller than the entropy of the counts where zeros or values keep together in rows, columns or kernels; alphabets
    up to 65,536. Time goes with the decisions: one per zero, and one more for each bit of another symbol.
    """

    def table(self, *streams: Symbols) -> bytes:
        shared_alphabet(streams, _LARGEST, self.name)
        return b""

    def encode(self, symbols: Symbols, table: bytes) -> bytes:
        if table or symbols.alphabet > _LARGEST or symbols.size > _MOST:
            raise LeafError(f"adaptive uses no table and codes alphabets up to {_LARGEST:,}")
        if symbols.size < _SHORT or symbols.alphabet == 1:
            return Fixed().encode(symbols, b"")
        if symbols not in _payloads:  # whoever asked for the cost will ask for the payload
            with on_host():
                learned = _write(symbols)
            plain = _PLAIN + Fixed().encode(symbols, b"")
            _payloads[symbols] = learned if len(learned) <= len(plain) else plain
        return _payloads[symbols]

    def decode(self, payload: bytes, table: bytes, shape: tuple[int, ...], alphabet: int) -> np.ndarray:
        count = math.prod(shape)
        if table:
            raise FormatError("adaptive: a table where none is expected")
        if not 1 <= alphabet <= _LARGEST or count > _MOST:
            raise FormatError(f"adaptive: {count:,} symbols of an alphabet of {alphabet:,} are more than it can code")
        if count < _SHORT or alphabet == 1:
            return Fixed().decode(payload, b"", shape, alphabet)
        if payload[:1] == _PLAIN:
            return Fixed().decode(payload[1:], b"", shape, alphabet)
        with on_host():
            return _read(payload, shape, alphabet)

    def bound(self, symbols: Symbols) -> float:
        """A byte more than `fixed`, which stands in where nothing can be learned."""
        return 8 + Fixed().bound(symbols)


_payloads: WeakKeyDictionary[Symbols, bytes] = WeakKeyDictionary()


def _write(symbols: Symbols) -> bytes:
    flags = int(symbols.alphabet == 2 or symbols.counts[0] == symbols.counts.max())
    slice_rows = _slice_rows(symbols.values)
    layout = _layout(symbols.values.shape, symbols.alphabet, flags, slice_rows)
    state = _State(_fresh(layout), range_coder.start(), jnp.uint32(0))
    digits, flat = [], symbols.values.reshape(-1)
    for start in range(0, flat.size, _BLOCK):
        count, index = min(_BLOCK, flat.size - start), 0
        block = np.zeros(_BLOCK, np.uint32)
        block[:count] = flat[start : start + count]
        while index < count:
            state, out = _encode(state.at(index), layout, block, jnp.uint32(count), STRETCH, SQUASH, RATES)
            index = int(state.offset)
            digits.append(np.asarray(out)[: int(state.coding.place)])
    return varint(2 * slice_rows + flags) + range_coder.finish(state.coding, digits)


def _read(payload: bytes, shape: tuple[int, ...], alphabet: int) -> np.ndarray:
    head, place = read_varint(payload)
    slice_rows, flags = head >> 1, head & 1
    if not 1 <= slice_rows <= matrix_shape(shape)[0]:
        raise FormatError(f"adaptive: slices of {slice_rows:,} rows in an array of shape {shape}")
    layout = _layout(shape, alphabet, flags, slice_rows)
    state = _State(
        _fresh(layout),
        range_coder.start(int.from_bytes(payload[place : place + 4].ljust(4, b"\0"), "big")),
        jnp.uint32(0),
    )
    symbols, used = np.zeros(math.prod(shape), np.int32), place + 4
    for start in range(0, symbols.size, _BLOCK):
        count, index = min(_BLOCK, symbols.size - start), 0
        while index < count:
            words = range_coder.words(payload, used)
            state, out = _decode(state.at(index), layout, words, jnp.uint32(count), STRETCH, SQUASH, RATES)
            symbols[start + index : start + int(state.offset)] = np.asarray(out)[index : int(state.offset)]
            index, used = int(state.offset), used + int(state.coding.place)
            if used - 4 > len(payload):
                raise FormatError("adaptive: the payload ends before the symbols do")
    if len(payload) > used - 3 or (len(payload) == used - 3 and payload[-1] == 0):
        raise FormatError("adaptive: the payload goes on after the symbols")
    if int(symbols.max()) >= alphabet:
        raise FormatError(f"adaptive: symbol {int(symbols.max())} in an alphabet of {alphabet:,}")
    return symbols.reshape(shape)


def _slice_rows(values: np.ndarray) -> int:
    """After how many rows the same inputs come again: a kernel's, or, in a matrix, the distance at which rows have most
    in common, as rows of pixels under each other do.
    """
    if values.ndim != 2:
        return values.shape[-2] if values.ndim > 2 else 1
    used = values[: _SAMPLE // values.shape[1] + 1] != 0
    lags = range(2, min(_LAGS, len(used) // 4))
    common = [np.count_nonzero(used[lag:] & used[:-lag]) / (len(used) - lag) for lag in lags]
    return lags[int(np.argmax(common))] if common else len(values)


def _layout(shape: tuple[int, ...], alphabet: int, flags: int, slice_rows: int) -> Layout:
    columns = shape[-1] if len(shape) > 1 else 1
    numbers = columns, slice_rows * columns, (alphabet - 1 - flags).bit_length(), flags
    return Layout(*(jnp.uint32(number) for number in numbers))
