"""What the adaptive coder expects of the next binary decision, from the decisions before it.

A symbol is a zero flag, then its bits from the top down: the path to it in a binary tree. Six counters, found under six
contexts (the output, the input, the neighbours, ...), each predict the decision; their predictions are added up in the
logistic domain, and both the counters and the weights of the sum learn from the outcome (Mahoney 2005, the compressors
of the PAQ family; contexts from where a weight lies are in the spirit of DeepCABAC, Wiedemann et al. 2019). All
arithmetic is on integers of 32 bits, so that every machine predicts the same. docs/file-format.md has the numbers.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

INPUTS = 6
_SLOTS = 1 << 16  # counters per input: the lower half for zero flags, the upper one for bits of values
_HALF = _SLOTS // 2
_MEMORY = 1 << 16  # columns and cells that are remembered; further ones share
_SETS, _TREE_SETS = 64, 32  # sets of weights; those from 32 on are for bits of values

_ONE = 1 << 14  # a weight of 1
_FIRST = round(0.2 * _ONE)
_HEAVIEST = 8 * _ONE
# Right shifts, from first to last: a nat and an error of 1 move a weight by 2**(7 + 16 - 14 - shift).
_LEARNING = 16, 19
_NAT = 128
_CERTAIN = 12 * _NAT - 1
_MANY = 1 << 20  # decisions, after which weights learn no more slowly
_PATIENCE = 255  # a counter is the mean of what it saw until then, and afterwards forgets at the rate 1 / 256.5


def _tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(stretch, squash, rates), int32. No value lies so near to a tie that two roundings of log or exp could differ."""
    middle = (np.arange(4096) + 0.5) / 4096
    stretch = np.rint(_NAT * np.log(middle / (1 - middle)))
    squash = np.rint(65536 / (1 + np.exp(-np.arange(-_CERTAIN, _CERTAIN + 1) / _NAT)))
    rates = 8192 // (2 * np.arange(_PATIENCE + 1) + 3)
    return stretch.astype(np.int32), np.clip(squash, 1, 65535).astype(np.int32), rates.astype(np.int32)


STRETCH, SQUASH, RATES = _tables()


class Layout(NamedTuple):
    """What does not change in a stream, uint32 scalars.

    columns: symbols per row. period: symbols per slice; a place in it is a cell, and a row of it a channel.
    bits: of a value. flags: 1 if there are zero flags, and values are symbols - 1; 0 if values are the symbols.
    """

    columns: Array
    period: Array
    bits: Array
    flags: Array


class Model(NamedTuple):
    """What was learned and where we are.

    counters: uint32 [6 * 65536], the chance of a 1 in the upper 22 bits and below it how many decisions made it.
    weights: int32 [64, 8], of which 6 are used. columns, cells: uint32 [65536], histories of columns and of cells;
    left: that of the row. In a history the upper half has a bit for each of the last 16 symbols, 1 if it is not 0, the
    last one lowest; the lower half is the last symbol that is not 0. node: 0 if a zero flag comes next, else where
    we are in the tree of values; level: how many bits of the value are to come. decisions: how many were made.

    The last five fields were looked up for the next decision: the counters' places and what they hold [6], the set of
    weights, and the histories of the column and the cell. They are read at the end of a step, and not at the start of
    the next one, since XLA copies large arrays that it would have to read and update in one go.
    """

    counters: Array
    weights: Array
    columns: Array
    cells: Array
    left: Array
    node: Array
    level: Array
    decisions: Array
    column: Array
    channel: Array
    cell: Array
    places: Array
    states: Array
    chosen: Array
    above: Array
    behind: Array


def fresh(layout: Layout) -> Model:
    """The model before the first symbol."""
    zero = jnp.uint32(0)
    model = Model(
        counters=jnp.full(INPUTS * _SLOTS, 1 << 31, jnp.uint32),
        weights=jnp.full((_SETS, 8), _FIRST, jnp.int32),
        columns=jnp.zeros(_MEMORY, jnp.uint32),
        cells=jnp.zeros(_MEMORY, jnp.uint32),
        left=zero,
        node=_root(layout),
        level=jnp.asarray(layout.bits),
        decisions=zero,
        column=zero,
        channel=zero,
        cell=zero,
        places=jnp.zeros(INPUTS, jnp.uint32),
        states=jnp.zeros(INPUTS, jnp.uint32),
        chosen=zero,
        above=zero,
        behind=zero,
    )
    return _look(model, layout)


def predict(model: Model, stretch: Array, squash: Array) -> tuple[Array, Array]:
    """The chance that the next decision is a 1, in 1..65535 of 65536 (uint32), and the inputs to it, int32 [6]."""
    inputs = stretch[model.states >> 20]
    weights = lax.dynamic_slice(model.weights, (model.chosen, jnp.uint32(0)), (1, 8))[0, :INPUTS]
    total = jnp.sum(weights * inputs) >> 14
    return squash[jnp.clip(total, -_CERTAIN, _CERTAIN) + _CERTAIN].astype(jnp.uint32), inputs


def learn(
    model: Model, layout: Layout, bit: Array, chance: Array, inputs: Array, rates: Array
) -> tuple[Model, Array, Array]:
    """After a decision -> (model for the next one, whether a symbol is complete, that symbol)."""
    outcome, zero = bit.astype(jnp.int32), jnp.uint32(0)
    error = (outcome << 16) - chance.astype(jnp.int32)
    old = lax.dynamic_slice(model.weights, (model.chosen, zero), (1, 8))[0, :INPUTS]
    calm = jnp.minimum((jnp.maximum(_floor_log2(model.decisions | 1), 12) - 12) >> 1, _LEARNING[1] - _LEARNING[0])
    shift = (calm + _LEARNING[0]).astype(jnp.int32)
    moved = old + ((inputs * error + (1 << shift - 1)) >> shift)
    moved = jnp.clip(moved, -_HEAVIEST, _HEAVIEST - 1)
    weights = lax.dynamic_update_slice(model.weights, moved[None], (model.chosen, zero))

    seen = model.states & 1023
    mean = (model.states >> 10).astype(jnp.int32)
    mean += (((outcome * ((1 << 22) - 1) - mean) >> 4) * rates[seen]) >> 8
    states = mean.astype(jnp.uint32) << 10 | jnp.minimum(seen + 1, _PATIENCE)
    counters = model.counters
    for i in range(INPUTS):
        counters = lax.dynamic_update_slice(counters, states[i : i + 1], (model.places[i],))

    flag = model.node == 0
    is_zero = flag & (bit == 0)
    child = jnp.where(flag, jnp.uint32(1), model.node * 2 + bit)
    level = jnp.where(flag, layout.bits, model.level - 1)
    done = is_zero | (level == 0)
    symbol = jnp.where(is_zero, zero, child - (jnp.uint32(1) << layout.bits) + layout.flags)

    def remember(history: Array) -> Array:
        flags = history >> 16 << 17 | (symbol != 0).astype(jnp.uint32) << 16
        new = flags | jnp.where(symbol != 0, symbol, history) & 0xFFFF
        return jnp.where(done, new, history)

    columns = lax.dynamic_update_slice(model.columns, remember(model.above)[None], (model.column & (_MEMORY - 1),))
    cells = lax.dynamic_update_slice(model.cells, remember(model.behind)[None], (model.cell & (_MEMORY - 1),))
    one = done.astype(jnp.uint32)
    column, cell = model.column + one, model.cell + one
    end = column == layout.columns
    model = model._replace(
        counters=counters,
        weights=weights,
        columns=columns,
        cells=cells,
        left=jnp.where(end, zero, remember(model.left)),
        node=jnp.where(done, _root(layout), child),
        level=jnp.where(done, layout.bits, level),
        decisions=jnp.minimum(model.decisions, _MANY) + 1,
        column=jnp.where(end, zero, column),
        channel=jnp.where(cell == layout.period, zero, model.channel + end.astype(jnp.uint32)),
        cell=jnp.where(cell == layout.period, zero, cell),
    )
    return _look(model, layout), done, symbol


def _root(layout: Layout) -> Array:
    """The first node of a symbol: the zero flag, or the top of the tree."""
    return jnp.uint32(1) - layout.flags


def _look(model: Model, layout: Layout) -> Model:
    """Reads what the next decision needs."""
    node, left, column, channel = model.node, model.left, model.column, model.channel
    above, behind = model.columns[column & (_MEMORY - 1)], model.cells[model.cell & (_MEMORY - 1)]
    flags_left, flags_above, flags_behind = left >> 16, above >> 16, behind >> 16
    counted = _magnitude(model.counters[column & (_HALF - 1)])
    counted_channel = _magnitude(model.counters[(channel & (_HALF - 1)) + _SLOTS])
    population = lax.population_count
    for_flag = jnp.stack(
        [
            column,
            channel,
            flags_left & 63 | (flags_above & 15) << 6 | (flags_behind & 3) << 10,
            counted | counted_channel << 4 | (flags_left & 1) << 8 | (flags_above & 1) << 9 | (flags_behind & 1) << 10,
            flags_behind & 255 | counted << 8,
            population(flags_left) | population(flags_above) << 5 | counted_channel << 10,
        ]
    )
    near = jnp.stack([jnp.uint32(0), column, left & 0xFFFF, above & 0xFFFF, behind & 0xFFFF, channel])
    for_bit = ((near << layout.bits) + node) | _HALF
    flag = node == 0
    places = jnp.where(flag, for_flag & (_HALF - 1), for_bit & (_SLOTS - 1))
    places += jnp.arange(INPUTS, dtype=jnp.uint32) * _SLOTS
    states = model.counters[places]
    seen = _floor_log2((states & 1023) + 1)  # how far the column's and the channel's counter can be trusted
    trust = jnp.minimum(seen[0], 7) * 4 + jnp.minimum(seen[1] >> 1, 3)
    chosen = jnp.where(flag, trust, _TREE_SETS + _floor_log2(node | 1))
    return model._replace(places=places, states=states, chosen=chosen, above=above, behind=behind)


def _floor_log2(value: Array) -> Array:
    return 31 - lax.clz(value)


def _magnitude(state: Array) -> Array:
    """The chance in a counter on a scale of 16, an octave each: 15 above one half, 0 below 2**-15."""
    return _floor_log2(state | 1 << 16) - 16
