"""Gradients and scores, against closed forms and the loop's own evaluation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quantree as qt
from quantree.encodings import Compressed
from quantree.errors import DataError, QuantreeError
from quantree.model import Model, Tree
from quantree.quantizers.sensitivity import score, squared_gradients
from quantree.recovery import evaluate
from quantree.task import Classification, Data, Task
from tests.nets import digits, mlp

RNG = np.random.default_rng(0)


def squared(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    return jnp.sum(jnp.square(outputs - targets), axis=-1)


def regression(inputs: np.ndarray, targets: np.ndarray) -> Data:
    task = Task(loss=squared, metric=lambda outputs, wanted: 0.0, metric_name="none", direction="min")
    return Data.from_arrays((inputs, targets), (inputs, targets), task)


def linear(params: Tree, state: Tree, inputs: jax.Array, *, train: bool = False, key: object = None) -> tuple:
    return inputs @ params["fc"]["kernel"] + params["fc"]["bias"][None], state


def test_of_a_linear_model_they_are_those_of_the_normal_equations() -> None:
    x, y = (RNG.normal(size=(256, d)).astype(np.float32) for d in (5, 3))
    w, b = RNG.normal(size=(5, 3)).astype(np.float32), np.ones(3, np.float32)
    model = qt.from_params({"fc": {"kernel": w, "bias": b}}, apply=linear)
    data = regression(x, y)
    found = squared_gradients(model, model.params, {}, ["fc/kernel"], data, batches=9, seed=4)
    wanted = [np.mean((2 / 128 * bx.T @ (bx @ w + b - by)) ** 2) for bx, by in data.train(4, 0, 128)]
    assert len(wanted) == 2 and list(found) == ["fc/kernel"]
    assert found["fc/kernel"] == pytest.approx(np.mean(wanted), rel=1e-4)


def test_the_score_is_that_of_the_training_loop() -> None:
    model, data = mlp(), digits()
    assert score(model, model.params, model.state, data) == evaluate(Compressed.from_model(model), model, data)


def test_what_can_not_be_measured_is_told() -> None:
    model, data = mlp(), digits()
    bare = Model(model.params, model.state)
    with pytest.raises(QuantreeError, match="no `apply`"):
        score(bare, model.params, {}, data)
    empty = Data(lambda seed, epoch, size: (), data.validation, Classification())
    with pytest.raises(DataError, match="training split is empty"):
        squared_gradients(model, model.params, {}, ["fc1/kernel"], empty, 1, 0)
    broken = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), model.params)
    with pytest.raises(DataError, match="fc2/kernel: the gradient of the loss on training data is not finite"):
        squared_gradients(model, broken, {}, ["fc2/kernel"], data, 1, 0)


def test_a_tolerance_is_not_measured_on_data_that_are_not_finite() -> None:
    inputs, labels = np.full((8, 64), np.nan, np.float32), np.zeros(8, np.int32)
    data = Data.from_arrays((inputs, labels), (inputs, labels), Classification())
    assert score(mlp(), mlp().params, {}, data).metric == 1.0  # of NaN, the first is the largest
    recipe = qt.Recipe.from_config([{"kind": "budget", "tolerance": 0.1, "learners": ["uniform"]}])
    with pytest.raises(DataError, match="the loss of the uncompressed network on validation data is nan"):
        recipe.run(mlp(), key=jax.random.key(0), data=data)
