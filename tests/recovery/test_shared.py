"""Centroids that gather the steps of their weights."""

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quantree as qt
from quantree.encodings import Blocking, Coded, Compressed, Scalar, SubVectors, Table, float_fields
from quantree.errors import ConfigError
from quantree.model import Model
from quantree.recipe import Recipe
from quantree.recovery import Training, evaluate, fit
from quantree.recovery.shared import Shared, gather, shared_leaves, to_shared
from quantree.task import Batch, Classification, Data
from tests.compilations import compilations
from tests.nets import digits, mlp

KEY = jax.random.key(0)
FIXED = {"kind": "finetune", "batch_size": 64, "schedule": "constant", "keep": "last"}
PRUNE = {"kind": "prune", "density": 0.4, "match": "fc1/kernel"}
UNIFIED = {"kind": "kmeans", "k": 5, "grouping": "net"}
PRODUCT = {"kind": "product", "k": 6, "d": 5, "match": "fc1/kernel"}


def run(*stages: Any, model: Model | None = None, data: Data | None = None) -> Compressed:
    return Recipe.from_config(list(stages)).run(model or mlp(), key=KEY, data=data or digits())


@pytest.mark.parametrize(
    "stages",
    [
        pytest.param((PRUNE, UNIFIED), id="unified"),
        pytest.param((PRUNE, PRODUCT), id="masked vectors", marks=pytest.mark.slow),
        pytest.param(({**PRODUCT, "codebooks": "segment"}, {"kind": "cast"}), id="segments", marks=pytest.mark.slow),
    ],
)
def test_without_momentum_it_is_a_step_along_the_sum_of_the_gradients(stages: Any) -> None:
    tune = {**FIXED, "epochs": 1, "optimizer": "sgd", "momentum": 0.0, "match": "codebooks/*"}
    before = run(*stages)
    one = run(*stages, {**tune, "learning_rate": 0.5, "cumulative_rate": 0.1})
    two = run(*stages, {**tune, "learning_rate": 0.05})
    assert jax.tree.structure(one) == jax.tree.structure(two)
    precise = 1e-3 if any(stage["kind"] == "cast" for stage in stages) else 1e-5
    for name, field in float_fields(two).items():
        np.testing.assert_allclose(float_fields(one)[name], field, rtol=precise, atol=precise)
        start = np.asarray(float_fields(before)[name])
        assert name.startswith("codebooks/") == (not np.array_equal(start, field))
    for path, leaf in before.leaves.items():
        now = one.leaves[path]
        if isinstance(leaf, Coded):
            assert isinstance(now, Coded)
            np.testing.assert_array_equal(now.codes, leaf.codes)
            np.testing.assert_array_equal(now.zeros(), leaf.zeros())


@pytest.mark.parametrize(
    ("blocking", "zero", "masked"),
    [
        (Scalar(), True, False),
        (SubVectors(d=4), False, True),
        (SubVectors(d=4, along="outputs", codebooks="segment"), False, False),
    ],
)
def test_sums_are_what_a_look_up_is_transposed_to(blocking: Blocking, zero: bool, masked: bool) -> None:
    shape, rng = (7, 6), np.random.default_rng(0)
    segments, count, width = blocking.segments(shape), blocking.count(shape), blocking.width(shape)
    table = jnp.asarray(rng.normal(size=(segments, 3, width)).astype(np.float32))
    codes = jnp.asarray(rng.integers(0, 3 + zero, (segments, count)).astype(np.uint8))
    mask = jnp.asarray(rng.random(shape) < 0.5) if masked else None
    coded = Coded(codes, mask, "book", blocking, zero, shape, np.dtype(np.float32))
    drift = jnp.asarray(rng.normal(size=shape).astype(np.float32))
    shared = dataclasses.replace(Shared.of(coded, Table(table)), drift=drift)
    wanted = jax.grad(lambda table: jnp.sum(drift * coded.decode({"book": Table(table)})))(table)
    np.testing.assert_allclose(shared.sums(3), wanted, rtol=1e-5, atol=1e-6)
    moved = np.asarray(shared.decode({"book": Table(table)}) - coded.decode({"book": Table(table)}))
    zeros = coded.zeros()
    assert (zeros is not None) == (zero or masked)
    np.testing.assert_allclose(moved, drift if zeros is None else np.where(zeros, 0, drift), atol=1e-6)


# --- By hand --------------------------------------------------------------------------------------------------------

RNG = np.random.default_rng(0)
X, Y = (RNG.normal(size=(8, width)).astype(np.float32) for width in (3, 2))
WEIGHTS = {"a": RNG.normal(size=(3, 4)), "b": RNG.normal(size=(4, 2)), "c": np.ones(2)}


def linear(params: Any, state: Any, inputs: Any, *, train: bool = False, key: Any = None) -> tuple[Any, Any]:
    return jnp.dot(jnp.dot(inputs, params["a"]), params["b"]) + params["c"].reshape(1, -1), state


LINE = qt.from_params({name: value.astype(np.float32) for name, value in WEIGHTS.items()}, apply=linear)
REGRESSION = Classification(
    loss=lambda outputs, targets: jnp.sum(jnp.square(outputs - targets), axis=-1),
    metric=lambda outputs, targets: float(np.mean((outputs - targets).astype(np.float64) ** 2)),
    metric_name="mse",
    direction="min",
    outputs="values",
)
WHOLE = Data.from_arrays((X, Y), (X, Y), REGRESSION)


def adam(gradient: np.ndarray, moments: list[np.ndarray], step: int) -> np.ndarray:
    """The direction of Kingma and Ba, algorithm 1."""
    moments[0] = 0.9 * moments[0] + 0.1 * gradient
    moments[1] = 0.999 * moments[1] + 0.001 * gradient**2
    return moments[0] / (1 - 0.9**step) / (np.sqrt(moments[1] / (1 - 0.999**step)) + 1e-8)


def test_steps_of_adam_are_gathered_as_by_hand() -> None:
    """Two leaves that share a codebook, one of them pruned, and a bias that is trained as it is."""
    stages = [{"kind": "prune", "density": 0.5, "match": "a"}, {"kind": "kmeans", "k": 3, "grouping": "net"}]
    tune = {**FIXED, "epochs": 6, "batch_size": 8, "learning_rate": 0.05, "cumulative_rate": 0.3}
    before, after = run(*stages, model=LINE, data=WHOLE), run(*stages, tune, model=LINE, data=WHOLE)
    centroids = np.asarray(before.codebooks["net"].table(), np.float64)[0, :, 0]
    symbols = {}
    for name, leaf in before.leaves.items():
        if isinstance(leaf, Coded):
            symbols[name] = np.asarray(leaf.codes).reshape(leaf.shape).astype(int) - leaf.zero
    bias, moments = np.ones(2), {name: [np.zeros(value.shape)] * 2 for name, value in WEIGHTS.items()}
    for step in range(1, 7):
        weights = {name: np.where(codes < 0, 0, centroids[codes]) for name, codes in symbols.items()}
        residual = X @ weights["a"] @ weights["b"] + bias - Y
        gradients = {
            "a": X.T @ (2 * residual / 8) @ weights["b"].T * (symbols["a"] >= 0),
            "b": (X @ weights["a"]).T @ (2 * residual / 8),
            "c": 2 * residual.mean(axis=0),
        }
        changes = {name: -0.05 * adam(gradient, moments[name], step) for name, gradient in gradients.items()}
        bias = bias + changes["c"]
        for name, codes in symbols.items():
            for j in range(3):
                centroids[j] += 0.3 * changes[name][codes == j].sum()
    assert (symbols["a"] < 0).sum() == 6 and (symbols["b"] >= 0).all()
    np.testing.assert_allclose(after.codebooks["net"].table()[0, :, 0], centroids, rtol=1e-4)
    np.testing.assert_allclose(after.decode()["c"], bias, rtol=1e-4)
    assert np.count_nonzero(after.decode()["a"]) == 6


# --- Around it ------------------------------------------------------------------------------------------------------


def test_a_tuned_codebook_beats_the_untuned_one_and_rates_share_a_program(baseline: Model) -> None:
    tune = {**FIXED, "epochs": 4, "learning_rate": 0.003, "match": "codebooks/*"}
    run({"kind": "kmeans", "k": 4}, {**tune, "cumulative_rate": 0.02}, model=baseline)
    with compilations() as compiled:
        after = run({"kind": "kmeans", "k": 4}, {**tune, "cumulative_rate": 0.03}, model=baseline)
    assert compiled == []
    before = run({"kind": "kmeans", "k": 4}, model=baseline)
    one, two = (evaluate(each, baseline, digits()).loss for each in (before, after))
    assert two < 0.9 * one


def test_levels_of_uniform_are_trained_as_they_are() -> None:
    stages = ({"kind": "uniform", "k": 4, "match": "fc1/kernel"}, {"kind": "kmeans", "k": 4, "match": "fc2/kernel"})
    tune = {**FIXED, "epochs": 1, "match": ["codebooks/*"]}
    before = float_fields(run(*stages))
    after = float_fields(run(*stages, {**tune, "cumulative_rate": 1e-12}))
    changed = {name for name, field in before.items() if not np.array_equal(field, after[name])}
    assert changed == {"codebooks/fc1/kernel/scale", "codebooks/fc1/kernel/offset"}


class Cut(Exception):
    pass


def test_what_was_cut_off_ends_where_it_would_have_ended(tmp_path: Path) -> None:
    begun, trained = to_shared(run(PRUNE, UNIFIED), lambda name: True)
    assert set(shared_leaves(begun)) == {"fc1/kernel", "fc2/kernel"}

    def train(seed: int, epoch: int, batch_size: int) -> Iterator[Batch]:
        for i, batch in enumerate(digits().train(seed, epoch, batch_size)):
            if (epoch, i) == (2, 3):
                raise Cut
            yield batch

    resumable = functools.partial(
        fit, begun, model=mlp(), training=Training(epochs=3, learning_rate=0.01, keep="last"), seed=0, trained=trained,
        update=lambda compressed, progress: gather(compressed, 0.05), update_every=1, checkpoint_seconds=0.0,
    )  # fmt: skip
    whole = resumable(data=digits()).compressed
    with pytest.raises(Cut):
        resumable(data=dataclasses.replace(digits(), train=train), folder=tmp_path)
    again = resumable(data=digits(), folder=tmp_path).compressed
    assert not np.array_equal(whole.codebooks["net"].table(), begun.codebooks["net"].table())
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(again), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.mark.parametrize(
    ("stages", "told"),
    [
        (({},), r"stage 0 \(finetune\): cumulative_rate moves free centroids"),
        (({"kind": "uniform", "k": 4}, {}), r"stage 1 \(finetune\): cumulative_rate moves free centroids"),
        ((UNIFIED, {"match": "*/bias/*"}), r"stage 1 \(finetune\): cumulative_rate moves free centroids"),
        (({"gradual": {"stage": PRUNE}},), r"\[0\].cumulative_rate: .*use two stages"),
        (({"cumulative_rate": 0},), r"\[0\].cumulative_rate: "),
    ],
)
def test_what_can_not_be_gathered_is_told(stages: Any, told: str) -> None:
    tune = {**FIXED, "epochs": 1, "cumulative_rate": 0.1}
    with pytest.raises(ConfigError, match=told):
        run(*(stage if "kind" in stage else {**tune, **stage} for stage in stages))
