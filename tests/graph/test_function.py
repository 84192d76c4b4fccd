"""What the graph calls free is free: channels move, and equal ones merge, without a change of what is computed."""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantree.encodings import Compressed
from quantree.graph import Graph, Group, couple, reorder, shrink
from quantree.model import Model, unflatten
from tests.graph.networks import ALL, names


@dataclass
class Subject:
    """A network with its graph and its compiled program."""

    model: Model
    inputs: Any
    graph: Graph
    run: Callable[..., Any]

    def outputs(self, compressed: Compressed) -> list[np.ndarray]:
        return [np.asarray(leaf) for leaf in jax.tree.leaves(self.run(compressed, self.inputs))]

    def change(self, before: list[np.ndarray], after: Compressed) -> float:
        """Largest change of an output, relative to the largest of its array; 1 is what rounding may do."""
        changes = []
        for one, other in zip(before, self.outputs(after), strict=True):
            allowed = max(1e-5, 4 * float(jnp.finfo(one.dtype).eps))
            one, other = one.astype(np.float64), other.astype(np.float64)
            assert np.isfinite(one).all() and np.abs(one).max() > 0
            changes.append(np.abs(one - other).max() / np.abs(one).max() / allowed)
        return max(changes)


@pytest.fixture(scope="module", params=[pytest.param(name, marks=marks) for name, marks in names()])
def net(request: pytest.FixtureRequest) -> Subject:
    case = ALL[request.param]
    model = case.model
    apply = model.apply
    assert apply is not None

    def run(compressed: Compressed, inputs: Any) -> Any:
        return apply(compressed.decode(), unflatten(compressed.state), inputs)[0]

    graph = couple(apply, model.params, model.state, case.inputs)
    # Most of the time goes into compiling, so that is done in haste.
    return Subject(model, case.inputs, graph, jax.jit(run, compiler_options={"xla_backend_optimization_level": 0}))


def orders(groups: tuple[Group, ...]) -> list[tuple[Group, np.ndarray]]:
    """A random order for each group, in which no channel keeps its place."""
    rng = np.random.default_rng(0)
    cycles = [rng.permutation(group.size) for group in groups]
    return [(group, np.roll(cycle, 1)[np.argsort(cycle)]) for group, cycle in zip(groups, cycles, strict=True)]


def changed(before: Compressed, after: Compressed) -> set[str]:
    """Leaves and arrays of the state that are not the same."""
    ones, others = ({**each.state, **each.leaves} for each in (before, after))
    return {path for path in ones if not jax.tree.all(jax.tree.map(np.array_equal, ones[path], others[path]))}


def test_free_channels_may_be_in_any_order(net: Subject) -> None:
    before = Compressed.from_model(net.model)
    outputs, together = net.outputs(before), before
    for group, order in orders(net.graph.free):
        assert not (order == np.arange(group.size)).any(), group.name
        alone = reorder(before, group, order)
        assert changed(before, alone) == {member.path for member in group.members}, group.name
        assert net.change(outputs, alone) <= 1, group.name
        together = reorder(together, group, order)
    assert net.change(outputs, together) <= 1


BLIND = ("key/bias",)  # a softmax does not see what is added to all its scores


def test_no_member_may_be_left_behind(net: Subject) -> None:
    before = Compressed.from_model(net.model)
    outputs = net.outputs(before)
    for group, order in orders(net.graph.free):
        for left in group.members if len(group.members) > 1 else ():
            if left.path.endswith(BLIND):
                continue
            others = tuple(member for member in group.members if member is not left)
            after = reorder(before, dataclasses.replace(group, members=others), order)
            assert net.change(outputs, after) > 5, f"{group.name} without {left.path}[{left.axis}]"


def test_equal_channels_merge(net: Subject) -> None:
    before = functools.reduce(twins, net.graph.shrinkable, Compressed.from_model(net.model))
    after, graph, touched = before, net.graph, set()
    for name in (group.name for group in net.graph.shrinkable):
        group = next(group for group in graph.shrinkable if group.name == name)
        if touched & axes(group):  # its places are others now, so the graph is read again
            graph = couple(net.graph.apply, after.decode(), unflatten(after.state), net.inputs)
            group = next(group for group in graph.shrinkable if group.name == name)
            touched = set()
        kept = np.delete(np.arange(group.size), 1)
        mean, total = np.eye(group.size)[kept], np.eye(group.size)[kept]
        mean[0, :2], total[0, :2] = 0.5, 1
        after = shrink(after, group, kept, mean, total)
        touched |= axes(group)
    assert net.change(net.outputs(before), after) <= 1


def axes(group: Group) -> set[tuple[str, int]]:
    return {(member.path, member.axis) for member in group.members}


def twins(compressed: Compressed, group: Group) -> Compressed:
    """The network whose second channel of this group is made as the first is."""
    arrays = {path: np.array(leaf.decode({})) for path, leaf in compressed.leaves.items()}
    arrays |= {path: np.array(leaf) for path, leaf in compressed.state.items()}
    for member in group.members:
        if member.role != "consumer":
            along = np.moveaxis(arrays[member.path], member.axis, 0)
            along[member.places[1]] = along[member.places[0]]
    leaves = {path: jnp.asarray(arrays[path]) for path in compressed.leaves}
    state = {path: jnp.asarray(arrays[path]) for path in compressed.state}
    return Compressed.from_model(Model(unflatten(leaves), unflatten(state)))
