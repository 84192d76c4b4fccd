"""What each operation does to the axes of its operands. An operation without a rule fixes all that it touches."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from quantree.graph import shaping  # registers its rules
from quantree.graph.registered import PLACE, RULES, made, rule, unknown
from quantree.graph.terms import ALONE, Labels, here
from quantree.graph.walk import INPUT, Value, Walk

__all__ = ["apply_rule", "shaping"]

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
_LOOP = "a loop runs along them"


def apply_rule(walk: Walk, eqn: Any, given: list[Value]) -> list[Value]:
    """The outputs of one operation."""
    name = eqn.primitive.name
    outputs = RULES.get(name, unknown)(walk, eqn, given)
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


@rule(*ELEMENTWISE)
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
    return [made(given, *axes)]


def _same_leaf(values: Sequence[Value]) -> bool:
    """True if two of these are weights that were made of the same leaf."""
    sources = [source for value in values if value.is_weights for source in value.sources]
    return len(set(sources)) < len(sources)


@rule(*REDUCTIONS)
def _reduce(walk: Walk, eqn: Any, given: list[Value]) -> list[Value]:
    (value,), gone = given, eqn.params["axes"]
    for axis in gone:
        walk.terms.tie(value.axes[axis], f"{eqn.primitive.name.removeprefix('reduce_')} over these channels")
    return [made(given, *(labels for axis, labels in enumerate(value.axes) if axis not in gone))]


@rule(*ORDERED)
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
            made(given, *(walk.still(n, reason) if a in along else axes[a] for n, a in zip(shape, left, strict=True)))
        )
    return outputs


@rule(*WINDOWS)
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
        axes.append(labels if idle else walk.still(shape[axis], PLACE))
    return [made(given, *axes) for _ in eqn.outvars]


@rule("dot_general")
def _dot(walk: Walk, eqn: Any, given: list[Value]) -> list[Value]:
    left, (summed, shared) = given[0], eqn.params["dimension_numbers"]
    walk.contract(given, summed, shared)
    free = [
        [labels for axis, labels in enumerate(value.axes) if axis not in (*gone, *both)]
        for value, gone, both in zip(given, summed, shared, strict=True)
    ]
    return [made(given, *(left.axes[axis] for axis in shared[0]), *free[0], *free[1])]


@rule("conv_general_dilated")
def _convolve(walk: Walk, eqn: Any, given: list[Value]) -> list[Value]:
    (images, kernel), params, terms = given, eqn.params, walk.terms
    numbers, groups = params["dimension_numbers"], params["feature_group_count"]
    if params["batch_group_count"] != 1:
        return unknown(walk, eqn, given)
    image, weight, out = numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec
    channels, inputs, outputs = images.axes[image[1]], kernel.axes[weight[1]], kernel.axes[weight[0]]
    for axis in image[2:]:
        terms.fix(images.axes[axis], PLACE)
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
    axes = [walk.still(n, PLACE) for n in shape]
    axes[out[0]], axes[out[1]] = images.axes[image[0]], outputs
    return [made(given, *axes)]


def _product(walk: Walk, group: Labels, inner: Labels | None) -> Labels:
    return group if inner is None else walk.terms.product([group, inner])


@rule("scan")
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


@rule("while")
def _while(walk: Walk, eqn: Any, given: list[Value]) -> list[Value]:
    params = eqn.params
    of_condition, of_both = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
    carry = _carried(given[of_both:])
    walk.loop(params["cond_jaxpr"], [*given[:of_condition], *carry])
    _alike(walk, carry, walk.loop(params["body_jaxpr"], [*given[of_condition:of_both], *carry]))
    return carry


@rule("cond")
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
