"""Outside networks as test cases: written as a user would write them, with weights that let no wrong move go unseen."""

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx

from quantree.linen import from_linen, init
from quantree.model import Model, Tree, flatten, from_nnx, unflatten

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Case:
    """build: makes the model; it is traced, not run, and its arrays are drawn here. inputs: of two examples or so.

    free: name -> channels of each group that may be permuted and shrunk; tied: of each that may be permuted only. No
    other may be free. If `free` is None, the graph need not understand the network, and may leave all of it fixed.
    """

    build: Callable[[], Model]
    inputs: Any
    free: Mapping[str, int] | None
    tied: Mapping[str, int] = field(default_factory=dict)

    @functools.cached_property
    def model(self) -> Model:
        return drawn(self.build)


CASES: dict[str, Case] = {}


def network(inputs: Any, free: Mapping[str, int] | None, tied: Mapping[str, int] | None = None) -> Callable[[Any], Any]:
    """A class of nnx, built with `rngs`, or of Linen, built without arguments, as a case under its own name."""

    def add(module: Any) -> Any:
        def build() -> Model:
            if issubclass(module, linen.Module):
                return from_linen(module(), init(module(), jax.random.key(0), inputs))
            return from_nnx(module(nnx.Rngs(0)))

        return _add(module, Case(build, inputs, free, tied or {}))

    return add


def function(
    shapes: Shapes, inputs: Any, free: Mapping[str, int] | None, tied: Mapping[str, int] | None = None
) -> Callable[[Any], Any]:
    """`f(params, inputs)` as a case; params: path -> array, nested."""

    def add(f: Callable[[Tree, Any], Any]) -> Any:
        def build() -> Model:
            params = unflatten({path: jnp.zeros(shape) for path, shape in shapes.items()})
            return Model(params, {}, Pure(f))

        return _add(f, Case(build, inputs, free, tied or {}))

    return add


def _add(thing: Any, case: Case) -> Any:
    assert thing.__name__ not in CASES, f"two networks are called {thing.__name__}"
    CASES[thing.__name__] = case
    return thing


@dataclass(frozen=True)
class Pure:
    """A function of parameters and inputs as the library's `Apply`."""

    function: Callable[[Tree, Any], Any]

    def __call__(
        self, params: Tree, state: Tree, inputs: Any, *, train: bool = False, key: jax.Array | None = None
    ) -> tuple[Any, Tree]:
        del train, key
        return self.function(params, inputs), state


def drawn(build: Callable[[], Model]) -> Model:
    """The model with arrays drawn by name and shape: scales and statistics too, so that no two channels are alike."""
    applies = []

    def trees() -> tuple[Tree, Tree]:
        model = build()
        applies.append(model.apply)
        return model.params, model.state

    params, state = jax.eval_shape(trees)
    rng = np.random.default_rng(0)
    params, state = (
        unflatten({path: _draw(rng, path, leaf) for path, leaf in flatten(tree).items()}) for tree in (params, state)
    )
    return Model(params, state, applies[0])


def _draw(rng: np.random.Generator, path: str, leaf: jax.ShapeDtypeStruct) -> jax.Array:
    if path.rpartition("/")[2] in {"scale", "var"}:
        values = rng.uniform(0.5, 1.5, leaf.shape)
    else:
        values = rng.normal(size=leaf.shape) / math.sqrt(math.prod(leaf.shape[:-1]))
    return jnp.asarray(values.astype(leaf.dtype))


def vectors(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(1).normal(size=shape), jnp.float32)


def tokens(*shape: int, letters: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(2).integers(0, letters, shape), jnp.int32)
