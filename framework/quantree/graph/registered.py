"""How rules are registered, and what they share."""

from collections.abc import Callable, Sequence
from typing import Any

from quantree.graph.terms import Labels
from quantree.graph.walk import Value, Walk

Rule = Callable[[Walk, Any, list[Value]], list[Value]]
RULES: dict[str, Rule] = {}
PLACE = "they are positions, not channels"


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Makes a function the rule of the operations with these names."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


def unknown(walk: Walk, eqn: Any, given: list[Value]) -> list[Value]:
    """The rule of all others: nothing that they touch may move."""
    reason = f"operation {eqn.primitive.name!r}, of which nothing is known"
    for value in given:
        for labels in value.axes:
            walk.terms.fix(labels, reason)
    return [made(given, *(walk.still(n, reason) for n in var.aval.shape)) for var in eqn.outvars]


def made(given: Sequence[Value], *axes: Labels) -> Value:
    """What is computed from all of these."""
    return Value(axes, frozenset().union(*(value.sources for value in given)))  # `apply_rule` says whether linear
