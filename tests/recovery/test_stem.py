"""Features of a stem that no training changes: computed once, and training on them is training with the stem."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import quantree as qt
from quantree.encodings import Compressed, float_fields
from quantree.errors import DataError, QuantreeError
from quantree.model import Model
from quantree.recovery import Training, evaluate, fit
from quantree.recovery.stem import beyond_stem
from quantree.task import Batch, Data, Regression

LEFT, RIGHT = 6, 9  # tokens
RNG = np.random.default_rng(0)


class Forked(nnx.Module):
    """Two branches and a head with dropout; `noise` is dropout in the branches, `norm` a batch norm in one of them."""

    def __init__(self, noise: float, norm: bool, rngs: nnx.Rngs) -> None:
        self.embed = nnx.Embed(5, 4, rngs=rngs)
        self.conv_left = nnx.Conv(4, 8, (3,), padding="VALID", rngs=rngs)
        self.conv_right = nnx.Conv(4, 8, (3,), padding="VALID", rngs=rngs)
        self.noise = nnx.Dropout(noise, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs) if norm else nnx.identity
        self.fc1 = nnx.Linear(16, 12, rngs=rngs)
        self.fc2 = nnx.Linear(12, 1, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(jnp.concatenate([self.left(x[:, :LEFT]), self.right(x[:, LEFT:])], axis=1))

    def left(self, x: jax.Array) -> jax.Array:
        return self.norm(nnx.relu(self.conv_left(self.embed(x.astype(jnp.int32)))).max(axis=1))

    def right(self, x: jax.Array) -> jax.Array:
        return self.noise(nnx.relu(self.conv_right(self.embed(x.astype(jnp.int32)))).max(axis=1))

    def head(self, features: jax.Array) -> jax.Array:
        return self.fc2(self.dropout(nnx.relu(self.fc1(features))))


def forked(noise: float = 0.0, norm: bool = False) -> Model:
    return qt.from_nnx(Forked(noise, norm, nnx.Rngs(0)), {"left": slice(0, LEFT), "right": slice(LEFT, None)})


def pairs() -> Data:
    lefts, rights = (RNG.integers(0, 5, (n, length)).astype(np.uint8) for n, length in ((7, LEFT), (70, RIGHT)))
    chosen = RNG.integers(0, 7, 200), RNG.integers(0, 70, 200)
    inputs = np.concatenate([lefts[chosen[0]], rights[chosen[1]]], axis=1)
    targets = (chosen[0] % 3 + chosen[1] % 2).astype(np.float32)
    return Data.from_arrays((inputs[:150], targets[:150]), (inputs[150:], targets[150:]), Regression())


DATA = pairs()
QUANTIZED: dict[str, list[dict[str, Any]]] = {
    "raw": [],
    "pruned": [{"kind": "prune", "density": 0.5}],
    "coded": [{"kind": "kmeans", "match": "*/kernel", "k": 4}],
}


def after(model: Model, *stages: dict[str, Any], data: Data = DATA) -> Compressed:
    if not stages:
        return Compressed.from_model(model)
    return qt.Recipe.from_config(list(stages)).run(model, key=jax.random.key(0), data=data)


def head_only(compressed: Compressed) -> Callable[[str], bool]:
    return {name for name in float_fields(compressed) if "fc" in name}.__contains__


GRADUAL = {"gradual": {"stage": {"kind": "prune", "match": "fc*/kernel", "density": 0.2}}}


@pytest.mark.parametrize(
    ("before", "settings"),
    [
        ("coded", {}),
        pytest.param("raw", GRADUAL, marks=pytest.mark.slow),
        pytest.param("pruned", {"optimizer": "sgd", "l2": 1e-3}, marks=pytest.mark.slow),
    ],
    ids=["coded", "gradual", "sgd"],
)
def test_a_tuned_head_is_that_of_a_training_with_the_stem(before: str, settings: dict[str, Any]) -> None:
    model = forked()
    tune = {"kind": "finetune", "match": ["*fc*"], "epochs": 3, "batch_size": 16, "learning_rate": 0.01, **settings}
    with_stem, without = (
        after(each, *QUANTIZED[before], tune) for each in (model, dataclasses.replace(model, stem=None))
    )
    assert jax.tree.structure(with_stem) == jax.tree.structure(without)
    moved = 0.0
    for start, one, other in zip(
        *map(jax.tree.leaves, (after(model, *QUANTIZED[before]), with_stem, without)), strict=False
    ):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
        moved = max(moved, float(np.abs(np.asarray(start, np.float64) - np.asarray(one, np.float64)).max()))
    assert moved > 0.01


def test_the_network_itself_is_only_compared_with_its_parts() -> None:
    model = forked()
    apply, seen = model.apply, []
    assert apply is not None

    def counted(params: Any, state: Any, inputs: Any, **flags: Any) -> Any:
        seen.append((len(inputs), flags.get("train", False)))
        return apply(params, state, inputs, **flags)

    model = dataclasses.replace(model, apply=counted)
    compressed = Compressed.from_model(model)
    training = Training(epochs=2, batch_size=16)
    fitted = fit(compressed, model=model, data=DATA, training=training, seed=0, trained=head_only(compressed))
    assert len(fitted.history) == 2
    assert seen == [(4, False)]


WHOLE, WRONG = {"left": slice(0, LEFT), "right": slice(LEFT, None)}, slice(LEFT + 1, None)


@pytest.mark.parametrize("trained", [None, "fc"])
@pytest.mark.parametrize(
    ("branches", "head", "reason"),
    [
        (dict(reversed(WHOLE.items())), "head", r"features of inputs\[:, 6:\], inputs\[:, 0:6\], in this order, gives"),
        (WHOLE | {"right": WRONG}, "head", r"features of inputs\[:, 0:6\], inputs\[:, 7:\], in this order, gives"),
        ({"left": WHOLE["left"]}, "head", "the head of the stem can't be run: "),
        (WHOLE | {"right": slice(LEFT, LEFT)}, "head", r"the branch of inputs\[:, 6:6\] of the stem can't be run: "),
        (WHOLE, "fc1", r"gives outputs \(4, 12\) where the network gives \(4, 1\)"),
    ],
    ids=["order", "part", "missing", "empty", "head"],
)
def test_parts_that_do_not_make_up_the_network_are_refused(
    branches: dict[str, slice], head: str, reason: str, trained: str | None
) -> None:
    compressed = Compressed.from_model(model := qt.from_nnx(Forked(0.0, False, nnx.Rngs(0)), branches, head))
    with pytest.raises(QuantreeError, match=reason):
        beyond_stem(compressed, model, DATA, None if trained is None else head_only(compressed), None)


def test_features_are_computed_once_for_what_is_distinct() -> None:
    model, seen = forked(), []
    assert model.stem is not None

    def counted(apply: Any) -> Any:
        def run(params: Any, state: Any, inputs: Any, **flags: Any) -> Any:
            outputs, state = apply(params, state, inputs, **flags)
            jax.debug.callback(lambda x: seen.append(len(x)), inputs)
            return outputs, state

        return run

    branches = tuple((part, counted(apply)) for part, apply in model.stem.branches)
    model = dataclasses.replace(model, stem=dataclasses.replace(model.stem, branches=branches))
    compressed = Compressed.from_model(model)
    training = Training(epochs=3, batch_size=16)
    fit(compressed, model=model, data=DATA, training=training, seed=0, trained=head_only(compressed))
    jax.effects_barrier()
    assert len(seen) == 2 + 1 + 2  # both for the comparison; 7 left parts, 70 right ones, 64 at a time


@pytest.mark.slow
def test_an_interrupted_training_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    def cut_off(seed: int, epoch: int, batch_size: int) -> Iterator[Batch]:
        if epoch == 2:
            raise KeyboardInterrupt
        return iter(DATA.train(seed, epoch, batch_size))

    def tuned(data: Data, folder: Path | None) -> Compressed:
        model = forked()
        compressed = Compressed.from_model(model)
        return fit(
            compressed,
            model=model,
            data=data,
            training=Training(epochs=4, batch_size=16),
            seed=0,
            trained=head_only(compressed),
            folder=folder,
            checkpoint_seconds=0,
        ).compressed

    with pytest.raises(KeyboardInterrupt):
        tuned(dataclasses.replace(DATA, train=cut_off), tmp_path)
    for one, other in zip(*map(jax.tree.leaves, (tuned(DATA, tmp_path), tuned(DATA, None))), strict=True):
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


def test_a_score_is_that_of_the_whole_network() -> None:
    model = forked()
    scores = [
        evaluate(Compressed.from_model(model), each, DATA) for each in (model, dataclasses.replace(model, stem=None))
    ]
    assert scores[0].metric == pytest.approx(scores[1].metric, rel=1e-5) and scores[0].metric > 0.1


SHARED = [{"kind": "kmeans", "match": ["conv_left/kernel", "fc1/kernel"], "k": 4, "grouping": "net"}]


def doubled(key: jax.Array, inputs: jax.Array) -> jax.Array:
    del key
    return inputs


@pytest.mark.parametrize(
    ("model", "stages", "data", "trained"),
    [
        (forked(), [], DATA, "fc"),
        (forked(), [], DATA, "conv_left/bias"),
        (forked(), [], DATA, "embed"),
        (forked(), SHARED, DATA, "codebooks"),
        (forked(), [], dataclasses.replace(DATA, augment=doubled), "fc"),
        (forked(noise=0.5), [], DATA, "fc"),
        (forked(norm=True), [], DATA, "fc"),
    ],
    ids=["head", "convolution", "embedding", "shared codebook", "augmented", "noise", "statistics"],
)
def test_only_a_stem_that_stays_as_it_is_is_left_out(
    model: Model, stages: list[Any], data: Data, trained: str, request: pytest.FixtureRequest
) -> None:
    compressed = after(model, *stages)
    names = {name for name in float_fields(compressed) if trained in name}
    assert names
    found = beyond_stem(compressed, model, data, names.__contains__, None)
    assert (found is not None) == ("[head]" in request.node.name)


def test_nothing_to_measure_on_is_told() -> None:
    empty = dataclasses.replace(DATA, validation=lambda size: [])
    with pytest.raises(DataError, match="nothing to measure on"):
        fit(Compressed.from_model(forked()), model=forked(), data=empty, training=Training(epochs=1), seed=0)


@pytest.mark.parametrize(("leaf", "left_out"), [("fc1/kernel", True), ("conv_left/kernel", False)])
def test_a_transform_that_grows_may_not_touch_the_stem(leaf: str, left_out: bool) -> None:
    model = forked()
    compressed = Compressed.from_model(model)

    def update(compressed: Compressed, progress: float) -> Compressed:
        prune = {"kind": "prune", "match": leaf, "density": 1 - progress / 2}
        return qt.Recipe.from_config([prune]).run_stage(0, compressed, model=model, key=jax.random.key(0))

    found = beyond_stem(compressed, model, DATA, head_only(compressed), update)
    assert (found is not None) == left_out


@pytest.mark.slow
def test_a_teacher_sees_the_inputs_themselves() -> None:
    model = forked()
    tune = {"kind": "finetune", "match": "fc*", "epochs": 1, "batch_size": 16, "distill": 0.5, "learning_rate": 0.01}
    stages = [{"kind": "kmeans", "match": "conv*/kernel", "k": 2}, tune]
    one, other = (after(each, *stages) for each in (model, dataclasses.replace(model, stem=None)))
    for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True):
        np.testing.assert_array_equal(a, b)
