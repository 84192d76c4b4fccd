"""The training loop: what it minimises, how it ends, and that being cut off changes nothing."""

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import quantree as qt
from quantree.encodings import Compressed
from quantree.errors import DataError, QuantreeError
from quantree.model import Model
from quantree.recovery import Fitted, Training, fit
from quantree.task import Batch, Classification, Data
from tests.compilations import compilations
from tests.nets import digits, mlp, normed

QUICK = {"epochs": 2, "batch_size": 32, "learning_rate": 0.02}


def training(**settings: Any) -> Training:
    return Training.model_validate({**QUICK, **settings})


def trained(model: Model, data: Data | None = None, seed: int = 0, **settings: Any) -> Fitted:
    keywords = {key: settings.pop(key) for key in ("folder", "trained", "checkpoint_seconds") if key in settings}
    return fit(
        Compressed.from_model(model),
        model=model,
        data=data or digits(),
        training=training(**settings),
        seed=seed,
        **keywords,
    )


def assert_same(one: Any, other: Any) -> None:
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


# --- A model whose training can be followed by hand -----------------------------------------------------------------


def linear(params: Any, state: Any, inputs: Any, *, train: bool = False, key: Any = None) -> tuple[Any, Any]:
    return jnp.dot(inputs, params["w"]) + params["b"].reshape(1, -1), state


def squared(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    return jnp.sum(jnp.square(outputs - targets), axis=-1)


X = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
Y = np.random.default_rng(1).normal(size=(8, 2)).astype(np.float32)
LINE = qt.from_params({"w": np.eye(3, 2, dtype=np.float32), "b": np.ones(2, np.float32)}, apply=linear)
REGRESSION = Classification(
    loss=squared,
    metric=lambda outputs, targets: float(np.mean((outputs - targets).astype(np.float64) ** 2)),
    metric_name="mse",
    direction="min",
    outputs="values",
)
WHOLE = Data.from_arrays((X, Y), (X, Y), REGRESSION)


def steps_by_hand(transform: optax.GradientTransformation, count: int, l2: float, decay: float) -> Any:
    params = {"w": np.eye(3, 2), "b": np.ones(2)}
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        state = transform.init(params)
        for _ in range(count):
            residual = X @ params["w"] + params["b"] - Y
            gradient = {"w": 2 * X.T @ residual / 8 + 2 * l2 * params["w"], "b": 2 * residual.sum(axis=0) / 8}
            direction, state = transform.update(gradient, state, params)
            steps: dict[str, np.ndarray] = jax.tree.map(np.asarray, direction)
            steps["w"] = steps["w"] + decay * params["w"]
            params = {name: params[name] - 0.1 * steps[name] for name in params}
    return params


@pytest.mark.parametrize(
    ("settings", "transform"),
    [
        ({"optimizer": "sgd", "momentum": 0.0}, optax.identity()),
        ({"optimizer": "sgd", "momentum": 0.9}, optax.trace(0.9, nesterov=True)),
        ({"optimizer": "adam"}, optax.scale_by_adam()),
        ({"optimizer": "sgd", "momentum": 0.0, "clip": 0.5}, optax.clip_by_global_norm(0.5)),
        ({"optimizer": "sgd", "momentum": 0.0, "l2": 0.3}, optax.identity()),
        ({"optimizer": "adam", "weight_decay": 0.3}, optax.scale_by_adam()),
    ],
    ids=["plain", "nesterov", "adam", "clip", "l2", "decay"],
)
def test_steps_are_those_of_the_formulas(settings: Any, transform: optax.GradientTransformation) -> None:
    fixed = {"epochs": 3, "batch_size": 8, "learning_rate": 0.1, "schedule": "constant", "keep": "last"}
    fitted = trained(LINE, WHOLE, **fixed, **settings)
    wanted = steps_by_hand(transform, 3, l2=settings.get("l2", 0), decay=settings.get("weight_decay", 0))
    for name, value in fitted.compressed.decode().items():
        np.testing.assert_allclose(value, wanted[name], rtol=2e-5, atol=2e-6)


def test_rates() -> None:
    constant = training(schedule="constant", learning_rate=0.5).rates(4)
    np.testing.assert_allclose(constant, 0.5)
    cosine = training(learning_rate=0.5).rates(10)
    np.testing.assert_allclose(cosine, 0.25 * (1 + np.cos(np.pi * np.arange(10) / 10)), rtol=1e-5)
    warm = training(learning_rate=0.5, warmup=0.4).rates(10)
    np.testing.assert_allclose(warm[:5], 0.5 * np.arange(5) / 4, rtol=1e-5)
    np.testing.assert_allclose(warm[4:], 0.25 * (1 + np.cos(np.pi * np.arange(6) / 6)), rtol=1e-5)
    assert training().rates(1).dtype == np.float32 and training(warmup=0.99).rates(1).shape == (1,)


def test_decay_and_l2_leave_biases_and_centroids_alone() -> None:
    recipe = qt.Recipe.from_config([{"kind": "kmeans", "k": 2}])
    compressed = recipe.run(LINE, key=jax.random.key(0))
    plain, pulled = (
        fit(
            compressed, model=LINE, data=WHOLE, seed=0,
            training=training(epochs=1, batch_size=8, weight_decay=pull, l2=pull, keep="last", schedule="constant"),
        ).compressed.decode()
        for pull in (0.0, 0.7)
    )  # fmt: skip
    assert_same(plain, pulled)


# --- Real training --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def baseline() -> tuple[Model, Fitted]:
    model = mlp()
    return model, trained(model, epochs=4)


def test_digits_are_learned_and_the_record_tells_how(baseline: tuple[Model, Fitted]) -> None:
    _, fitted = baseline
    assert fitted.score.metric > 0.7
    assert [row["epoch"] for row in fitted.history] == [1, 2, 3, 4]
    assert fitted.history[-1]["loss"] < 0.7 * fitted.history[0]["loss"]
    assert fitted.score.metric == max(row["metric"] for row in fitted.history)


def test_the_callers_arrays_survive(baseline: tuple[Model, Fitted]) -> None:
    model, fitted = baseline
    assert_same(model.params, mlp().params)
    again = fit(fitted.compressed, model=model, data=digits(), training=training(), seed=1)
    assert again.score.loss <= fitted.score.loss or again.score.metric >= fitted.score.metric
    assert np.isfinite(np.asarray(fitted.compressed.decode()["fc1"]["kernel"])).all()


def test_the_same_seed_gives_the_same_bits_and_another_does_not(baseline: tuple[Model, Fitted]) -> None:
    model, fitted = baseline
    assert_same(trained(mlp(), epochs=4).compressed, fitted.compressed)
    other = trained(model, epochs=4, seed=1).compressed
    assert not np.array_equal(other.decode()["fc1"]["kernel"], fitted.compressed.decode()["fc1"]["kernel"])


def test_nothing_is_compiled_again_for_other_rates_seeds_weights_or_epochs(baseline: tuple[Model, Fitted]) -> None:
    trained(mlp(), epochs=4, seed=1)
    with compilations() as compiled:
        trained(mlp(7), epochs=4, seed=5, learning_rate=0.003, weight_decay=0.1, l2=1e-4, keep="last")
        assert compiled == []
        trained(mlp(7), epochs=4, optimizer="sgd")
        assert compiled, "nothing is heard"


def test_only_chosen_fields_are_trained(baseline: tuple[Model, Fitted]) -> None:
    model, _ = baseline
    after = trained(model, epochs=1, keep="last", trained=lambda name: "bias" in name).compressed.decode()
    np.testing.assert_array_equal(after["fc1"]["kernel"], model.params["fc1"]["kernel"])
    assert not np.array_equal(after["fc1"]["bias"], model.params["fc1"]["bias"])


def test_state_is_carried_and_dropout_is_reproducible() -> None:
    model = normed()
    one, two = (trained(model, epochs=1, keep="last") for _ in range(2))
    assert_same(one.compressed, two.compressed)
    assert not np.array_equal(one.compressed.state["norm/mean"], model.state["norm"]["mean"])
    np.testing.assert_array_equal(model.state["norm"]["mean"], np.zeros(8))
    assert set(one.compressed.state) == {"norm/mean", "norm/var"}


# --- Early ends -----------------------------------------------------------------------------------------------------


def scripted(metrics: list[float]) -> Data:
    """Digits with validation metrics that are given in advance: before training, then after each epoch."""
    values = iter(metrics)
    task = Classification(metric=lambda outputs, targets: next(values))
    return dataclasses.replace(digits(), task=task)


@pytest.mark.parametrize(
    ("metrics", "patience", "keep", "epochs", "score"),
    [
        ([0.1, 0.5, 0.4, 0.3, 0.2], None, "best", 4, 0.5),
        ([0.1, 0.5, 0.4, 0.3, 0.2], None, "last", 4, 0.2),
        ([0.1, 0.5, 0.4, 0.3, 0.9], 2, "best", 3, 0.5),
        ([0.1, 0.5, 0.4, 0.3, 0.9], 2, "last", 3, 0.3),
        ([0.1, 0.5, 0.4, 0.6, 0.5], 2, "best", 4, 0.6),
        ([0.9, 0.5, 0.4, 0.6, 0.5], None, "best", 4, 0.9),
        ([0.9, 0.5, 0.4, 0.6, 0.5], 1, "best", 1, 0.9),
    ],
)
def test_patience_and_which_epoch_is_kept(
    metrics: list[float], patience: int | None, keep: str, epochs: int, score: float
) -> None:
    model = mlp()
    fitted = trained(model, scripted(metrics), epochs=4, patience=patience, keep=keep)
    assert len(fitted.history) == epochs and fitted.score.metric == score
    untouched = np.array_equal(fitted.compressed.decode()["fc1"]["kernel"], model.params["fc1"]["kernel"])
    assert untouched == (score == metrics[0])


def test_an_update_that_has_not_settled_neither_counts_nor_wears_out_patience() -> None:
    data = scripted([0.9, 0.8, 0.7, 0.5, 0.6])
    seen: list[float] = []

    def update(compressed: Compressed, progress: float) -> Compressed:
        seen.append(progress)
        return compressed

    fitted = fit(
        Compressed.from_model(mlp()), model=mlp(), data=data, training=training(epochs=4, patience=2), seed=0,
        update=update, update_every=3, settled=0.6,
    )  # fmt: skip
    assert len(fitted.history) == 4
    assert fitted.score.metric == 0.7, "of epochs 3 and 4, since nothing is measured before training"
    assert seen == sorted(seen) and seen[0] == 0 and seen[-1] == 1


def test_a_loss_that_is_not_finite_is_an_error() -> None:
    with pytest.raises(QuantreeError, match=r"training, epoch 1: the loss is (nan|inf); a smaller learning_rate"):
        trained(LINE, WHOLE, optimizer="sgd", learning_rate=1e30, batch_size=2)
    with pytest.raises(QuantreeError, match=r"training, epoch 1: the validation loss is (nan|inf)"):
        trained(LINE, WHOLE, optimizer="sgd", learning_rate=1e30, batch_size=8)


def test_data_that_give_too_few_batches_are_an_error_and_too_many_are_not_used() -> None:
    def some(count: int) -> Data:
        return dataclasses.replace(
            WHOLE, train=lambda *place: itertools.islice(itertools.cycle([(X[:2], Y[:2])]), count)
        )

    with pytest.raises(DataError, match="epoch 1 has 3 batches of training data, not 4"):
        trained(LINE, some(3), batch_size=2)
    assert_same(trained(LINE, some(9), batch_size=2).compressed, trained(LINE, some(4), batch_size=2).compressed)


def test_a_bare_checkpoint_can_not_be_trained() -> None:
    with pytest.raises(QuantreeError, match="has no `apply`"):
        trained(qt.from_params({"a": X}), WHOLE)


# --- Cut off and taken up again -------------------------------------------------------------------------------------


class Cut(Exception):
    pass


def dying(data: Data, epoch: int, step: int) -> Data:
    """The same data, until they end in an exception in the middle of an epoch."""

    def train(seed: int, now: int, batch_size: int) -> Iterator[Batch]:
        for i, batch in enumerate(data.train(seed, now, batch_size)):
            if (now, i) == (epoch, step):
                raise Cut
            yield batch

    return dataclasses.replace(data, train=train)


@pytest.mark.parametrize("kill", [(0, 1), (2, 0), (3, 3)])
def test_what_was_cut_off_ends_where_it_would_have_ended(tmp_path: Path, kill: tuple[int, int]) -> None:
    settings: dict[str, Any] = {"epochs": 4, "patience": 3}
    whole = trained(normed(), **settings)
    with pytest.raises(Cut):
        trained(normed(), dying(digits(), *kill), folder=tmp_path, checkpoint_seconds=0.0, **settings)
    epochs: list[int] = []

    def train(seed: int, epoch: int, batch_size: int) -> Any:
        epochs.append(epoch)
        return digits().train(seed, epoch, batch_size)

    resumed = trained(
        normed(), dataclasses.replace(digits(), train=train), folder=tmp_path, checkpoint_seconds=0.0, **settings
    )
    assert_same(resumed.compressed, whole.compressed)
    assert resumed.score == whole.score and resumed.history == whole.history
    assert epochs == list(range(kill[0], len(whole.history))), "goes on at the epoch that was cut off"
    assert len(list(tmp_path.glob("epoch-*"))) == 1
    assert_same(trained(normed(), folder=tmp_path, **settings).compressed, whole.compressed)


def test_patience_is_not_renewed_by_a_cut(tmp_path: Path) -> None:
    task = REGRESSION.model_copy(
        update={"metric": lambda outputs, targets: 1.0, "loss": lambda outputs, targets: 0 * squared(outputs, targets)}
    )
    data, settings = dataclasses.replace(WHOLE, task=task), {"epochs": 9, "batch_size": 4, "patience": 3}
    with pytest.raises(Cut):
        trained(LINE, dying(data, 2, 1), folder=tmp_path, checkpoint_seconds=0.0, **settings)
    assert len(trained(LINE, data, folder=tmp_path, **settings).history) == 3


def test_a_half_written_state_is_not_taken_for_a_whole_one(tmp_path: Path) -> None:
    (tmp_path / "epoch-3.orbax-checkpoint-tmp").mkdir()
    assert_same(trained(mlp(), folder=tmp_path).compressed, trained(mlp()).compressed)
