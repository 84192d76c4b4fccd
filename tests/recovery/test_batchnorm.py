"""The statistics that the stage takes, against plain averages by NumPy."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import quantree as qt
from quantree.encodings import Compressed
from quantree.errors import ConfigError, DataError, LeafError
from quantree.model import Apply, Model, flatten, unflatten
from quantree.recipe import Recipe
from quantree.recovery import Training, evaluate, fit
from quantree.task import Data
from tests.compilations import compilations
from tests.nets import digits, mlp, normed

KEY = jax.random.key(0)
STAGE = {"kind": "batchnorm", "batches": 3, "batch_size": 50}


def run(model: Model, *stages: Any, data: Data | None = None, key: jax.Array = KEY) -> Compressed:
    return Recipe.from_config(list(stages) or [STAGE]).run(model, key=key, data=data or digits())


class Recorded:
    """Data that remember the inputs of the training batches that were taken."""

    def __init__(self, data: Data) -> None:
        self.inputs: list[np.ndarray] = []
        self.data = dataclasses.replace(data, train=self._train)
        self._source = data.train

    def _train(self, seed: int, epoch: int, batch_size: int) -> Any:
        for inputs, targets in self._source(seed, epoch, batch_size):
            self.inputs.append(np.asarray(inputs, np.float64))
            yield inputs, targets


class Chain(nnx.Module):
    """Two norms, the second behind the first and behind dropout of nothing; of unlike momenta."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.fc = nnx.Linear(64, 6, rngs=rngs)
        self.one = nnx.BatchNorm(6, momentum=0.9, rngs=rngs)
        self.two = nnx.BatchNorm(6, momentum=0.99, epsilon=1e-3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.two(nnx.relu(self.one(self.fc(x))))


def wanted(model: Model, batches: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Averages over batches of the mean and variance in front of each norm of `Chain`, in float64."""
    params = {path: np.asarray(leaf, np.float64) for path, leaf in flatten(model.params).items()}
    found: list[dict[str, np.ndarray]] = []
    for inputs in batches:
        x = inputs @ params["fc/kernel"] + params["fc/bias"]
        first = {"one/mean": x.mean(0), "one/var": x.var(0)}
        x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) * params["one/scale"] + params["one/bias"]
        x = np.maximum(x, 0)
        found.append({**first, "two/mean": x.mean(0), "two/var": x.var(0)})
    return {path: np.mean([each[path] for each in found], axis=0) for path in found[0]}


def test_plain_averages_over_batches_whatever_the_momentum_and_the_old_statistics() -> None:
    model = qt.from_nnx(Chain(nnx.Rngs(0)))
    old = {name: {"mean": leaf["mean"] + 3.0, "var": leaf["var"] * 7.0} for name, leaf in model.state.items()}
    data = Recorded(digits())
    compressed = run(dataclasses.replace(model, state=old), data=data.data)
    for path, expected in wanted(model, data.inputs[:3]).items():
        np.testing.assert_allclose(compressed.state[path], expected, rtol=3e-5, atol=1e-6, err_msg=path)
    for path, leaf in flatten(model.params).items():
        np.testing.assert_array_equal(compressed.leaves[path].decode({}), leaf)


def doubled(key: jax.Array, inputs: jax.Array) -> jax.Array:
    return inputs * 2 + jax.random.uniform(key)


@pytest.mark.parametrize("augment", [False, True])
def test_examples_are_augmented_if_the_stage_says_so(augment: bool) -> None:
    model, data = qt.from_nnx(Chain(nnx.Rngs(0))), Recorded(digits())
    compressed = run(model, STAGE | {"augment": augment}, data=dataclasses.replace(data.data, augment=doubled))
    plain = wanted(model, data.inputs[:3])
    found = np.asarray(compressed.state["one/var"])
    np.testing.assert_allclose(found, plain["one/var"] * (4 if augment else 1), rtol=1e-4)
    shift = np.asarray(compressed.state["one/mean"]) - plain["one/mean"] * (2 if augment else 1)
    assert (np.abs(shift).max() > 0.01) == augment


@pytest.mark.parametrize("batches", [10, 11, 1000])
def test_one_pass_over_the_data_at_most(batches: int) -> None:
    model, data = qt.from_nnx(Chain(nnx.Rngs(0))), Recorded(digits())
    compressed = run(model, {**STAGE, "batches": batches}, data=data.data)
    assert len(data.inputs) == 10  # 512 // 50
    for path, expected in wanted(model, data.inputs).items():
        np.testing.assert_allclose(compressed.state[path], expected, rtol=3e-5, atol=1e-6, err_msg=path)


def test_the_key_decides_and_nothing_else_with_dropout_before_a_norm() -> None:
    class Dropped(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.norm = nnx.BatchNorm(64, rngs=rngs)
            self.dropout = nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.norm(self.dropout(x))

    model = qt.from_nnx(Dropped(nnx.Rngs(0)))
    one, two, other = (run(model, key=jax.random.key(seed)).state for seed in (0, 0, 1))
    for path in one:
        np.testing.assert_array_equal(one[path], two[path])
        assert not np.array_equal(one[path], other[path])
    # Dropout doubles what it keeps: more spread than there is without it.
    spread = np.mean(np.asarray(next(iter(digits().validation(512)))[0]).var(0))
    assert np.mean(np.asarray(one["norm/var"])) > 1.5 * spread
    # Each batch has noise of its own: equal batches do not give the same statistics each time.
    ones = (np.ones((200, 64), np.float32), np.zeros(200, np.int32))
    equal = Data.from_arrays(ones, ones, digits().task)
    once, often = (run(model, {**STAGE, "batches": count}, data=equal).state["norm/mean"] for count in (1, 4))
    assert not np.allclose(once, often)


def test_linen() -> None:
    class Net(linen.Module):
        @linen.compact
        def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
            return linen.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x)

    inputs = next(iter(digits().validation(8)))[0]
    data = Recorded(digits())
    compressed = run(qt.from_linen(Net(), Net().init(KEY, inputs)), data=data.data)
    for name, function in (("mean", np.mean), ("var", np.var)):
        expected = np.mean([function(each, axis=0) for each in data.inputs[:3]], axis=0)
        np.testing.assert_allclose(compressed.state[f"batch_stats/norm/{name}"], expected, rtol=3e-5, atol=1e-6)


Change = Callable[[Any, Any, Any], tuple[Any, Any]]


def function(change: Change) -> Apply:
    """A network whose outputs and new state are `change(params, state, inputs)` in train mode."""

    def apply(params: Any, state: Any, inputs: Any, *, train: bool = False, key: Any = None) -> tuple[Any, Any]:
        return change(params, state, jnp.asarray(inputs)) if train else (inputs, state)

    return apply


def mean_of(x: jax.Array, old: jax.Array, momentum: float) -> jax.Array:
    return momentum * old + (1 - momentum) * jnp.mean(x, axis=0).astype(old.dtype)


def test_other_state_stays_as_it_is() -> None:
    state = {
        "mean": np.full(64, 5.0, np.float32),
        "half": np.full(64, 5.0, jnp.bfloat16),
        "steps": np.asarray(7.0, np.float32),
        "calls": np.asarray(7, np.int32),
        "fixed": np.full(64, 0.5, np.float32),
    }

    def change(params: Any, old: Any, x: jax.Array) -> tuple[Any, Any]:
        x = x * old["fixed"][None]
        return x, {
            **old,
            "mean": mean_of(x, old["mean"], 0.5),
            "half": mean_of(x, old["half"], 0.0),
            "steps": old["steps"] + 1,
            "calls": old["calls"] + 1,
        }

    data = Recorded(digits())
    found = run(qt.from_params({"w": np.ones(2, np.float32)}, state, function(change)), data=data.data).state
    expected = np.mean([each.mean(0) for each in data.inputs[:3]], axis=0) / 2
    np.testing.assert_allclose(found["mean"], expected, rtol=1e-5, atol=1e-7)
    assert found["half"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(found["half"], found["mean"].astype(jnp.bfloat16))
    for path in ("steps", "calls", "fixed"):
        np.testing.assert_array_equal(found[path], state[path])


def test_what_it_refuses() -> None:
    one = {"w": np.ones(2, np.float32)}
    state = {"mean": np.zeros(64, np.float32)}
    with pytest.raises(ConfigError, match=r"stage 0 \(batchnorm\): the model has no running statistics"):
        run(mlp())
    with pytest.raises(ConfigError, match="no running statistics"):
        run(qt.from_params(one, state, function(lambda params, old, x: (x, old))))

    def uses(params: Any, old: Any, x: jax.Array) -> tuple[Any, Any]:
        return x + old["mean"][None], {"mean": mean_of(x, old["mean"], 0.9)}

    with pytest.raises(LeafError, match="mean: the outputs in train mode depend on this state"):
        run(qt.from_params(one, state, function(uses)))

    def explodes(params: Any, old: Any, x: jax.Array) -> tuple[Any, Any]:
        return x, {"mean": mean_of(x * jnp.float32(np.inf), old["mean"], 0.9)}

    with pytest.raises(LeafError, match=r"stage 0 \(batchnorm\): mean: .* is NaN or infinite"):
        run(qt.from_params(one, state, function(explodes)))
    with pytest.raises(DataError, match="no batch of 50 training examples"):
        run(normed(), data=dataclasses.replace(digits(), train=lambda *place: iter(())))


def test_a_batch_that_explodes_later_is_told_too() -> None:
    def late(seed: int, epoch: int, size: int) -> Any:
        first, second = itertools.islice(digits().train(seed, epoch, size), 2)
        return [first, (second[0] * np.float32(np.nan), second[1])]

    with pytest.raises(LeafError, match=r"norm/mean: .* is NaN or infinite"):
        run(normed(), data=dataclasses.replace(digits(), train=late))


def test_compiled_once_per_network() -> None:
    run(normed())
    with compilations() as compiled:
        run(normed(1), key=jax.random.key(1))
    assert [name for name in compiled if "train" in name] == []


class Deep(nnx.Module):
    """64-32-32-10."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.fc1, self.fc2 = nnx.Linear(64, 32, rngs=rngs), nnx.Linear(32, 32, rngs=rngs)
        self.bn1, self.bn2 = (nnx.BatchNorm(32, momentum=0.9, rngs=rngs) for _ in range(2))
        self.out = nnx.Linear(32, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.out(nnx.relu(self.bn2(self.fc2(nnx.relu(self.bn1(self.fc1(x)))))))


def test_a_coarse_code_is_repaired() -> None:
    model = qt.from_nnx(Deep(nnx.Rngs(0)))
    training = Training(epochs=10, batch_size=64, learning_rate=0.02)
    fitted = fit(Compressed.from_model(model), model=model, data=digits(), training=training, seed=0)
    model = Model(fitted.compressed.decode(), unflatten(fitted.compressed.state), model.apply)
    coarse = {"kind": "uniform", "k": 3}
    damaged, repaired = (
        evaluate(run(model, *stages), model, digits())
        for stages in ([coarse], [coarse, {"kind": "batchnorm", "batches": 8, "batch_size": 64}])
    )
    assert repaired.loss < 0.6 * damaged.loss and repaired.metric > damaged.metric, (fitted.score, damaged, repaired)
