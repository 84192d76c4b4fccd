"""Tiny networks and data that several tests train and compress."""

import functools

import jax
import numpy as np
from flax import nnx
from sklearn.datasets import load_digits

import quantree as qt
from quantree.model import Model
from quantree.task import Classification, Data


class Mlp(nnx.Module):
    """64-12-10, for digits."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.fc1 = nnx.Linear(64, 12, rngs=rngs)
        self.fc2 = nnx.Linear(12, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc2(nnx.relu(self.fc1(x)))


class Normed(nnx.Module):
    """64-8-10 with everything that a network carries besides weights: statistics, randomness, and a by-product."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.layers = nnx.List([nnx.Linear(64, 8, rngs=rngs), nnx.Linear(8, 10, rngs=rngs)])
        self.norm = nnx.BatchNorm(8, momentum=0.5, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        hidden = self.norm(self.layers[0](x))
        self.hidden = nnx.Intermediate(hidden)
        return self.layers[1](self.dropout(nnx.relu(hidden)))


def mlp(seed: int = 0) -> Model:
    return qt.from_nnx(Mlp(nnx.Rngs(seed)))


def normed(seed: int = 0) -> Model:
    return qt.from_nnx(Normed(nnx.Rngs(seed)))


@functools.cache
def digits() -> Data:
    """512 images to train on and 512 to validate, float32 [n, 64]."""
    images, targets = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(1024)
    inputs, labels = (images[order] / 16).astype(np.float32), targets[order].astype(np.int32)
    return Data.from_arrays((inputs[:512], labels[:512]), (inputs[512:], labels[512:]), Classification())
