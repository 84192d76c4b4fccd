"""What each operation does to the axes of its operands. An operation without a rule fixes all that it touches."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from quantree.graph.terms import ALONE, PADDED, PADDING, Labels, here
from quantree.graph.walk import INPUT, Value, Walk

Rule = Callable[[Walk, Any, list[Value]], list[Value]]
RULES: dict[str, Rule] = {}

# fmt: off
ELEMENTWISE = (
    "abs", "acos", "acosh", "add", "add_any", "and", "asin", "asinh", "atan", "atan2", "atanh", "cbrt", "ceil", "clamp",
    "clz", "convert_element_type", "copy", "copy_p", "cos", "cosh", "digamma", "div", "eq", "erf", "erf_inv", "erfc",
    "exp", "exp2", "expm1", "floor", "ge", "gt", "igamma", "igammac", "imag", "integer_pow", "is_finite", "le",
    "lgamma", "log", "log1p", "logistic", "lt", "max", "min", "mul", "ne", "neg", "nextafter", "not", "or",
    "population_count", "pow", "real", "reduce_precision", "rem", "round", "rsqrt", "select_n", "shift_left",
    "shift_right_arithmetic", "shift_right_logical", "sign", "sin", "sinh", "sqrt", "square", "stop_gradient", "sub",
    "tan", "tanh", "xor",
)
REDUCTIONS = ("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or", "reduce_xor")
WINDOWS = ("reduce_window", "reduce_window_sum", "reduce_window_max", "reduce_window_min")
ORDERED = ("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp", "sort", "rev", "top_k", "argmax", "argmin")
LINEAR = (
    "broadcast_in_dim", "concatenate", "conv_general_dilated", "convert_element_type", "copy", "copy_p", "dot_general",
    "dynamic_slice", "gather", "neg", "optimization_barrier", "pad", "real", "reduce_sum", "reshape", "rev", "slice",
    "split", "squeeze", "stack", "stop_gradient", "tile", "transpose",
)
LOOPS = ("scan", "while", "cond")
# fmt: on
_PLACE = "they are positions, not channels"
_LOOP = "a loop runs along them"


def apply_rule(walk: Walk, eqn: Any, given: list[Value]) -> list[Value]:
    """The outputs of one operation."""
    name = eqn.primitive.name
    outputs = RULES.get(name, _unknown)(walk, eqn, given)
    if name not in LOOPS and not _is_linear(name, given):
        outputs = [replace(output, linear=False) for output in outputs]
    for output, var in zip(outputs, eqn.outvars, strict=True):
        assert output.shape == var.aval.shape, (eqn, output.shape)
    return outputs


def _is_linear(name: str, given: Sequence[Value]) -> bool:
    """Whether an operation keeps what is linear in its leaves so."""
    from_leaves = [bool(value.sources - {INPUT}) for value in given]
    if not all(value.linear for value in given):
        return False
    if name in ("add", "sub", "add_any"):
        return all(from_leaves)
    if name == "mul":
        return sum(from_leaves) <= 1
    if name == "div":
        return not from_leaves[1]
    return name in LINEAR


def _rule(*names: str) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, rule))
        return rule

    return register


def _unknown(walk: Walk, eqn: Any, given: list[Value]) -> list[Value]:
    reason = f"operation {eqn.primitive.name!r}, of which nothing is known"
    for value in given:
        for labels in value.axes:
            walk.terms.fix(labels, reason)
    return [_made(given, *(walk.still(n, reason) for n in var.aval.shape)) for var in eqn.outvars]


def _made(given: Sequence[Value], *axes: Labels) -> Value:
    """What is computed from all of these."""
    return Value(axes, frozenset().union(*(value.sources for value in given)))  # `apply_rule` says whether linear


@_rule(*ELEMENTWISE)
def _elementwise(walk: Walk, eqn: Any, given: list[Value]) -> list[Value]:
    shape, arrays = eqn.outvars[0].aval.shape, [value for value in given if value.axes]
    axes = []
    for axis, n in enumerate(shape):
        meeting = [value.axes[axis] for value in arrays if len(value.axes[axis]) == n]
        if n == 1:
            axes.append(next((labels for labels in meeting if labels[0] != ALONE), walk.alone()))
            continue
        for other in meeting[1:]:
            walk.terms.unify(meeting[0], other)
        axes.append(meeting[0])
        if _same_leaf(arrays) and any(not np.array_equal(meeting[0], other) for other in meeting[1:]):
            walk.terms.tie(meeting[0], "two axes of one array are added, or the like")
    return [_made(given, *axes)]


def _same_leaf(values: Sequence[Value]) -> bool:
    """True if two of these are weights that were made of the same leaf."""
    sources = [source for value in values if value.is_weights for source in value.sources]
    return len(set(sources)) < len(sources)


@_rule("optimization_barrier")
def _each(walk: Walk, eqn: Any, given: list[Value]) -> list[Value]:
    return given


@_rule("transpose")
def _transpose(walk: Walk, eqn: Any, given: list[Value]) -> list[Value]:
    (value,) = given
    return [_made(given, *(value.axes[axis] for axis in eqn.params["permutation"]))]


@_rule("squeeze")
def _squeeze(walk: Walk, eqn: Any, given: list[Value]) -> list[Value]:
    (value,) = given
    kept = (labels for axis, labels in enumerate(value.axes) if axis not in eqn.params["dimensions"])
    return [_made(given, *kept)]


@_rule("broadcast_in_dim")
def _broadcast(walk: Walk, eqn: Any, given: list[Value]) -> list[Value]:
    value, mark = given[0], here()
    source = dict(zip(eqn.params["broadcast_dimensions"], value.axes, strict=True))
    shape = eqn.outvars[0].aval.shape
    axes = (source[i] if i in source and len(source[i]) == n else walk.new(n, mark) for i, n in enumerate(shape))
    return [_made(given, *axes)]


@_rule("tile")
def _tile(walk: Walk, eqn: Any, given: list[Value]) -> list[Value]:
    (value,), mark = given, here()
    shape = eqn.outvars[0].aval.shape
    pairs = zip(value.axes, shape, strict=True)
    axes = (walk.new(n, mark) if len(labels) == 1 else np.resize(labels, n) for labels, n in pairs)
    return [_made(given, *axes)]


@_rule("iota")
def _iota(walk: Walk, eqn: Any, given: list[Value]) -> list[Value]:
    mark, along = here(), eqn.params["dimension"]
    reason = "the program numbers them"
    shape = eqn.outvars[0].aval.shape
    return [Value(tuple(walk.still(n, reason) if i == along else walk.new(n, mark) for i, n in enumerate(shape)))]


@_rule("reshape")
def _reshape(walk: Walk, eqn: Any, given: list[Value]) -> list[Value]:
    (value,), terms = given, walk.terms
    before, after = value.shape, eqn.outvars[0].aval.shape
    if 0 in before:
        return [Value(tuple(walk.still(n, _PLACE) for n in after))]
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
    return [_made(given, *axes)]


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


@_rule(*REDUCTIONS)
def _reduce(walk: Walk, eqn: Any, given: list[Value]) -> list[Value]:
    (value,), gone = given, eqn.params["axes"]
    for axis in gone:
        walk.terms.tie(value.axes[axis], f"{eqn.primitive.name.removeprefix('reduce_')} over these channels")
    return [_made(given, *(labels for axis, labels in enumerate(value.axes) if axis not in gone))]


@_rule(*ORDERED)
def _ordered(walk: Walk, eqn: Any, given: list[Value]) -> list[Value]:
    params = eqn.params
    along = params.get("dimensions", params.get("axes", ()))
    along = {params[name] for name in ("axis", "dimension") if name in params} | set(along)
    along = {axis % len(given[0].axes) for axis in along}
    reason = f"operation {eqn.primitive.name!r} goes by their order"
    axes = list(given[0].axes)
    for value in given[1:]:
        for one, other in zip(axes, value.axes, strict=True):
            walk.terms.unify(one, other)
    for axis in along:
        walk.terms.fix(axes[axis], reason)
    outputs = []
    for var in eqn.outvars:
        shape = var.aval.shape
        left = [axis for axis in range(len(axes)) if len(shape) == len(axes) or axis not in along]
        outputs.append(
            _made(given, *(walk.still(n, reason) if a in along else axes[a] for n, a in zip(shape, left, strict=True)))
        )
    return outputs


@_rule("concatenate")
def _concatenate(walk: Walk, eqn: Any, given: list[Value]) -> list[Value]:
    return [_joined(walk, given, eqn.params["dimension"])]


@_rule("stack")
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
    return _made(given, *axes)


@_rule("pad")
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
            axes.append(walk.still(len(cut), _PLACE))
            continue
        new = walk.terms.fresh(int(np.count_nonzero(cut < 0)), (pad, PADDING))
        walk.terms.mark(labels, (pad, PADDED))
        cut[cut < 0] = new
        if low < 0 or high < 0:
            _cut(walk, labels, np.arange(max(0, -low), n - max(0, -high)))
        reason = f"padded from {n} to {len(cut)} channels, a fixed number"
        walk.terms.tie(np.concatenate([labels, new]), reason)
        axes.append(cut)
    return [_made(given, *axes)]


@_rule("slice")
def _slice(walk: Walk, eqn: Any, given: list[Value]) -> list[Value]:
    (value,), params = given, eqn.params
    strides = params["strides"] or (1,) * len(value.axes)
    places = zip(params["start_indices"], params["limit_indices"], strides, strict=True)
    kept = [np.arange(start, stop, step) for start, stop, step in places]
    return [_made(given, *(_cut(walk, *each) for each in zip(value.axes, kept, strict=True)))]


@_rule("split")
def _split(walk: Walk, eqn: Any, given: list[Value]) -> list[Value]:
    (value,), along = given, eqn.params["axis"]
    whole = value.axes[along]
    kept = np.split(np.arange(len(whole)), np.cumsum(eqn.params["sizes"])[:-1])
    pieces = [_cut(walk, whole, each) for each in kept]
    return [_made(given, *value.axes[:along], piece, *value.axes[along + 1 :]) for piece in pieces]


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


@_rule("dynamic_slice")
def _dynamic_slice(walk: Walk, eqn: Any, given: list[Value]) -> list[Value]:
    axes = []
    for labels, n in zip(given[0].axes, eqn.params["slice_sizes"], strict=True):
        if n != len(labels):
            walk.terms.fix(labels, "the program looks them up by their number")
            labels = walk.still(n, _PLACE) if n > 1 else walk.alone()
        axes.append(labels)
    return [_made(given, *axes)]


@_rule("dynamic_update_slice")
def _dynamic_update_slice(walk: Walk, eqn: Any, given: list[Value]) -> list[Value]:
    for labels, new in zip(given[0].axes, given[1].axes, strict=True):
        if len(labels) == len(new):
            walk.terms.unify(labels, new)
        else:
            walk.terms.fix(np.concatenate([labels, new]), "the program looks them up by their number")
    return [_made(given, *given[0].axes)]


@_rule("gather")
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
            windows.append(labels if whole else walk.still(sizes[axis], _PLACE))
    batches = iter(indices.axes[:-1])
    shape, windows = eqn.outvars[0].aval.shape, iter(windows)
    axes = tuple(next(windows) if axis in numbers.offset_dims else next(batches) for axis in range(len(shape)))
    free = tuple(axes[axis] for axis in numbers.offset_dims)
    walk.note(table, (), free, indices, 1)
    return [_made(given, *axes)]


@_rule(*WINDOWS)
def _window(walk: Walk, eqn: Any, given: list[Value]) -> list[Value]:
    params, arrays = eqn.params, [value for value in given if value.axes]
    shape = eqn.outvars[0].aval.shape
    axes = []
    for axis, labels in enumerate(arrays[0].axes):
        idle = params["window_dimensions"][axis] == 1 and shape[axis] == len(labels)
        for value in arrays[1:]:
            walk.terms.unify(labels, value.axes[axis])
        if not idle:
            walk.terms.fix(labels, "a window runs along them")
        axes.append(labels if idle else walk.still(shape[axis], _PLACE))
    return [_made(given, *axes) for _ in eqn.outvars]


@_rule("dot_general")
def _dot(walk: Walk, eqn: Any, given: list[Value]) -> list[Value]:
    left, (summed, shared) = given[0], eqn.params["dimension_numbers"]
    walk.contract(given, summed, shared)
    free = [
        [labels for axis, labels in enumerate(value.axes) if axis not in (*gone, *both)]
        for value, gone, both in zip(given, summed, shared, strict=True)
    ]
    return [_made(given, *(left.axes[axis] for axis in shared[0]), *free[0], *free[1])]


@_rule("conv_general_dilated")
def _convolve(walk: Walk, eqn: Any, given: list[Value]) -> list[Value]:
    (images, kernel), params, terms = given, eqn.params, walk.terms
    numbers, groups = params["dimension_numbers"], params["feature_group_count"]
    if params["batch_group_count"] != 1:
        return _unknown(walk, eqn, given)
    image, weight, out = numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec
    channels, inputs, outputs = images.axes[image[1]], kernel.axes[weight[1]], kernel.axes[weight[0]]
    for axis in image[2:]:
        terms.fix(images.axes[axis], _PLACE)
    for axis in weight[2:]:
        terms.fix(kernel.axes[axis], "they are positions in a kernel")
    if groups > 1:
        # Channel (g, i) of the input meets input i of the kernel's outputs (g, o); a group has a size of its own.
        per_group = len(channels) // groups, len(outputs) // groups
        group = terms.fresh(groups)
        inner = inputs if per_group[0] > 1 else None
        own = terms.fresh(per_group[1], here()) if per_group[1] > 1 else None
        terms.unify(channels, _product(walk, group, inner))
        terms.unify(outputs, _product(walk, group, own))
        for labels in (inner, own):
            if labels is not None:
                terms.tie(labels, f"the convolution has {groups} groups of channels of fixed sizes")
        if inner is not None:
            terms.tie(group, f"the convolution has {groups} groups of channels")
        walk.note(kernel, () if inner is None else (inner,), () if own is None else (own,), images, 0)
    else:
        walk.contract(given, ((image[1],), (weight[1],)), ((), ()))
    shape = eqn.outvars[0].aval.shape
    axes = [walk.still(n, _PLACE) for n in shape]
    axes[out[0]], axes[out[1]] = images.axes[image[0]], outputs
    return [_made(given, *axes)]


def _product(walk: Walk, group: Labels, inner: Labels | None) -> Labels:
    return group if inner is None else walk.terms.product([group, inner])


@_rule("scan")
def _scan(walk: Walk, eqn: Any, given: list[Value]) -> list[Value]:
    params = eqn.params
    consts, carries = params["num_consts"], params["num_carry"]
    stacked = given[consts + carries :]
    for value in stacked:
        walk.terms.fix(value.axes[0], _LOOP)
    carry = _carried(given[consts : consts + carries])
    slices = [Value(value.axes[1:], value.sources) for value in stacked]
    outputs = walk.loop(params["jaxpr"], [*given[:consts], *carry, *slices])
    _alike(walk, carry, outputs[:carries])
    steps = walk.still(params["length"], _LOOP)
    return [*carry, *(Value((steps, *value.axes), value.sources) for value in outputs[carries:])]


@_rule("while")
def _while(walk: Walk, eqn: Any, given: list[Value]) -> list[Value]:
    params = eqn.params
    of_condition, of_both = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
    carry = _carried(given[of_both:])
    walk.loop(params["cond_jaxpr"], [*given[:of_condition], *carry])
    _alike(walk, carry, walk.loop(params["body_jaxpr"], [*given[of_condition:of_both], *carry]))
    return carry


@_rule("cond")
def _cond(walk: Walk, eqn: Any, given: list[Value]) -> list[Value]:
    first, *others = (walk.loop(branch, given[1:]) for branch in eqn.params["branches"])
    for other in others:
        _alike(walk, first, other)
    return first


def _carried(values: Sequence[Value]) -> list[Value]:
    """What a loop carries is no leaf and no constant, even if it begins as one."""
    return [Value(value.axes, value.sources | {INPUT}) for value in values]


def _alike(walk: Walk, ones: Sequence[Value], others: Sequence[Value]) -> None:
    for one, other in zip(ones, others, strict=True):
        for labels, these in zip(one.axes, other.axes, strict=True):
            walk.terms.unify(labels, these)
