"""Rules of operations that move, cut and join elements without computing with them."""

from collections import defaultdict
from typing import Any

import numpy as np

from quantree.graph.registered import PLACE, made, rule
from quantree.graph.terms import PADDED, PADDING, Labels, here
from quantree.graph.walk import Value, Walk


@rule("optimization_barrier")
def _each(walk: Walk, eqn: Any, given: list[Value]) -> list[Value]:
    return given


@rule("transpose")
def _transpose(walk: Walk, eqn: Any, given: list[Value]) -> list[Value]:
    (value,) = given
    return [made(given, *(value.axes[axis] for axis in eqn.params["permutation"]))]


@rule("squeeze")
def _squeeze(walk: Walk, eqn: Any, given: list[Value]) -> list[Value]:
    (value,) = given
    kept = (labels for axis, labels in enumerate(value.axes) if axis not in eqn.params["dimensions"])
    return [made(given, *kept)]


@rule("broadcast_in_dim")
def _broadcast(walk: Walk, eqn: Any, given: list[Value]) -> list[Value]:
    value, mark = given[0], here()
    source = dict(zip(eqn.params["broadcast_dimensions"], value.axes, strict=True))
    shape = eqn.outvars[0].aval.shape
    axes = (source[i] if i in source and len(source[i]) == n else walk.new(n, mark) for i, n in enumerate(shape))
    return [made(given, *axes)]


@rule("tile")
def _tile(walk: Walk, eqn: Any, given: list[Value]) -> list[Value]:
    (value,), mark = given, here()
    shape = eqn.outvars[0].aval.shape
    pairs = zip(value.axes, shape, strict=True)
    axes = (walk.new(n, mark) if len(labels) == 1 else np.resize(labels, n) for labels, n in pairs)
    return [made(given, *axes)]


@rule("iota")
def _iota(walk: Walk, eqn: Any, given: list[Value]) -> list[Value]:
    mark, along = here(), eqn.params["dimension"]
    reason = "the program numbers them"
    shape = eqn.outvars[0].aval.shape
    return [Value(tuple(walk.still(n, reason) if i == along else walk.new(n, mark) for i, n in enumerate(shape)))]


@rule("reshape")
def _reshape(walk: Walk, eqn: Any, given: list[Value]) -> list[Value]:
    (value,), terms = given, walk.terms
    before, after = value.shape, eqn.outvars[0].aval.shape
    if 0 in before:
        return [Value(tuple(walk.still(n, PLACE) for n in after))]
    axes = [walk.alone() for _ in after]
    for sources, targets in _blocks(before, after):
        flat = terms.product(value.axes[i] for i in sources)
        sizes = tuple(after[i] for i in targets)
        found = [flat] if len(sizes) == 1 else terms.factors(flat, sizes)
        if found is None:
            reason = f"reshaped from {list(before)} to {list(after)}, which mixes them"
            terms.fix(flat, reason)
            found = [walk.still(n, reason) for n in sizes]
        for i, labels in zip(targets, found, strict=True):
            axes[i] = labels
    return [made(given, *axes)]


def _blocks(before: tuple[int, ...], after: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """The shortest runs of axes that become each other, without axes of size 1."""
    ends = []
    for shape in (before, after):
        sizes = [(i, n) for i, n in enumerate(shape) if n > 1]
        ends.append((sizes, np.cumprod([n for _, n in sizes], dtype=np.int64).tolist()))
    (old, old_ends), (new, new_ends) = ends
    blocks, i, j = [], 0, 0
    for end in (end for end in old_ends if end in new_ends):
        k, m = old_ends.index(end) + 1, new_ends.index(end) + 1
        blocks.append(([axis for axis, _ in old[i:k]], [axis for axis, _ in new[j:m]]))
        i, j = k, m
    return blocks


@rule("concatenate")
def _concatenate(walk: Walk, eqn: Any, given: list[Value]) -> list[Value]:
    return [_joined(walk, given, eqn.params["dimension"])]


@rule("stack")
def _stack(walk: Walk, eqn: Any, given: list[Value]) -> list[Value]:
    axis = eqn.params["axis"] % len(eqn.outvars[0].aval.shape)
    alone = [Value((*v.axes[:axis], walk.alone(), *v.axes[axis:]), v.sources) for v in given]
    return [_joined(walk, alone, axis)]


def _joined(walk: Walk, given: list[Value], along: int) -> Value:
    axes = list(given[0].axes)
    for value in given[1:]:
        for axis, labels in enumerate(value.axes):
            if axis != along:
                walk.terms.unify(axes[axis], labels)
    axes[along] = np.concatenate([value.axes[along] for value in given])
    return made(given, *axes)


@rule("pad")
def _pad(walk: Walk, eqn: Any, given: list[Value]) -> list[Value]:
    value, pad, axes = given[0], object(), []
    for labels, (low, high, inside) in zip(value.axes, eqn.params["padding_config"], strict=True):
        n = len(labels)
        if (low, high, inside) == (0, 0, 0):
            axes.append(labels)
            continue
        spread = np.full(max(0, n + (n - 1) * inside), -1)
        spread[:: inside + 1] = labels
        cut = spread[max(0, -low) : len(spread) - max(0, -high)]
        cut = np.concatenate([np.full(max(0, low), -1), cut, np.full(max(0, high), -1)])
        if walk.terms.is_fixed(labels):
            axes.append(walk.still(len(cut), PLACE))
            continue
        new = walk.terms.fresh(int(np.count_nonzero(cut < 0)), (pad, PADDING))
        walk.terms.mark(labels, (pad, PADDED))
        cut[cut < 0] = new
        if low < 0 or high < 0:
            _cut(walk, labels, np.arange(max(0, -low), n - max(0, -high)))
        reason = f"padded from {n} to {len(cut)} channels, a fixed number"
        walk.terms.tie(np.concatenate([labels, new]), reason)
        axes.append(cut)
    return [made(given, *axes)]


@rule("slice")
def _slice(walk: Walk, eqn: Any, given: list[Value]) -> list[Value]:
    (value,), params = given, eqn.params
    strides = params["strides"] or (1,) * len(value.axes)
    places = zip(params["start_indices"], params["limit_indices"], strides, strict=True)
    kept = [np.arange(start, stop, step) for start, stop, step in places]
    return [made(given, *(_cut(walk, *each) for each in zip(value.axes, kept, strict=True)))]


@rule("split")
def _split(walk: Walk, eqn: Any, given: list[Value]) -> list[Value]:
    (value,), along = given, eqn.params["axis"]
    whole = value.axes[along]
    kept = np.split(np.arange(len(whole)), np.cumsum(eqn.params["sizes"])[:-1])
    pieces = [_cut(walk, whole, each) for each in kept]
    return [made(given, *value.axes[:along], piece, *value.axes[along + 1 :]) for piece in pieces]


def _cut(walk: Walk, whole: Labels, kept: np.ndarray) -> Labels:
    """Part of an axis. Notes that what is done to it is not done to the rest: to some of the channels, and of a channel
    that lies there several times to some of its copies.
    """
    if len(kept) < len(whole) and not walk.terms.is_fixed(whole):
        cut, copies = object(), defaultdict[int, list[int]](list)
        for place, term in enumerate(whole.tolist()):
            for root in walk.terms.resolve(term):
                copies[root].append(place)
        stays = set(kept.tolist())
        for root, places in copies.items():
            those = tuple(number for number, place in enumerate(places) if place in stays)
            if those:
                walk.terms.mark(np.asarray([root]), (cut, those))
        walk.terms.tie(whole, "the program cuts their axis at fixed places")
    return whole[kept]


@rule("dynamic_slice")
def _dynamic_slice(walk: Walk, eqn: Any, given: list[Value]) -> list[Value]:
    axes = []
    for labels, n in zip(given[0].axes, eqn.params["slice_sizes"], strict=True):
        if n != len(labels):
            walk.terms.fix(labels, "the program looks them up by their number")
            labels = walk.still(n, PLACE) if n > 1 else walk.alone()
        axes.append(labels)
    return [made(given, *axes)]


@rule("dynamic_update_slice")
def _dynamic_update_slice(walk: Walk, eqn: Any, given: list[Value]) -> list[Value]:
    for labels, new in zip(given[0].axes, given[1].axes, strict=True):
        if len(labels) == len(new):
            walk.terms.unify(labels, new)
        else:
            walk.terms.fix(np.concatenate([labels, new]), "the program looks them up by their number")
    return [made(given, *given[0].axes)]


@rule("gather")
def _gather(walk: Walk, eqn: Any, given: list[Value]) -> list[Value]:
    table, indices = given
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    gone = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    windows = []
    for axis, labels in enumerate(table.axes):
        whole = sizes[axis] == len(labels) and axis not in gone
        if not whole and len(labels) > 1:
            walk.terms.fix(labels, "the program looks them up by their number")
        if axis not in gone:
            windows.append(labels if whole else walk.still(sizes[axis], PLACE))
    batches = iter(indices.axes[:-1])
    shape, windows = eqn.outvars[0].aval.shape, iter(windows)
    axes = tuple(next(windows) if axis in numbers.offset_dims else next(batches) for axis in range(len(shape)))
    free = tuple(axes[axis] for axis in numbers.offset_dims)
    walk.note(table, (), free, indices, 1)
    return [made(given, *axes)]
