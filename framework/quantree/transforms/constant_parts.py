"""What channels give when nothing comes in, and where it can go once they are removed."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from quantree.encodings import Compressed, Encoding, Raw
from quantree.errors import ConfigError, LeafError
from quantree.graph import Graph, Group, Member
from quantree.model import unflatten
from quantree.stage import Context
from quantree.transforms.same_function import change

_ENDLESS = 1e30  # a running variance beside which a norm gives its bias alone
_CONSTANT = 1e-3  # spread of a constant, relative to the largest one: what borders and rounding may do


def fold_constants(
    before: Compressed, after: Compressed, graph: Graph, group: Group, kept: np.ndarray, context: Context
) -> Compressed:
    """`after`, in which nothing looks at the channels that are not kept, with their constant parts put elsewhere.

    The constant part of a channel is what those that sum over it see when the weights that lead to it are zero, and the
    norms behind give their bias: relu(bias) in the plainest case, whatever the nonlinearity. Times the weights that
    looked at it in `before` it goes into the bias beside these; without one, out of the running mean of the one norm
    that has a number for each of their outputs. `ConfigError` if there is neither, or if it is no constant. If the
    outputs of the network, run with constant parts alone, are no nearer then, `after` comes back.
    """
    seen = _constants(before, graph, group, np.setdiff1d(np.arange(group.size), kept), context)
    if not seen.any():
        return after
    folded = after
    for consumer in group.having("consumer"):
        folded = _moved(before, folded, graph, consumer, seen)
    distances = [change(_silent(before, group), _silent(each, group), context) for each in (after, folded)]
    plain, moved = (each.found if each else 0.0 for each in distances)
    return folded if moved <= plain else after


def _constants(compressed: Compressed, graph: Graph, group: Group, gone: np.ndarray, context: Context) -> np.ndarray:
    """The constant parts of those that are gone and zeros for the others, float64 [channels]."""
    data = context.need_data("remove")
    silent, batch = _silent(compressed, group), next(iter(data.validation(2)))
    rows = graph.activations(silent.decode(), unflatten(silent.state), batch[0], group)
    rows = np.asarray(rows)[:, gone].astype(np.float64)
    if not np.isfinite(rows).all():
        raise LeafError(f"{group.name}: activations are NaN or infinite; look at weights and data")
    means = np.zeros(group.size)
    means[gone] = rows.mean(axis=0)
    if np.abs(rows - means[gone]).max(initial=0) > _CONSTANT * np.abs(rows).max(initial=0):
        raise ConfigError(
            f"{group.name}: what its channels give without input is not the same everywhere; use compensate: "
            "least_squares"
        )
    return means


def _silent(compressed: Compressed, group: Group) -> Compressed:
    """The model whose channels of this group give their constant part alone."""
    leaves, state = dict[str, Encoding](), dict(compressed.state)
    for member in group.having("producer"):
        leaf = leaves.get(member.path) or Raw.of(compressed.leaves[member.path].decode({}))
        assert isinstance(leaf, Raw)
        leaves[member.path] = Raw.of(_filled(leaf.value, member, 0))
    for member in group.members:
        if member.state and member.path.rpartition("/")[2] == "var":
            state[member.path] = _filled(state[member.path], member, _ENDLESS)
    return compressed.replace(leaves, state=state)


def _filled(array: jax.Array, member: Member, value: float) -> jax.Array:
    place = (slice(None),) * member.axis + (member.places.reshape(-1),)
    return jnp.asarray(array).at[place].set(jnp.asarray(value, array.dtype))


def _moved(before: Compressed, after: Compressed, graph: Graph, consumer: Member, seen: np.ndarray) -> Compressed:
    """`after` with constants, as one kernel sees them, in the bias beside it or in the norm behind it."""
    kernel = np.asarray(before.leaves[consumer.path].decode({})).astype(np.float64)
    makes = [
        (group, member)
        for group in graph.groups
        for member in group.members
        if member.path == consumer.path and member.role == "producer"
    ]
    axes = {member.axis for _, member in makes}
    bias = f"{consumer.path.rpartition('/')[0]}/bias"
    if len(axes) == 1:
        [axis] = axes
        rows = np.moveaxis(kernel, (consumer.axis, axis), (0, -1))[consumer.places]  # [channels, m, ..., outputs]
        more = np.einsum("i,imo->o", seen, rows.reshape(len(seen), -1, kernel.shape[axis]))
        leaf = after.leaves.get(bias)
        if isinstance(leaf, Raw) and leaf.shape == more.shape:
            return after.replace({bias: dataclasses.replace(leaf, value=_added(leaf.value, more))})
        means = [
            member.path
            for group, _ in makes
            for member in group.members
            if member.state and member.path.rpartition("/")[2] == "mean"
        ]
        alone = all(len(group.having("producer")) == 1 for group, _ in makes)
        if leaf is None and alone and len(set(means)) == 1 and after.state[means[0]].shape == more.shape:
            return after.replace(state={**after.state, means[0]: _added(after.state[means[0]], -more)})
    raise ConfigError(
        f"{consumer.path}: it has no plain bias beside it, and no norm of its own behind it, to take what removed "
        "channels give without input; use compensate: least_squares or none"
    )


def _added(array: jax.Array, more: np.ndarray) -> jax.Array:
    return jnp.asarray((np.asarray(array).astype(np.float64) + more).astype(array.dtype))
