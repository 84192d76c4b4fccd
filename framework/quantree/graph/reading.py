"""One reading of a network's program: its groups at given shapes. A second, with a channel less, proves the first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax

from quantree.graph.gather import Slot, Tap, gathered
from quantree.graph.groups import Group
from quantree.graph.rules import apply_rule
from quantree.graph.walk import INPUT, Value, Walk
from quantree.model import Apply, unflatten

Shapes = Mapping[str, jax.ShapeDtypeStruct]


@dataclass(frozen=True, eq=False)
class Reading:
    """What one trace of a network tells: groups; where activations of each can be watched; contracted leaves in the
    order of the program; shapes of the outputs; single numbers that are written into the program.
    """

    groups: tuple[Group, ...]
    taps: Mapping[str, tuple[Tap, ...]]
    kernels: tuple[str, ...]
    outputs: tuple[tuple[int, ...], ...]
    numbers: tuple[str, ...]


def read(apply: Apply, params: Shapes, state: Shapes, inputs: Any) -> Reading:
    """Traces a network in eval mode. inputs: a pytree of shapes. Whatever the network raises goes through."""
    trees = unflatten(params), unflatten(state), inputs
    program = jax.make_jaxpr(lambda *given: apply(*given)[0])(*trees)
    walk = Walk(apply_rule)
    slots: list[Slot] = []
    given: list[Value] = []
    for keys, leaf in jax.tree.leaves_with_path(trees[0]) + jax.tree.leaves_with_path(trees[1]):
        path = "/".join(key.key for key in keys)
        axes = tuple(walk.new(n, None) for n in leaf.shape)
        slots += [Slot(path, axis, path in state, labels) for axis, labels in enumerate(axes) if len(labels) > 1]
        given.append(Value(axes, frozenset({path})))
    for leaf in jax.tree.leaves(inputs):
        still = tuple(walk.still(n, "an input of the network") for n in leaf.shape)
        given.append(Value(still, frozenset({INPUT})))
    outputs = walk.run(program, given)
    for labels in (labels for output in outputs for labels in output.axes):
        walk.terms.fix(labels, "an output of the network")
    groups, taps = gathered(walk, slots)
    kernels = dict.fromkeys(path for each in walk.contractions for path in sorted(each.weights))
    return Reading(groups, taps, tuple(kernels), tuple(output.shape for output in outputs), tuple(walk.numbers))


def proven(reading: Reading, apply: Apply, params: Shapes, state: Shapes, inputs: Any) -> tuple[Group, ...]:
    """The groups, tied where the network is not the same with a channel less, because a width is written into it.

    It must run, give outputs of the same shapes, have the same groups and hold the same numbers. All are tried at once,
    and one by one only if that fails.
    """

    def failure(those: Sequence[Group]) -> str | None:
        try:
            found = read(apply, _narrower(params, those), _narrower(state, those), inputs)
        except Exception as error:
            return f"with fewer of them the network does not run: {next(iter(str(error).strip().splitlines()), '')}"
        if found.outputs != reading.outputs:
            return "with fewer of them the network gives outputs of another shape"
        if found.numbers != reading.numbers:
            return "the network computes with their number"
        # Of two channels one is left, which is no group.
        wanted = {_members(group): group.size - 1 for group in those if group.size > 2}
        now = {_members(group): group.size for group in found.groups if group.fixed is None}
        return None if wanted.items() <= now.items() else "with fewer of them the network is another one"

    shrinkable = [group for group in reading.groups if group.fixed is None and group.tied is None]
    if failure(shrinkable) is None:
        return reading.groups
    reasons = {group.name: failure([group]) for group in shrinkable}
    return tuple(replace(group, tied=group.tied or reasons.get(group.name)) for group in reading.groups)


def _members(group: Group) -> frozenset[tuple[str, int, int]]:
    return frozenset((member.path, member.axis, member.places.shape[1]) for member in group.members)


def _narrower(leaves: Shapes, groups: Sequence[Group]) -> dict[str, jax.ShapeDtypeStruct]:
    """The leaves with one channel less in each group."""
    found = dict(leaves)
    for member in (member for group in groups for member in group.members if member.path in leaves):
        shape = list(found[member.path].shape)
        shape[member.axis] -= member.places.shape[1]
        found[member.path] = jax.ShapeDtypeStruct(tuple(shape), found[member.path].dtype)
    return found
