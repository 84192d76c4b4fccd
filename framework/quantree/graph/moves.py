"""Moving the channels of a group, and having fewer of them: the same change in every array that the group names."""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from quantree.encodings import Compressed, Encoding, Pruned, Raw
from quantree.errors import LeafError
from quantree.graph.groups import Group, Member

_Change = Callable[[np.ndarray, Member], np.ndarray]


def reorder(compressed: Compressed, group: Group, order: np.ndarray) -> Compressed:
    """The same network with channel `order[i]` in the place of channel i, bit for bit; order [channels].

    `LeafError` if the group is fixed or of another network, or a member has been quantized by an earlier stage.
    """
    _assert_may(group, group.fixed, "permuted")
    order = np.asarray(order)
    if not np.array_equal(np.sort(order), np.arange(group.size)):
        raise LeafError(f"{group.name}: {order} is no order of {group.size} channels")

    def move(array: np.ndarray, member: Member) -> np.ndarray:
        source = np.arange(array.shape[member.axis])
        source[member.places] = member.places[order]
        return np.take(array, source, axis=member.axis)

    return _changed(compressed, group, move, move)


def shrink(
    compressed: Compressed,
    group: Group,
    kept: np.ndarray,
    incoming: np.ndarray | None = None,
    outgoing: np.ndarray | None = None,
) -> Compressed:
    """A network with fewer channels.

    kept: [new] ascending channels, whose places the new ones take. incoming: [new, channels], new channels as sums of
    old ones in what makes them or has a number for each (rows of a mean); outgoing: the same in what sums over them.
    None: the values of those kept. Sums are worked out in float64 and rounded to the dtype of the leaf.
    `LeafError` if the group is fixed or tied or of another network, if a member has been quantized by an earlier stage,
    or if numbers that are summed are NaN or infinite.
    """
    _assert_may(group, group.fixed or group.tied, "merged or removed")
    kept = np.asarray(kept)
    if kept.size == 0 or (np.diff(kept) <= 0).any() or kept[0] < 0 or kept[-1] >= group.size:
        raise LeafError(f"{group.name}: {kept} are no ascending channels of {group.size}")
    gone = np.setdiff1d(np.arange(group.size), kept)

    def mixed(array: np.ndarray, member: Member, mix: np.ndarray | None) -> np.ndarray:
        axis, places = member.axis, member.places
        if mix is not None:
            rows = np.moveaxis(array, axis, 0)
            values = rows.astype(np.float64)
            bad = np.count_nonzero(~np.isfinite(values))
            if bad:  # zero times NaN is NaN
                raise LeafError(f"{member.path}: {bad} numbers are NaN or infinite")
            for place in places.T:
                values[place[kept]] = np.tensordot(mix, rows[place].astype(np.float64), 1)
            array = np.moveaxis(values, 0, axis)
        return np.delete(array, places[gone].reshape(-1), axis=axis)

    def values(array: np.ndarray, member: Member) -> np.ndarray:
        mix = outgoing if member.role == "consumer" else incoming
        return mixed(array, member, mix).astype(array.dtype)

    def masks(array: np.ndarray, member: Member) -> np.ndarray:
        mix = outgoing if member.role == "consumer" else incoming
        return mixed(array, member, None if mix is None else (mix != 0).astype(np.float64)) > 0

    return _changed(compressed, group, values, masks)


def _changed(compressed: Compressed, group: Group, values: _Change, masks: _Change) -> Compressed:
    """The model with `values(array, member)` in place of each member; `masks` does it for those of pruned leaves."""
    leaves: dict[str, Encoding] = {}
    state = dict(compressed.state)
    for member in group.members:
        _assert_there(compressed, member)
        if member.state:
            state[member.path] = jnp.asarray(values(np.asarray(state[member.path]), member))
            continue
        leaf = leaves.get(member.path, compressed.leaves[member.path])
        if isinstance(leaf, Raw):
            new = dataclasses.replace(leaf, value=jnp.asarray(values(np.asarray(leaf.value), member)))
        elif isinstance(leaf, Pruned):
            mask = jnp.asarray(masks(np.asarray(leaf.mask), member))
            new = Pruned.of(jnp.asarray(values(np.asarray(leaf.value), member)), mask, leaf.dtype)
        else:
            raise LeafError(f"{member.path}: it is {leaf.name} already; put this stage before the one that made it so")
        leaves[member.path] = new
    return compressed.replace(leaves, state=state)


def _assert_may(group: Group, reason: str | None, done: str) -> None:
    if reason is not None:
        raise LeafError(f"{group.name}: its channels can't be {done}: {reason}")


def _assert_there(compressed: Compressed, member: Member) -> None:
    arrays = compressed.state if member.state else compressed.leaves
    shape = arrays[member.path].shape if member.path in arrays else ()
    if member.axis >= len(shape) or member.places.max() >= shape[member.axis]:
        raise LeafError(
            f"{member.path}: the graph is of another network, or of this one before its channels changed; read it again"
        )
