"""The folded network computes the same, by Flax's own norms."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import quantree as qt
from quantree.encodings import Compressed
from quantree.errors import ConfigError, LeafError, QuantreeError
from quantree.model import Model, flatten, unflatten
from quantree.recipe import Recipe
from quantree.schema import parse_yaml
from quantree.storage.file import from_bytes, to_bytes
from quantree.task import Data
from tests.nets import digits, normed

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)
INPUTS = next(iter(digits().validation(64)))[0]
FOLD = {"kind": "fold_statistics"}


def run(model: Model, *stages: Any, data: Data | None = None) -> Compressed:
    return Recipe.from_config(list(stages) or [FOLD]).run(model, key=KEY, data=data)


def used(model: Model) -> Model:
    """The model as after a training: statistics, scales and biases of every size."""

    def change(path: str, leaf: jax.Array) -> jax.Array:
        last = path.rpartition("/")[2]
        if leaf.ndim != 1:
            return leaf
        value = RNG.lognormal(sigma=2.0, size=leaf.shape) if last in ("var", "scale") else RNG.normal(size=leaf.shape)
        return jnp.asarray(value).astype(leaf.dtype)

    params, state = (
        unflatten({path: change(path, leaf) for path, leaf in flatten(tree).items()})
        for tree in (model.params, model.state)
    )
    return dataclasses.replace(model, params=params, state=state)


def outputs(model: Model, compressed: Compressed) -> np.ndarray:
    assert model.apply is not None
    return np.asarray(model.apply(compressed.decode(), unflatten(compressed.state), INPUTS)[0], np.float64)


def assert_same_function(model: Model, folded: Compressed, tolerance: float = 1e-5) -> None:
    wanted = outputs(model, Compressed.from_model(model))
    np.testing.assert_allclose(outputs(model, folded), wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


class Linen(linen.Module):
    epsilon: float = 1e-5
    bias: bool = True

    @linen.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        for name in ("one", "two"):
            x = linen.BatchNorm(
                use_running_average=not train, epsilon=self.epsilon, use_bias=self.bias or name == "one", name=name
            )(linen.Dense(8)(x))
        return x


def from_linen(**settings: Any) -> Model:
    net = Linen(**settings)
    return used(qt.from_linen(net, net.init(KEY, INPUTS)))


@pytest.mark.parametrize("data", [None, digits()], ids=["without data", "with data"])
def test_nnx(data: Data | None) -> None:
    model = used(normed())
    folded = run(model, data=data)
    assert_same_function(model, folded)
    np.testing.assert_array_equal(folded.state["norm/mean"], np.zeros(8, np.float32))
    np.testing.assert_array_equal(folded.state["norm/var"], np.full(8, 1 - 1e-5, np.float32))
    assert_same_function(model, from_bytes(to_bytes(folded)))
    assert folded.dense_bytes == model.dense_bytes


@pytest.mark.parametrize("epsilon", [1e-5, 1e-3])
def test_linen_and_an_epsilon_of_its_own(epsilon: float) -> None:
    model = from_linen(epsilon=epsilon)
    folded = run(model, {**FOLD, "epsilon": epsilon}, data=digits())
    assert_same_function(model, folded)
    assert {float(folded.state[f"batch_stats/{name}/var"][3]) for name in ("one", "two")} == {
        float(np.float32(1 - epsilon))
    }


def test_a_checkpoint_of_keras_has_the_epsilon_of_keras() -> None:
    model = dataclasses.replace(from_linen(), layout="keras", apply=None)
    folded = run(model)
    np.testing.assert_array_equal(folded.state["batch_stats/one/var"], np.full(8, 1 - 1e-3, np.float32))


def test_only_the_norms_that_match() -> None:
    model = from_linen()
    folded = run(model, {**FOLD, "match": "t*"}, data=digits())
    assert_same_function(model, folded)
    np.testing.assert_array_equal(folded.state["batch_stats/one/var"], model.state["batch_stats"]["one"]["var"])
    assert not folded.state["batch_stats/two/mean"].any()
    with pytest.raises(ConfigError, match="pattern 'three' matches no norm; known: one, two"):
        run(model, {**FOLD, "match": "three"})


def test_a_network_that_is_one_norm() -> None:
    model = used(qt.from_nnx(nnx.BatchNorm(64, rngs=nnx.Rngs(0))))
    assert_same_function(model, run(model, data=digits()))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("epsilon", [1e-5, 1e-2])
def test_16_bits(dtype: Any, epsilon: float) -> None:
    """Each leaf keeps its dtype, and is off by no more than its rounding; that of 1 - epsilon is less."""
    scale, bias, mean = (jnp.asarray(RNG.normal(size=64)).astype(dtype) for _ in range(3))
    var = jnp.asarray(RNG.uniform(0.1, 3, size=64)).astype(dtype)
    model = qt.from_params({"n": {"scale": scale, "bias": bias}}, {"n": {"mean": mean, "var": var}})
    folded = run(model, {**FOLD, "epsilon": epsilon})
    values = [*folded.decode()["n"].values(), *folded.state.values()]
    assert {value.dtype for value in values} == {jnp.dtype(dtype)}
    wide = [np.asarray(each, np.float64) for each in (scale, bias, mean, var)]
    wanted = wide[0] / np.sqrt(wide[3] + epsilon)
    new = np.asarray(folded.decode()["n"]["scale"], np.float64)
    found = new / np.sqrt(np.asarray(folded.state["n/var"], np.float64) + epsilon)
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(found, wanted, rtol=eps)
    np.testing.assert_allclose(
        np.asarray(folded.decode()["n"]["bias"], np.float64), wide[1] - wide[2] * wanted, rtol=eps, atol=1e-6
    )


def test_scales_that_were_cast_stay_16_bits_and_decode_to_float32() -> None:
    model = normed()
    folded = run(model, {"kind": "cast", "match": "norm/*"}, FOLD, data=digits())
    stored = folded.leaves["norm/scale"].streams()["value"].data
    assert stored.dtype == np.float16 and folded.decode()["norm"]["scale"].dtype == np.float32
    assert_same_function(model, folded, 1e-2)


def test_a_wrong_epsilon_is_told_if_it_can_be_checked() -> None:
    model = from_linen(epsilon=1e-3)
    with pytest.raises(QuantreeError, match=r"an output changes by .* more than 0.0001. Is epsilon 1e-05 .* Keras"):
        run(model, data=digits())
    run(model, {**FOLD, "tolerance": 1e6}, data=digits())
    run(model)
    run(Model(model.params, model.state), data=digits())


def test_norms_that_can_not_be_folded_are_named() -> None:
    with pytest.raises(LeafError, match=r"two/bias: this norm has no bias to take .* leave two out of `match`"):
        run(from_linen(bias=False))
    for stage in (
        {"kind": "kmeans", "k": 2, "match": "norm/scale"},
        {"kind": "prune", "density": 0.5, "match": "norm/scale"},
    ):
        with pytest.raises(LeafError, match=r"norm/scale: it is (coded|pruned) already; put `fold_statistics` before"):
            run(normed(), stage, FOLD)
    with pytest.raises(ConfigError, match="no norm with running statistics"):
        run(qt.from_params({"a": np.ones((2, 2), np.float32)}))
    for value in (np.nan, -1.0):
        model = normed()
        state = {"norm": {**model.state["norm"], "var": jnp.full(8, value)}}
        with pytest.raises(LeafError, match="norm/var: a variance is NaN or negative"):
            run(Model(model.params, state))
    half = {"n": {"scale": np.full(4, 1e4, np.float16), "bias": np.zeros(4, np.float16)}}
    with pytest.raises(LeafError, match="n/scale: folded, a value is NaN, infinite, or too large for float16"):
        run(qt.from_params(half, {"n": {"mean": np.zeros(4, np.float16), "var": np.zeros(4, np.float16)}}))
    with pytest.raises(LeafError, match=r"n/bias: has shape \(3,\), the norm's mean has \(4,\)"):
        params = {"n": {"scale": np.ones(4, np.float32), "bias": np.zeros(3, np.float32)}}
        run(qt.from_params(params, {"n": {"mean": np.zeros(4, np.float32), "var": np.ones(4, np.float32)}}))


LATER = "stages:\n  - fold_statistics\n  - kind: cast\n  - kind: {}\n    {}: 1\n"


@pytest.mark.parametrize(("kind", "setting"), [("finetune", "epochs"), ("batchnorm", "batches")])
def test_no_stage_of_train_mode_may_follow(kind: str, setting: str) -> None:
    document = parse_yaml(LATER.format(kind, setting), "r.yaml").at(("stages",))
    recipe = Recipe.from_config(document, ("stages",))
    with pytest.raises(ConfigError) as told:
        recipe.check(normed(), document, ("stages",))
    assert str(told.value) == (
        "r.yaml:4: stages[2]: it runs the network in train mode, "
        "which 'fold_statistics' before it rules out; put it first"
    )
    with pytest.raises(ConfigError, match=rf"stage 2 \({kind}\): it runs the network in train mode"):
        run(normed(), FOLD, "cast", {"kind": kind, setting: 1}, data=digits())
    run(normed(), {"kind": kind, setting: 1}, FOLD, data=digits())
