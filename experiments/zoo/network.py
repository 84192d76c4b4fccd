"""The family of plug-ins that this folder holds one file each of: networks with fresh weights."""

from abc import abstractmethod
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen, nnx

from quantree.errors import ConfigError, QuantreeError
from quantree.graph import Graph, couple
from quantree.linen import from_linen, init
from quantree.model import Apply, Model, from_nnx
from quantree.registry import Plugin


class Network(Plugin, family="network"):
    """An architecture. Its fields are its settings; data decide the ends."""

    @abstractmethod
    def build(self, rngs: nnx.Rngs, shape: tuple[int, ...], classes: int) -> nnx.Module | linen.Module:
        """A module: inputs float32 [n, *shape] -> logits float32 [n, classes].

        One of nnx has fresh weights; one of Linen gets them from its `init`. `ConfigError` if the network can't take
        inputs of this shape.
        """

    @property
    def modules(self) -> frozenset[str]:
        """Names of the Python modules whose source defines the network; plug-in files among them name its trials."""
        return frozenset({type(self).__module__})

    def model(self, seed: int, shape: tuple[int, ...], classes: int) -> Model:
        """The network as the library knows it, with weights that `seed` fixes."""
        module = self.build(nnx.Rngs(seed), shape, classes)
        if isinstance(module, nnx.Module):
            return from_nnx(module)
        return from_linen(module, init(module, jax.random.key(seed), jnp.zeros((1, *shape), jnp.float32)))

    def abstract(self, shape: tuple[int, ...], classes: int) -> Model:
        """The same with shapes and dtypes in place of arrays, and no apply: costs no memory and no device."""
        return Model(*self._traced(shape, classes)[:2])

    def graph(self, shape: tuple[int, ...], dtype: Any, classes: int) -> Graph:
        """Which of its channels belong together, for inputs [n, *shape] of a dtype."""
        params, state, apply = self._traced(shape, classes)
        inputs = jax.ShapeDtypeStruct((2, *shape), dtype)
        try:
            return couple(apply, params, state, inputs)  # without arrays: most of the time goes into fresh weights
        except QuantreeError:
            # A class of the user's may keep arrays beside its parameters, of which only a real network has the values.
            model = self.model(0, shape, classes)
            assert model.apply is not None
            return couple(model.apply, model.params, model.state, inputs)

    def _traced(self, shape: tuple[int, ...], classes: int) -> tuple[dict, dict, Apply]:
        applies = list[Any]()

        def trees() -> tuple[dict, dict]:
            model = self.model(0, shape, classes)
            applies.append(model.apply)
            return model.params, model.state

        return *jax.eval_shape(trees), applies[0]

    def need(self, fits: bool, shape: tuple[int, ...], wanted: str) -> None:
        """`ConfigError` that says which inputs the network takes, unless `fits`."""
        if not fits:
            raise ConfigError(f"network {self.name!r} takes inputs of shape {wanted}, not {list(shape)}")
