import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

import quantree as qt
from quantree.errors import LeafError, QuantreeError
from quantree.model import DEEPEST, Model, flatten, from_nnx, from_params, to_nnx, unflatten
from tests.nets import Mlp, Normed

INPUTS = np.random.default_rng(0).normal(size=(6, 64)).astype(np.float32)

names = st.from_regex(r"[a-z]{1,3}", fullmatch=True)
trees = st.recursive(
    st.dictionaries(names, st.integers(), min_size=1, max_size=3),
    lambda inner: st.dictionaries(names, inner | st.integers(), min_size=1, max_size=3),
    max_leaves=10,
)


@given(trees)
def test_flatten_and_back(tree: dict[str, Any]) -> None:
    flat = flatten(tree)
    assert unflatten(flat) == tree
    assert list(flat) == sorted(flat)


@pytest.mark.parametrize("paths", [("a/b", "a/b/c/d"), ("a/b/c/d", "a/b")])
def test_a_path_inside_another_is_refused_in_either_order(paths: tuple[str, str]) -> None:
    with pytest.raises(LeafError, match="a/b and a/b/c/d: one lies inside the other"):
        from_params(unflatten(dict.fromkeys(paths, np.ones(4, np.float32))))


@pytest.mark.parametrize("key", ["", "a/b", 3, None])
def test_keys_that_can_not_be_part_of_a_path(key: Any) -> None:
    with pytest.raises(LeafError, match="printable string without '/'"):
        flatten({"a": {key: 1}})


# --- Bare parameters ------------------------------------------------------------------------------------------------


def test_dense_bytes_count_each_leaf_in_its_own_dtype() -> None:
    params = {"a": np.zeros((3, 5), np.float32), "b": {"c": jnp.zeros(7, jnp.bfloat16), "d": np.zeros((), np.int8)}}
    model = from_params(params, {"seen": np.zeros(2, np.int32), "on": np.zeros(3, bool)})
    assert model.dense_bytes == 3 * 5 * 4 + 7 * 2 + 1 + 2 * 4 + 3
    assert Model(jax.eval_shape(lambda: model.params), model.state).dense_bytes == model.dense_bytes
    assert from_params({}).dense_bytes == 0


@pytest.mark.parametrize(
    ("leaf", "told"),
    [
        (3.0, "a/b: expected an array, not float"),
        ([1.0], "a/b: expected an array, not list"),
        (None, "a/b: expected an array, not NoneType"),
        (np.array(["x"]), "a/b: expected numbers or booleans, not <U1"),
        (np.array([None]), "a/b: expected numbers or booleans, not object"),
        (jax.random.key(0), "a/b: expected numbers or booleans, not key<fry>"),
        (np.zeros(2), "a/b: JAX holds float64 only if jax_enable_x64 is set"),
        (
            np.zeros(2, np.int64),
            "a/b: JAX holds int64 only if jax_enable_x64 is set: set the environment",
        ),
    ],
)
def test_leaves_that_are_no_arrays_or_would_be_rounded_are_named(leaf: Any, told: str) -> None:
    with pytest.raises(LeafError) as caught:
        from_params({"a": {"b": leaf}})
    assert told in str(caught.value)


def test_64_bits_are_kept_where_jax_has_them() -> None:
    with jax.enable_x64(True):
        assert from_params({"a": np.full(2, 0.1)}).params["a"].dtype == jnp.float64


# --- flax.nnx -------------------------------------------------------------------------------------------------------


class Tied(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.encode = nnx.Linear(4, 4, rngs=rngs)
        self.decode = nnx.Linear(4, 4, rngs=rngs)
        self.decode.kernel = self.encode.kernel

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.decode(self.encode(x))


def test_an_mlp_has_its_leaves_and_gives_its_outputs() -> None:
    module = Mlp(nnx.Rngs(0))
    model = from_nnx(module)
    assert list(flatten(model.params)) == ["fc1/bias", "fc1/kernel", "fc2/bias", "fc2/kernel"]
    assert model.state == {} and model.dense_bytes == 4 * (64 * 12 + 12 + 12 * 10 + 10)
    assert model.apply is not None
    outputs, state = model.apply(model.params, model.state, INPUTS)
    np.testing.assert_array_equal(outputs, module(jnp.asarray(INPUTS)))
    assert state == {}


def test_equal_networks_have_equal_applies_and_others_do_not() -> None:
    one, two = from_nnx(Normed(nnx.Rngs(0))).apply, from_nnx(Normed(nnx.Rngs(1))).apply
    assert one == two and hash(one) == hash(two)
    assert one != from_nnx(Mlp(nnx.Rngs(0))).apply
    traces = []

    def traced(apply: Any, params: Any, state: Any) -> Any:
        traces.append(1)
        return apply(params, state, INPUTS)[0]

    jitted = jax.jit(traced, static_argnums=0)
    for seed in range(3):
        model = from_nnx(Normed(nnx.Rngs(seed)))
        jitted(model.apply, model.params, model.state)
    assert len(traces) == 1


def test_state_lists_and_randomness() -> None:
    module = Normed(nnx.Rngs(0))
    model = from_nnx(module)
    assert "layers/0/kernel" in flatten(model.params)
    assert list(flatten(model.state)) == ["norm/mean", "norm/var"]
    assert model.apply is not None
    apply = jax.jit(model.apply, static_argnames="train")

    outputs, state = apply(model.params, model.state, INPUTS)
    assert jax.tree.all(jax.tree.map(np.array_equal, state, model.state)), "evaluation changes no state"
    module.eval()
    np.testing.assert_allclose(outputs, module(jnp.asarray(INPUTS)), rtol=1e-5, atol=1e-6)

    key = jax.random.key(3)
    trained, state = apply(model.params, model.state, INPUTS, train=True, key=key)
    kernel, bias = (np.asarray(model.params["layers"]["0"][name]) for name in ("kernel", "bias"))
    hidden = INPUTS @ kernel + bias
    # Flax: running = momentum x running + (1 - momentum) x batch, with the biased variance.
    np.testing.assert_allclose(state["norm"]["mean"], 0.5 * np.mean(hidden, axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state["norm"]["var"], 0.5 + 0.5 * np.var(hidden, axis=0), rtol=1e-4)
    assert jax.tree.structure(state) == jax.tree.structure(model.state), "by-products are not state"
    again, _ = apply(model.params, model.state, INPUTS, train=True, key=key)
    other, _ = apply(model.params, model.state, INPUTS, train=True, key=jax.random.key(4))
    np.testing.assert_array_equal(trained, again)
    assert not np.array_equal(trained, other)


def test_the_module_is_left_as_it_is() -> None:
    module = Normed(nnx.Rngs(0))
    before = jax.tree.map(np.array, nnx.state(module, (nnx.Param, nnx.BatchStat)))
    model = from_nnx(module)
    assert model.apply is not None
    model.apply(model.params, model.state, INPUTS, train=True, key=jax.random.key(0))
    after = nnx.state(module, (nnx.Param, nnx.BatchStat))
    assert jax.tree.all(jax.tree.map(np.array_equal, before, after))
    assert not module.dropout.deterministic


def test_tied_weights_are_one_leaf() -> None:
    module = Tied(nnx.Rngs(0))
    model = from_nnx(module)
    assert sorted(flatten(model.params)) == ["decode/bias", "decode/kernel", "encode/bias"]
    assert model.dense_bytes == 4 * (16 + 4 + 4)
    params = {**model.params, "decode": {**model.params["decode"], "kernel": 2 * model.params["decode"]["kernel"]}}
    filled = to_nnx(module, params, {})
    assert isinstance(filled, Tied) and filled.encode.kernel is filled.decode.kernel
    np.testing.assert_array_equal(filled.encode.kernel[...], params["decode"]["kernel"])


def test_to_nnx_fills_a_copy() -> None:
    source, target = Normed(nnx.Rngs(0)), Normed(nnx.Rngs(1))
    model = from_nnx(source)
    state = {"norm": {"mean": jnp.arange(8.0), "var": jnp.ones(8)}}
    old = np.asarray(target.layers[0].kernel[...])
    filled = qt.Compressed.from_model(dataclasses.replace(model, state=state)).to_nnx(target)
    assert isinstance(filled, Normed)
    np.testing.assert_array_equal(filled.norm.mean[...], np.arange(8))
    np.testing.assert_array_equal(filled.layers[0].kernel[...], model.params["layers"]["0"]["kernel"])
    np.testing.assert_array_equal(target.layers[0].kernel[...], old)


def test_to_nnx_names_what_does_not_fit() -> None:
    module = Mlp(nnx.Rngs(0))
    params = flatten(from_nnx(module).params)
    for change, told in (
        ({"fc1/kernel": None}, r"fc1/kernel: the module wants shape \(64, 12\), the model has nothing"),
        ({"fc2/bias": jnp.zeros(3)}, r"fc2/bias: the module wants shape \(10,\), the model has shape \(3,\)"),
        ({"fc3/bias": jnp.zeros(3)}, r"fc3/bias: the model has it, the module does not"),
    ):
        wrong = {path: leaf for path, leaf in {**params, **change}.items() if leaf is not None}
        with pytest.raises(LeafError, match=told):
            to_nnx(module, unflatten(wrong), {})
    with pytest.raises(LeafError, match="norm/mean: the model has it, the module does not"):
        to_nnx(module, unflatten(params), {"norm": {"mean": jnp.zeros(3)}})


@pytest.mark.parametrize("key", ["a\nb", "a\0", "\u202e"])
def test_a_name_that_no_file_could_hold_is_refused_at_once(key: str) -> None:
    with pytest.raises(LeafError, match="printable"):
        from_params({key: np.zeros(2, np.float32)})


def test_so_is_a_tree_that_is_too_deep() -> None:
    tree: dict[str, Any] = {"w": np.zeros(2, np.float32)}
    for _ in range(DEEPEST):
        tree = {"n": tree}
    with pytest.raises(LeafError, match="levels of nesting"):
        from_params(tree)
    assert from_params(tree["n"]).dense_bytes == 8


def test_arrays_of_another_byte_order_are_converted() -> None:
    params = from_params({"w": np.arange(3, dtype=">f4")}).params
    np.testing.assert_array_equal(params["w"], np.arange(3, dtype=np.float32))


# --- Networks that users bring --------------------------------------------------------------------------------------


class Brought(nnx.Module):
    """A layer that stands in two places, a tied kernel, statistics, dropout told by an argument, 16-bit weights."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first = nnx.Linear(64, 64, param_dtype=jnp.bfloat16, dtype=jnp.float32, rngs=rngs)
        self.again = self.first
        self.embed = nnx.Embed(10, 64, rngs=rngs)
        self.norm = nnx.BatchNorm(64, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x: jax.Array, *, deterministic: bool) -> jax.Array:
        x = self.again(nnx.relu(self.norm(self.first(x), use_running_average=deterministic)))
        self.hidden = nnx.Intermediate(x)
        return self.embed.attend(self.dropout(x, deterministic=deterministic))


@pytest.mark.filterwarnings("ignore:.*is larger than the dense model")
def test_a_network_that_a_user_brings_comes_back_to_the_bit(tmp_path: Path) -> None:
    module, inputs = Brought(nnx.Rngs(0)), jnp.asarray(INPUTS)
    module(inputs, deterministic=False)  # statistics have moved, and a by-product is left behind
    model = from_nnx(module)
    assert list(flatten(model.params)) == ["again/bias", "again/kernel", "embed/embedding", "norm/bias", "norm/scale"]
    assert list(flatten(model.state)) == ["norm/mean", "norm/var"]
    assert model.dense_bytes == 2 * (64 * 64 + 64) + 4 * (640 + 4 * 64)
    qt.save(tmp_path / "n.qtree", qt.Compressed.from_model(model))
    back = qt.load(tmp_path / "n.qtree").to_nnx(module)
    assert isinstance(back, Brought) and back.first is back.again
    wanted = module(inputs, deterministic=True)
    np.testing.assert_array_equal(back(inputs, deterministic=True), wanted)
    assert back.first.kernel.dtype == jnp.bfloat16
    assert model.apply is not None
    np.testing.assert_array_equal(model.apply(model.params, model.state, inputs)[0], wanted)
    trained, state = model.apply(model.params, model.state, inputs, train=True, key=jax.random.key(0))
    assert not np.array_equal(trained, wanted)
    assert not np.array_equal(state["norm"]["mean"], model.state["norm"]["mean"])
    assert isinstance(module.hidden, nnx.Intermediate), "the module is left as it is"


def test_a_call_that_wants_more_than_inputs_is_refused_at_once() -> None:
    class Wants(nnx.Module):
        def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
            return x * mask

    with pytest.raises(QuantreeError, match=r"Wants\.__call__ wants 'mask', and quantree gives only the inputs"):
        from_nnx(Wants())


class Parted(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.fc = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc(self.squares(x))

    def squares(self, x: jax.Array) -> jax.Array:
        return x**2


@pytest.mark.parametrize(
    ("branches", "head", "reason"),
    [
        ({"square": slice(None)}, "fc", "Parted has no method 'square'; did you mean 'squares'"),
        ({"squares": slice(None)}, "head", r"Parted has no method 'head'; known: fc, squares$"),
        ({"squares": 4}, "fc", "'squares' must be the name of a method, and its part a slice, not 4"),
        (["squares"], "fc", "branches must name methods and their parts, {name: slice}, not a list"),
    ],
)
def test_parts_that_a_module_does_not_have_are_refused(branches: Any, head: str, reason: str) -> None:
    with pytest.raises(QuantreeError, match=reason):
        from_nnx(Parted(nnx.Rngs(0)), branches, head)


def test_the_parts_of_a_module_are_its_methods_and_its_layers() -> None:
    model = from_nnx(Parted(nnx.Rngs(0)), {"squares": slice(0, 4)}, "fc")
    assert model.stem is not None and model.apply is not None
    [(_, squares)] = model.stem.branches
    inputs = jnp.asarray(INPUTS[:, :4])
    features, _ = squares(model.params, model.state, inputs)
    np.testing.assert_array_equal(features, INPUTS[:, :4] ** 2)
    whole, _ = model.apply(model.params, model.state, inputs)
    np.testing.assert_array_equal(model.stem.head(model.params, model.state, features)[0], whole)
