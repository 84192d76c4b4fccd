"""From a network to its groups: the program is traced once, with abstract values."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from quantree.encodings import Compressed
from quantree.errors import DataError, QuantreeError
from quantree.graph.describe import describe
from quantree.graph.gather import Tap
from quantree.graph.groups import Group
from quantree.graph.reading import proven, read
from quantree.graph.walk import operands
from quantree.model import Apply, Model, Tree, flatten, unflatten
from quantree.task import Data

_TRACED = 2  # examples with which the program is traced; their number is of no account


@dataclass(frozen=True, eq=False)
class Graph:
    """All groups of a network, in the order in which its program comes to them.

    kernels: paths of the weights that make channels or sum over them, in that order too.
    """

    groups: tuple[Group, ...]
    kernels: tuple[str, ...]
    apply: Apply
    taps: Mapping[str, tuple[Tap, ...]]

    @property
    def free(self) -> tuple[Group, ...]:
        """Groups whose channels may be permuted."""
        return tuple(group for group in self.groups if group.fixed is None)

    @property
    def shrinkable(self) -> tuple[Group, ...]:
        """Groups whose channels may be merged and removed."""
        return tuple(group for group in self.free if group.tied is None)

    def describe(self) -> str:
        """A table of all groups, and what is fixed for which reason."""
        return describe(self.groups)

    def activations(self, params: Tree, state: Tree, inputs: Any, group: Group) -> jax.Array:
        """What those see that sum over the channels of a group: [samples, channels]; a sample is one pixel of one
        input, or the like, in front of one of them. inputs [n, ...].

        `QuantreeError` if nothing outside a loop sums over them.
        """
        taps = self.taps.get(group.name, ())
        if not taps:
            raise QuantreeError(
                f"{group.name}: no kernel outside a loop sums over these channels, so what it sees can't be watched; "
                "leave the group out of `match`, or use settings that look at weights alone"
            )
        found = _watched(self.apply, tuple((tap.site, tap.operand) for tap in taps))(params, state, inputs)
        parts = []
        for tap in taps:
            rows = jnp.moveaxis(found[tap.site], tap.axis, -1)
            rows = rows.reshape(-1, rows.shape[-1])[:, tap.places]
            parts.append(jnp.moveaxis(rows, 1, 2).reshape(-1, group.size))
        return jnp.concatenate(parts)


@functools.lru_cache(maxsize=64)
def _watched(apply: Apply, wanted: tuple[tuple[int, int], ...]) -> Callable[[Tree, Tree, Any], dict[int, jax.Array]]:
    def watch(params: Tree, state: Tree, inputs: Any) -> dict[int, jax.Array]:
        program = jax.make_jaxpr(lambda *given: apply(*given)[0])(params, state, inputs)
        return operands(program, jax.tree.leaves((params, state, inputs)), dict(wanted))

    return jax.jit(watch)


class Network(Protocol):
    """A network and what runs through it, such as a stage's `Context`."""

    @property
    def model(self) -> Model: ...

    @property
    def data(self) -> Data | None: ...


def coupled(compressed: Compressed, network: Network, stage: str) -> Graph:
    """The groups of a compressed model, at the shapes that its leaves have now. Inputs are those of validation.

    `QuantreeError` if there is no function to trace, `DataError` if there are no inputs; both name the stage.
    """
    if network.model.apply is None:
        raise QuantreeError(
            f"stage {stage!r} follows the channels of a network, and a bare checkpoint has no `apply`: "
            "make the model in Python, from_nnx(module) or from_linen(module, variables)"
        )
    batch = None if network.data is None else next(iter(network.data.validation(_TRACED)), None)
    if batch is None:
        raise DataError(f"stage {stage!r} needs the shape of an input: give `data` to Recipe.run")
    params = unflatten({path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in compressed.leaves.items()})
    return couple(network.model.apply, params, unflatten(compressed.state), batch[0])


def couple(apply: Apply, params: Tree, state: Tree, inputs: Any) -> Graph:
    """The groups of a network in eval mode.

    params, state: nested dicts of arrays, or of `jax.ShapeDtypeStruct`. inputs: an array [n, ...] or a pytree of such;
    their shapes count, no values. Works on the program that JAX traces, so on any network: what it does not understand
    it leaves fixed, and says so. `QuantreeError` if the network fails on these shapes.
    """
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)), (params, state, inputs)
    )
    params, state, inputs = flatten(shapes[0]), flatten(shapes[1]), shapes[2]
    try:
        reading = read(apply, params, state, inputs)
    except QuantreeError:
        raise
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "")
        raise QuantreeError(f"the network fails on inputs of these shapes: {type(error).__name__}: {reason}") from error
    groups = proven(reading, apply, params, state, inputs)
    return Graph(groups, reading.kernels, apply, reading.taps)
