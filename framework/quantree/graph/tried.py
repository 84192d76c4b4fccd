"""Whether a network runs with fewer channels: tried, not believed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax

from quantree.graph.groups import Group

Shapes = Mapping[str, jax.ShapeDtypeStruct]


def tried(outputs: Callable[[Shapes, Any], Any], leaves: Shapes, inputs: Any, groups: Sequence[Group]) -> list[Group]:
    """The groups, tied where the network does not run with a channel less, because a width is written into it.

    outputs: leaves by path, and inputs -> what the network gives. Only shapes are computed: once for all groups, and
    one by one if that fails.
    """
    wanted = jax.eval_shape(outputs, leaves, inputs)

    def failure(those: Sequence[Group]) -> str | None:
        try:
            found = jax.eval_shape(outputs, _narrower(leaves, those), inputs)
        except Exception as error:
            return f"with fewer of them the network does not run: {next(iter(str(error).strip().splitlines()), '')}"
        same = jax.tree.map(lambda leaf: leaf.shape, found) == jax.tree.map(lambda leaf: leaf.shape, wanted)
        return None if same else "with fewer of them the network gives outputs of another shape"

    shrinkable = [group for group in groups if group.fixed is None and group.tied is None]
    if failure(shrinkable) is None:
        return list(groups)
    reasons = {group.name: failure([group]) for group in shrinkable}
    return [replace(group, tied=group.tied or reasons.get(group.name)) for group in groups]


def _narrower(leaves: Shapes, groups: Sequence[Group]) -> dict[str, jax.ShapeDtypeStruct]:
    found = dict(leaves)
    for group in groups:
        for member in group.members:
            leaf = found[member.path]
            shape = list(leaf.shape)
            shape[member.axis] -= member.places.shape[1]
            found[member.path] = jax.ShapeDtypeStruct(tuple(shape), leaf.dtype)
    return found
