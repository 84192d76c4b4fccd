"""A network under test: its graph, its compiled program, and how much its outputs change."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from quantree.encodings import Compressed
from quantree.graph import Graph, Group, couple, shrink
from quantree.model import Model, unflatten


@dataclass
class Subject:
    """A network with its graph and its compiled program."""

    model: Model
    inputs: Any
    graph: Graph
    run: Callable[..., Any]

    @classmethod
    def of(cls, model: Model, inputs: Any) -> "Subject":
        apply = model.apply
        assert apply is not None

        def run(compressed: Compressed, inputs: Any) -> Any:
            return apply(compressed.decode(), unflatten(compressed.state), inputs)[0]

        # Most of the time goes into compiling, so that is done in haste.
        hasty = jax.jit(run, compiler_options={"xla_backend_optimization_level": 0})
        return cls(model, inputs, couple(apply, model.params, model.state, inputs), hasty)

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


def orders(groups: tuple[Group, ...]) -> list[tuple[Group, np.ndarray]]:
    """A random order for each group, in which no channel keeps its place."""
    rng = np.random.default_rng(0)
    cycles = [rng.permutation(group.size) for group in groups]
    return [(group, np.roll(cycle, 1)[np.argsort(cycle)]) for group, cycle in zip(groups, cycles, strict=True)]


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


def merged(compressed: Compressed, group: Group) -> Compressed:
    """The network in which the second channel of this group has become one with the first."""
    kept = np.delete(np.arange(group.size), 1)
    mean, total = np.eye(group.size)[kept], np.eye(group.size)[kept]
    mean[0, :2], total[0, :2] = 0.5, 1
    return shrink(compressed, group, kept, mean, total)
