"""The penalty on whole filters: its value, its gradient, and what training makes of it."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import quantree as qt
from quantree.encodings import Compressed, Pruned, Raw
from quantree.errors import ConfigError
from quantree.model import Model
from quantree.recovery import FilterPenalty, Training, fit
from quantree.schema import validate
from tests.compilations import compilations
from tests.nets import digits, mlp

FORMS = [{"kind": kind, "inner": inner} for kind, inner in itertools.product(("ratio", "lasso"), ("l1", "l2"))]
each_form = pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(form.values()))
kernels = arrays(np.float32, (2, 3, 4), elements=st.floats(-4, 4, width=32).filter(lambda x: x == 0 or abs(x) > 1e-3))


def value(kernel: Any, **settings: Any) -> np.ndarray:
    return np.asarray(compiled(**settings)(jnp.asarray(kernel))[0])


def gradient(kernel: np.ndarray, **settings: Any) -> np.ndarray:
    return np.asarray(compiled(**settings)(jnp.asarray(kernel))[1])


@functools.cache
def compiled(**settings: Any) -> Any:
    def penalty(kernel: jax.Array) -> jax.Array:
        leaves = {"conv/kernel": Raw.of(kernel)}
        return FilterPenalty(weight=1.0, match=("*",), **settings).over(leaves)(leaves)

    return jax.jit(jax.value_and_grad(penalty))


def norms(kernel: np.ndarray, inner: str) -> np.ndarray:
    return np.linalg.norm(kernel.reshape(-1, kernel.shape[-1]).astype(np.float64), 1 if inner == "l1" else 2, axis=0)


# --- Value and gradient ---------------------------------------------------------------------------------------------


@each_form
def test_it_is_the_formula(form: Any) -> None:
    kernel = np.random.default_rng(0).normal(size=(3, 3, 2, 5)).astype(np.float32)
    n = norms(kernel, form["inner"])
    if form["kind"] == "ratio":
        wanted = n.sum() / np.linalg.norm(n)
        np.testing.assert_allclose(value(kernel, scaled=True, **form), wanted / np.sqrt(5), rtol=1e-6)
    else:
        wanted = n.sum() * (np.sqrt(18) if form["inner"] == "l2" else 1)
    np.testing.assert_allclose(value(kernel, **form), wanted, rtol=1e-6)


@each_form
@given(kernel=kernels)
def test_the_gradient_is_the_formulas_and_zero_where_a_filter_is(form: Any, kernel: np.ndarray) -> None:
    n = norms(kernel, form["inner"])
    ratio = form["kind"] == "ratio"
    if ratio and n.any():  # by dR/dn_i = (1 - R n_i / |n|_2) / |n|_2
        by_norm = (1 - n.sum() * n / np.square(n).sum()) / np.linalg.norm(n)
    else:
        by_norm = np.full(4, 0.0 if ratio else np.sqrt(6) if form["inner"] == "l2" else 1.0)
    by_weight = np.sign(kernel) if form["inner"] == "l1" else kernel / np.where(n > 0, n, 1)
    np.testing.assert_allclose(gradient(kernel, **form), by_norm * by_weight, rtol=1e-3, atol=1e-5)


@given(kernel=kernels.filter(np.any), scale=st.sampled_from([-7.5, 1e-6, 1e6]), inner=st.sampled_from(["l1", "l2"]))
def test_a_ratio_lies_between_its_ends_at_any_scale(kernel: np.ndarray, scale: float, inner: Any) -> None:
    ratio = float(value(kernel, inner=inner))
    assert 1 - 1e-5 <= ratio <= 2 + 1e-5
    np.testing.assert_allclose(value(np.float32(scale) * kernel, inner=inner), ratio, rtol=1e-4)


@pytest.mark.parametrize("inner", ["l1", "l2"])
def test_a_ratio_is_one_for_one_filter_and_the_root_of_their_number_for_equal_ones(inner: Any) -> None:
    alike = np.random.default_rng(0).normal(size=(3, 9, 1)).astype(np.float32) * np.ones(16, np.float32)
    np.testing.assert_allclose(value(alike, inner=inner), 4, rtol=1e-6)
    np.testing.assert_allclose(value(alike * (np.arange(16) == 3), inner=inner), 1, rtol=1e-6)
    np.testing.assert_allclose(value(alike, inner=inner, scaled=True), 1, rtol=1e-6)


@each_form
def test_a_kernel_of_zeros_and_one_of_sixteen_bits_are_no_trouble(form: Any) -> None:
    assert not gradient(np.zeros((3, 2, 4), np.float32), **form).any()
    wide = np.full((9, 64, 8), 50, np.float32)  # squares of these overflow in 16 bits
    np.testing.assert_allclose(value(jnp.asarray(wide, jnp.float16), **form), value(wide, **form), rtol=1e-6)


# --- What it is taken over ------------------------------------------------------------------------------------------


def test_it_is_the_sum_over_the_kernels_that_match() -> None:
    rng = np.random.default_rng(0)
    tree = {"a": rng.normal(size=(3, 4)), "b": rng.normal(size=(3, 3, 1, 6)), "one": rng.normal(size=(5, 1))}
    leaves: dict[str, Any] = {name: Raw.of(jnp.asarray(leaf, jnp.float32)) for name, leaf in tree.items()}
    leaves["b"] = Pruned.of(leaves["b"].value, leaves["b"].value > 0)
    leaves |= {"bias": Raw.of(jnp.ones(4)), "counts": Raw.of(jnp.ones((2, 2), jnp.int32))}
    penalty = FilterPenalty(weight=1.0, match=("*",)).over(leaves)
    assert penalty.paths == ("a", "b"), "neither vectors, nor integers, nor what has one output"
    separate = [value(leaves[name].decode({})) for name in ("a", "b")]
    np.testing.assert_allclose(penalty(leaves), sum(map(float, separate)), rtol=1e-6)
    with pytest.raises(ConfigError, match="pattern 'one' matches no trained kernel; known: a, b"):
        FilterPenalty(weight=1.0, match=("one",)).over(leaves)


def test_mistakes_in_the_settings() -> None:
    filters: dict[str, Any] = {"weight": 0.1}
    with pytest.raises(ConfigError, match=r"filters\.match: field required"):
        validate(Training, {"epochs": 1, "filters": filters})
    with pytest.raises(ConfigError, match=r"filters\.scaled: `scaled` divides a ratio"):
        validate(Training, {"epochs": 1, "filters": {**filters, "match": "*", "kind": "lasso", "scaled": True}})


def test_a_pattern_that_fits_nothing_is_told_before_any_training() -> None:
    def check(*stages: Any) -> None:
        qt.Recipe.from_config(list(stages)).check(mlp())

    tune = {"kind": "finetune", "epochs": 1, "filters": {"weight": 0.1, "match": "fc1/kernel"}}
    check(tune)
    with pytest.raises(ConfigError, match=r"finetune.*pattern 'fc1/kernel' matches no trained kernel"):
        check({"kind": "kmeans", "k": 2}, tune)
    with pytest.raises(ConfigError, match=r"dkm.*pattern 'fc1/kernel' matches no trained kernel"):
        check({**tune, "kind": "dkm", "k": 2})
    with pytest.raises(ConfigError, match="pattern 'conv' matches no trained kernel"):
        trained(mlp(), match=("conv",))
    recipe = qt.Recipe.from_config([{**tune, "match": "fc2/*"}])
    with pytest.raises(ConfigError, match=r"pattern 'fc1/kernel' matches no trained kernel; did you mean 'fc2/kernel'"):
        recipe.run(mlp(), key=jax.random.key(0), data=digits())


# --- Training -------------------------------------------------------------------------------------------------------


def trained(model: Model, **settings: Any) -> dict[str, np.ndarray]:
    training = Training(
        epochs=3, batch_size=64, learning_rate=0.02, keep="last", filters=FilterPenalty(**{"weight": 0.5, **settings})
    )
    fitted = fit(Compressed.from_model(model), model=model, data=digits(), training=training, seed=0)
    return {name: np.asarray(layer["kernel"]) for name, layer in fitted.compressed.decode().items()}


@each_form
def test_training_makes_filters_of_the_kernels_that_match_few(form: Any) -> None:
    free = trained(mlp(), match=("fc1/*",), **{**form, "weight": 0.0})
    weight = 0.5 if form["kind"] == "ratio" else 0.002
    few = trained(mlp(), match=("fc1/*",), **{**form, "weight": weight})

    def spread(kernel: np.ndarray) -> float:
        n = norms(kernel, "l2")
        return float(n.sum() / np.linalg.norm(n) / np.sqrt(len(n)))

    if form["kind"] == "ratio":
        assert spread(few["fc1"]) < spread(free["fc1"]) - 0.05
    else:
        assert norms(few["fc1"], "l2").sum() < 0.8 * norms(free["fc1"], "l2").sum()
    assert spread(few["fc2"]) > 0.9 * spread(free["fc2"])


def test_another_weight_compiles_nothing() -> None:
    trained(mlp(), match=("fc1/*",))
    with compilations() as heard:
        trained(mlp(3), match=("fc1/*",), weight=0.01)
        assert heard == []
        trained(mlp(), match=("fc1/*",), scaled=True)
        assert heard, "nothing is heard"
