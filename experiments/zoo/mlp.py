"""A multilayer perceptron of any size."""

import math
from typing import Annotated

from flax import nnx
from jax import Array
from pydantic import Field

from experiments.zoo.network import Network
from quantree.registry import register


@register("mlp")
class MLP(Network):
    """Fully connected layers with ReLU between them: leaves `fc1/kernel` [inputs, outputs], `fc1/bias`, ...

    The default has 6,570 weights on 8 x 8 digits.
    """

    hidden: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(64, 32), description="units of each hidden layer")

    def build(self, rngs: nnx.Rngs, shape: tuple[int, ...], classes: int) -> nnx.Module:
        """See `Network.build`; inputs of any shape are flattened."""
        return _Dense((math.prod(shape), *self.hidden, classes), rngs)


class _Dense(nnx.Module):
    def __init__(self, sizes: tuple[int, ...], rngs: nnx.Rngs) -> None:
        self.layers = len(sizes) - 1
        for i in range(self.layers):
            setattr(self, f"fc{i + 1}", nnx.Linear(sizes[i], sizes[i + 1], rngs=rngs))

    def __call__(self, x: Array) -> Array:
        x = x.reshape(x.shape[0], -1)
        for i in range(1, self.layers):
            x = nnx.relu(getattr(self, f"fc{i}")(x))
        return getattr(self, f"fc{self.layers}")(x)
