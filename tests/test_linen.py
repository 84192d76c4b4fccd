"""Linen modules in and out; Flax's own `apply` is the oracle."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.core import freeze

import quantree as qt
from quantree.errors import LeafError, QuantreeError
from quantree.linen import init
from quantree.model import flatten

INPUTS = jnp.asarray(np.random.default_rng(0).normal(size=(6, 8)), jnp.float32)
KEY = jax.random.key(0)


class Net(nn.Module):
    """Statistics, dropout, two kinds of by-products, and a layer that is used twice."""

    features: int = 8

    def setup(self) -> None:
        self.shared = nn.Dense(self.features)
        self.norm = nn.BatchNorm(momentum=0.5)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Dense(3)

    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = self.norm(self.shared(x), use_running_average=not train)
        self.sow("losses", "size", x.sum())
        x = self.perturb("hidden", nn.relu(self.shared(x)))
        return self.head(self.dropout(x, deterministic=not train))


class Half(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        embed = nn.Embed(5, 8, param_dtype=jnp.bfloat16, dtype=jnp.float32)
        return embed.attend(x @ embed.embedding.T.astype(jnp.float32) @ embed.embedding.astype(jnp.float32))


@pytest.fixture(scope="module")
def variables() -> Any:
    return Net().init(KEY, INPUTS)


def test_params_are_params_and_other_collections_are_state_but_for_by_products(variables: Any) -> None:
    assert {"losses", "perturbations"} < set(variables)
    model = qt.from_linen(Net(), freeze(variables))
    assert sorted(flatten(model.params)) == sorted(flatten(variables["params"]))
    assert [path for path in flatten(model.params) if "shared" in path] == ["shared/bias", "shared/kernel"]
    assert list(flatten(model.state)) == ["batch_stats/norm/mean", "batch_stats/norm/var"]
    assert model.apply is not None
    np.testing.assert_array_equal(
        model.apply(model.params, model.state, INPUTS)[0], Net().apply(variables, INPUTS, train=False)
    )


def test_training_draws_from_the_key_and_moves_the_statistics(variables: Any) -> None:
    model = qt.from_linen(Net(), variables)
    assert model.apply is not None
    one, state = model.apply(model.params, model.state, INPUTS, train=True, key=KEY)
    same, _ = model.apply(model.params, model.state, INPUTS, train=True, key=KEY)
    other, _ = model.apply(model.params, model.state, INPUTS, train=True, key=jax.random.key(1))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    assert jax.tree.structure(state) == jax.tree.structure(model.state)
    shared = variables["params"]["shared"]
    hidden = np.asarray(INPUTS) @ np.asarray(shared["kernel"]) + np.asarray(shared["bias"])
    np.testing.assert_allclose(state["batch_stats"]["norm"]["mean"], 0.5 * hidden.mean(axis=0), atol=1e-5)


def test_equal_modules_are_compiled_once(variables: Any) -> None:
    traces = []

    def traced(apply: Any, params: Any, state: Any) -> Any:
        traces.append(1)
        return apply(params, state, INPUTS)[0]

    jitted = jax.jit(traced, static_argnums=0)
    for module in (Net(), Net(features=8), Net().bind(variables)):
        model = qt.from_linen(module, variables)
        jitted(model.apply, model.params, model.state)
    assert len(traces) == 1
    assert qt.from_linen(Net(9), variables).apply != qt.from_linen(Net(), variables).apply


@pytest.mark.filterwarnings("ignore:.*is larger than the dense model")
@pytest.mark.parametrize("module", [Net(), Half()])
def test_what_nothing_changed_comes_back_to_the_bit(module: nn.Module, tmp_path: Path) -> None:
    given = module.init(KEY, INPUTS)
    model = qt.from_linen(module, given)
    qt.save(tmp_path / "n.qtree", qt.Compressed.from_model(model))
    back = qt.load(tmp_path / "n.qtree").to_linen()
    assert set(back) == {"params", *model.state}
    for path, leaf in flatten(back).items():
        assert leaf.dtype == flatten(given)[path].dtype
        np.testing.assert_array_equal(leaf, flatten(given)[path])
    np.testing.assert_array_equal(module.apply(back, INPUTS), module.apply(given, INPUTS))


@pytest.mark.filterwarnings("ignore:.*is larger than the dense model")
def test_tied_embeddings_in_16_bits_are_one_leaf_and_can_be_quantized(tmp_path: Path) -> None:
    given = Half().init(KEY, INPUTS)
    model = qt.from_linen(Half(), given)
    assert model.dense_bytes == 2 * 5 * 8 and list(flatten(model.params)) == ["Embed_0/embedding"]
    compressed = qt.Recipe.from_config([{"kind": "kmeans", "k": 4}]).run(model, key=KEY)
    qt.save(tmp_path / "n.qtree", compressed)
    table = qt.load(tmp_path / "n.qtree").to_linen()["params"]["Embed_0"]["embedding"]
    assert table.dtype == jnp.bfloat16 and len(np.unique(np.asarray(table, np.float32))) == 4


def _net(argument: str, default: str = "") -> type[nn.Module]:
    """A class whose `__call__` has one more argument, and drops out if that says so."""
    name = argument.removeprefix("*, ")
    trains = name in ("train", "training", "is_training")
    space: dict[str, Any] = {"nn": nn}
    exec(
        f"""
class Flagged(nn.Module):
    @nn.compact
    def __call__(self, x, {argument}{default}):
        return nn.Dropout(0.5, deterministic={name} != {trains})(nn.Dense(3)(x))
""",
        space,
    )
    return space["Flagged"]


@pytest.mark.parametrize("default", ["", "=True", "=False"])
@pytest.mark.parametrize("argument", ["train", "training", "*, is_training", "deterministic", "*, inference", "eval"])
def test_each_convention_for_the_flag_is_known(argument: str, default: str) -> None:
    module = _net(argument, default)()
    model = qt.from_linen(module, init(module, KEY, INPUTS))
    assert model.apply is not None
    layer = model.params["Dense_0"]
    plain = np.asarray(INPUTS @ layer["kernel"] + layer["bias"][None])
    np.testing.assert_allclose(model.apply(model.params, {}, INPUTS)[0], plain, atol=1e-5)
    trained = np.asarray(model.apply(model.params, {}, INPUTS, train=True, key=KEY)[0])
    assert 0 < np.sum(trained == 0) < trained.size


class Field(nn.Module):
    use_running_average: bool | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.BatchNorm(use_running_average=self.use_running_average)(x)


class NoFlag(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        # Told by what may be changed: there is no flag at all.
        return nn.BatchNorm(use_running_average=not self.is_mutable_collection("batch_stats"))(x)


@pytest.mark.parametrize("module", [Field(), NoFlag()])
def test_a_field_or_what_may_be_changed_can_tell_it_too(module: nn.Module) -> None:
    model = qt.from_linen(module, init(module, KEY, INPUTS))
    assert model.apply is not None
    _, state = model.apply(model.params, model.state, INPUTS)
    assert state is model.state
    _, state = model.apply(model.params, model.state, INPUTS, train=True)
    assert not np.array_equal(state["batch_stats"]["BatchNorm_0"]["mean"], np.zeros(8))


class Silent(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array, learning: bool = False) -> jax.Array:
        return nn.BatchNorm(use_running_average=not learning)(x)


class Restless(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dropout(0.5, deterministic=False)(x)


class Unhashable(nn.Module):
    sizes: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return x


class NoCall(nn.Module):
    pass


class Late(nn.Module):
    @nn.compact
    def __call__(self, train: bool, x: jax.Array) -> jax.Array:
        return x


def test_what_can_not_be_known_is_an_error_that_says_so(variables: Any) -> None:
    for module, given, told in (
        (Net(), variables["params"], "hold no collection 'params'"),
        (_net("mode")(), {"params": {}}, r"Flagged\.__call__ wants 'mode'"),
        (Late(), {"params": {}}, "must take the inputs as its first argument"),
        (NoCall(), {"params": {}}, "NoCall has no __call__"),
        (Unhashable(np.zeros(2)), {"params": {}}, "Unhashable can't be compared"),
        (Silent(), Silent().init(KEY, INPUTS), "'learning' is none of train"),
    ):
        with pytest.raises(QuantreeError, match=told):
            qt.from_linen(module, {"params": {}, **given} if told.endswith("train") else given)
    model = qt.from_linen(Restless(), {"params": {}})
    assert model.apply is not None
    with pytest.raises(QuantreeError, match="draws random numbers or changes its state although it is not"):
        model.apply({}, {}, INPUTS)
    with pytest.raises(LeafError, match="stats/key: expected numbers"):
        qt.from_linen(Unhashable(), {"params": {}, "stats": {"key": KEY}})


def test_boxes_that_note_a_sharding_are_opened() -> None:
    module = nn.Dense(3, kernel_init=nn.with_partitioning(nn.initializers.lecun_normal(), (None, "model")))
    given = module.init(KEY, INPUTS)
    model = qt.from_linen(module, given)
    assert list(flatten(model.params)) == ["bias", "kernel"] and model.apply is not None
    np.testing.assert_array_equal(model.apply(model.params, {}, INPUTS)[0], module.apply(given, INPUTS))
