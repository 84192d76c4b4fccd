"""Channels as their consumers see them: a kernel and a bias each, with the batch norm behind it worked in."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from quantree.encodings import Compressed, Pruned, Raw
from quantree.errors import LeafError
from quantree.graph import Group, Member
from quantree.stage import is_float_leaf


class Norm(NamedTuple):
    """The batch norm behind the one kernel of a group. own: kernel, its bias, and the running mean, which all have the
    scale that the norm takes away. scale, bias: None if the norm has none.
    """

    own: tuple[Member, ...]
    mean: Member
    var: Member
    scale: Member | None
    bias: Member | None

    def factors(self, compressed: Compressed) -> tuple[np.ndarray, np.ndarray]:
        """(scale, deviation), float64 [channels] each: what the norm multiplies and divides by."""
        # Flax and PyTorch add 1e-5 to the variance unless told otherwise, Keras 1e-3. It is no array of the network.
        epsilon = 1e-3 if compressed.layout == "keras" else 1e-5
        var = rows(compressed, self.var)[:, 0]
        scale = np.ones_like(var) if self.scale is None else rows(compressed, self.scale)[:, 0]
        return scale, np.sqrt(np.maximum(var, 0) + epsilon)


def norm_behind(group: Group) -> Norm | None:
    """The norm that alone follows the one kernel of these channels; None where there is another number of kernels or
    norms, or more that belongs to a channel: which of it lies before a norm, the group does not tell.
    """
    producers, others = group.having("producer"), group.having("per-channel")
    means = [member for member in others if member.state and _last(member) == "mean"]
    if len(producers) != 1 or len(means) != 1:
        return None
    (producer,), (mean,) = producers, means
    state = mean.path.removesuffix("mean")
    inside = (state, state.partition("/")[2])  # a Linen collection may stand before the state's name

    def of_norm(name: str, state: bool) -> Member | None:
        paths = [f"{prefix}{name}" for prefix in inside]
        return next((each for each in others if each.state == state and each.path in paths), None)

    var, scale, bias = of_norm("var", True), of_norm("scale", False), of_norm("bias", False)
    layer = producer.path.rpartition("/")[0]
    own_bias = [each for each in others if not each.state and each.path == f"{layer}/bias" and each is not bias]
    known = [member for member in (producer, mean, var, scale, bias, *own_bias) if member is not None]
    if var is None or len(known) != len(producers) + len(others):
        return None
    return Norm((producer, *own_bias, mean), mean, var, scale, bias)


def filters(compressed: Compressed, group: Group) -> np.ndarray:
    """What leads to each channel, and what is added to it, float64 [channels, n]: all kernels that make it, and all
    numbers that it has for its own.

    Kernel and bias are those of the function that kernel and norm compute together, in eval mode, where `norm_behind`
    knows the norm. `LeafError` if an array is quantized, or not finite.
    """
    norm = norm_behind(group)
    if norm is None:
        members = (*group.having("producer"), *group.having("per-channel"))
        return np.concatenate([rows(compressed, member) for member in members if not member.state], axis=1)
    scale, deviation = norm.factors(compressed)
    kernel, *added, mean = (rows(compressed, member) * (scale / deviation)[:, None] for member in norm.own)
    shift = sum(added, -mean) + (0 if norm.bias is None else rows(compressed, norm.bias))
    return np.concatenate([kernel, shift], axis=1)


def means(compressed: Compressed, group: Group, mean: np.ndarray) -> Iterator[tuple[tuple[Member, ...], np.ndarray]]:
    """How the arrays of a group are averaged, for new channels that are means of old ones as their consumers see them.

    mean: [channels, channels], rows of weights with sum 1. Gives members with a matrix of the same form, which is
    `mean` where `norm_behind` knows no norm. Where it does, kernels are averaged as the norm scales them: with w the
    kernel, s its scale and d the deviation, the new kernel is (D / S) sum of m_j (s_j / d_j) w_j, where S is the mean
    of the |s_j| and D^2 that of the d_j^2, which become the new scale and variance; likewise for the running mean and a
    bias before the norm. In eval mode the function before any statistic is taken anew is the mean of the functions; in
    train mode, or once statistics are taken anew, it has the mean of their scales.
    """
    norm = norm_behind(group)
    if norm is None:
        yield group.members, mean
        return
    scale, deviation = norm.factors(compressed)
    signs = np.where(mean @ scale < 0, -1.0, 1.0)[:, None] * np.where(scale < 0, -1.0, 1.0)[None]
    new_scale, new_deviation = (mean * signs) @ scale, np.sqrt(mean @ deviation**2)
    factors = (scale / deviation)[None] * new_deviation[:, None] / np.where(new_scale == 0, 1, new_scale)[:, None]
    yield norm.own, mean * np.where(new_scale[:, None] == 0, 1, factors)
    if norm.scale is not None:
        yield (norm.scale,), mean * signs
    done = {id(member) for member in (*norm.own, norm.scale)}
    yield tuple(member for member in group.members if id(member) not in done), mean


def rows(compressed: Compressed, member: Member) -> np.ndarray:
    """All that an array has for each channel, float64 [channels, n]. `LeafError` if it is quantized or not finite."""
    if member.state:
        value = np.asarray(compressed.state[member.path])
    else:
        leaf = compressed.leaves[member.path]
        if not isinstance(leaf, Raw | Pruned) or not is_float_leaf(leaf):
            raise LeafError(
                f"{member.path}: it is {leaf.name} already; put this stage before the one that made it so"
                if is_float_leaf(leaf)
                else f"{member.path}: it holds {leaf.dtype}, no floats"
            )
        value = np.asarray(leaf.decode({}))
    value = value.astype(np.float64)
    if not np.isfinite(value).all():
        raise LeafError(f"{member.path}: {np.count_nonzero(~np.isfinite(value))} numbers are NaN or infinite")
    return np.moveaxis(value, member.axis, 0)[member.places].reshape(len(member.places), -1)


def _last(member: Member) -> str:
    return member.path.rpartition("/")[2]
