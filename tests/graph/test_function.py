"""What the graph calls free is free: channels move, and equal ones merge, without a change of what is computed."""

import dataclasses
import functools

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies as st

from quantree.encodings import Compressed
from quantree.graph import Group, couple, reorder
from quantree.model import unflatten
from tests.graph.cases import vectors
from tests.graph.networks import ALL, names
from tests.graph.random_programs import program
from tests.graph.subject import Subject, merged, orders, twins

BLIND = ("key/bias",)  # a softmax does not see what is added to all its scores


@pytest.fixture(scope="module", params=[pytest.param(name, marks=marks) for name, marks in names()])
def net(request: pytest.FixtureRequest) -> Subject:
    case = ALL[request.param]
    return Subject.of(case.model, case.inputs)


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
        after = merged(after, group)
        touched |= axes(group)
    assert net.change(net.outputs(before), after) <= 1


@hypothesis.given(st.integers(0, 2**32 - 1), st.integers(2, 9))
def test_random_programs(seed: int, length: int) -> None:
    drawn = program(seed, length)
    hypothesis.note(", ".join(drawn.told))
    net = Subject.of(drawn.model(), vectors(3, 2, 5))
    before = Compressed.from_model(net.model)
    outputs = net.outputs(before)
    hypothesis.assume(np.abs(outputs[0]).max() > 0)
    # Chains of squares and sums cancel, so a little more than rounding may be lost.
    for group, order in orders(net.graph.free):
        assert net.change(outputs, reorder(before, group, order)) <= 10, group
    for group in net.graph.shrinkable:
        two = twins(before, group)
        outputs = net.outputs(two)
        assert not outputs[0].any() or net.change(outputs, merged(two, group)) <= 10, group


def changed(before: Compressed, after: Compressed) -> set[str]:
    """Leaves and arrays of the state that are not the same."""
    ones, others = ({**each.state, **each.leaves} for each in (before, after))
    return {path for path in ones if not jax.tree.all(jax.tree.map(np.array_equal, ones[path], others[path]))}


def axes(group: Group) -> set[tuple[str, int]]:
    return {(member.path, member.axis) for member in group.members}
