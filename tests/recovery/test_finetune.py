"""The stage: what it trains, and what it must not touch."""

import dataclasses
import itertools
from typing import Any

import jax
import numpy as np
import pytest

import quantree as qt
from quantree.encodings import Coded, Compressed, float_fields
from quantree.errors import ConfigError, DataError, LeafError, QuantreeError
from quantree.model import Model
from quantree.recipe import Recipe
from quantree.recovery import evaluate
from tests.nets import digits, mlp

KEY = jax.random.key(0)
TUNE = {"kind": "finetune", "epochs": 2, "batch_size": 64, "learning_rate": 0.003}


def run(model: Model, *stages: Any, data: Any = None) -> list[Compressed]:
    """The model after each stage, the uncompressed one first."""
    steps = [Compressed.from_model(model)]
    recipe = Recipe.from_config(list(stages))
    recipe.run(
        model, key=KEY, data=data or digits(), on_stage=lambda index, stage, before, after, seconds: steps.append(after)
    )
    return steps


def loss(compressed: Compressed, model: Model) -> float:
    return evaluate(compressed, model, digits()).loss


def test_a_tuned_codebook_beats_the_untuned_one(baseline: Model) -> None:
    _, coded, tuned = run(
        baseline, {"kind": "kmeans", "k": 4}, {**TUNE, "match": "codebooks/*", "epochs": 4, "learning_rate": 0.02}
    )
    assert loss(tuned, baseline) < 0.9 * loss(coded, baseline)
    for path, leaf in coded.leaves.items():
        now = tuned.leaves[path]
        if isinstance(leaf, Coded):
            assert isinstance(now, Coded)
            np.testing.assert_array_equal(leaf.codes, now.codes)
        else:
            np.testing.assert_array_equal(leaf.decode({}), now.decode({}))
    for name, book in coded.codebooks.items():
        assert not np.array_equal(book.table(), tuned.codebooks[name].table())


def test_an_epoch_has_no_more_steps_than_are_asked_for(baseline: Model) -> None:
    def weights(data: Any = None, **settings: Any) -> np.ndarray:
        stage = {**TUNE, "batch_size": 128, "keep": "last", **settings}
        return np.asarray(run(baseline, stage, data=data)[-1].decode()["fc1"]["kernel"])

    whole = digits()
    short = dataclasses.replace(whole, train=lambda *given: itertools.islice(whole.train(*given), 2), examples=256)
    np.testing.assert_array_equal(weights(steps=2), weights(short))
    np.testing.assert_array_equal(weights(steps=5), weights())
    assert not np.array_equal(weights(steps=2), weights())


def test_the_scale_of_uniform_levels_is_tuned_too(baseline: Model) -> None:
    _, coded, tuned = run(baseline, {"kind": "uniform", "k": 4, "grouping": "net"}, {**TUNE, "match": "codebooks/*"})
    assert loss(tuned, baseline) < loss(coded, baseline)
    names = {"codebooks/net/scale", "codebooks/net/offset"}
    before, after = float_fields(coded), float_fields(tuned)
    assert {name for name in after if not np.array_equal(before[name], after[name])} == names


def test_zeros_and_codes_survive_every_later_stage(baseline: Model) -> None:
    steps = run(
        baseline,
        {"kind": "prune", "density": {"fc1/*": 0.2, "fc2/*": 0.5}},
        TUNE,
        {"kind": "kmeans", "k": 4, "match": "fc2/kernel"},
        TUNE,
        {"kind": "product", "k": 8, "d": 2, "match": "fc1/kernel"},
        {**TUNE, "distill": 0.5},
        {"kind": "cast"},
    )
    pruned = steps[1].decode()
    for later in steps[2:]:
        for layer, density in (("fc1", 0.2), ("fc2", 0.5)):
            weights = np.asarray(later.decode()[layer]["kernel"])
            assert (weights[np.asarray(pruned[layer]["kernel"]) == 0] == 0).all()
            assert np.count_nonzero(weights) / weights.size <= density + 0.01
    values = np.unique(steps[-1].decode()["fc2"]["kernel"])
    assert len(values) <= 5 and 0 in values
    for path in ("fc1/kernel", "fc2/kernel"):
        last, first = steps[-1].leaves[path], steps[5 if path == "fc1/kernel" else 3].leaves[path]
        assert isinstance(last, Coded) and isinstance(first, Coded)
        np.testing.assert_array_equal(last.codes, first.codes)


def test_gradual_pruning_ends_at_the_density_and_beats_pruning_at_once(baseline: Model) -> None:
    prune = {"kind": "prune", "density": 0.1}
    gradual = {"stage": prune, "start": 0.1, "stop": 0.6, "every": 4}
    tune = {**TUNE, "epochs": 6, "learning_rate": 0.01}
    _, pruned, _ = run(baseline, prune, TUNE)
    _, grown = run(baseline, {**tune, "gradual": gradual})
    for path, kept in (("fc1/kernel", 77), ("fc2/kernel", 12)):
        zeros = grown.leaves[path].zeros()
        assert zeros is not None and np.count_nonzero(~zeros) == kept
    assert loss(grown, baseline) < loss(pruned, baseline)


def test_a_ramp_that_no_epoch_outlasts_is_an_error(baseline: Model) -> None:
    gradual = {"stage": {"kind": "prune", "density": 0.1}, "stop": 1.0}
    (_, last) = run(baseline, {**TUNE, "gradual": gradual})
    assert np.count_nonzero(last.decode()["fc1"]["kernel"]) == 77


@pytest.mark.parametrize(
    ("gradual", "told"),
    [
        ({"stage": {"kind": "kmeans", "k": 2}}, r"\[0\].gradual.stage: stage 'kmeans' can't be applied gradually"),
        ({"stage": "cast"}, r"\[0\].gradual.stage: stage 'cast' can't be applied gradually"),
        ({"stage": {"kind": "prune", "density": 0.5}, "start": 0.7}, r"\[0\].gradual.stop: stop must be above start"),
        ({"stage": {"kind": "prune", "density": 5}}, r"\[0\].gradual.stage.density: "),
        ({"stage": {"kind": "prune", "density": 0.5, "match": "fc9"}}, "pattern 'fc9' matches no leaf"),
    ],
)
def test_ramps_that_make_no_sense_are_told(gradual: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        run(mlp(), {**TUNE, "gradual": gradual})


def test_what_is_missing_is_told() -> None:
    with pytest.raises(DataError, match=r"stage 0 \(finetune\) learns from data: give `data`"):
        Recipe.from_config([TUNE]).run(mlp(), key=KEY)
    with pytest.raises(QuantreeError, match="has no `apply`"):
        Recipe.from_config([TUNE]).run(qt.from_params(mlp().params), key=KEY, data=digits())
    with pytest.raises(ConfigError, match=r"stage 0 \(finetune\): pattern 'codebooks/\*' matches no leaf"):
        run(mlp(), {**TUNE, "match": "codebooks/*"})
    with pytest.raises(ConfigError, match="prune, then quantize"):
        run(mlp(), {"kind": "uniform", "k": 2}, {**TUNE, "gradual": {"stage": {"kind": "prune", "density": 0.5}}})


def test_fields_of_sixteen_bits_are_trained_in_more(baseline: Model) -> None:
    before = ({"kind": "kmeans", "k": 4}, {"kind": "cast"})
    *_, coded, tuned = run(baseline, *before, {**TUNE, "epochs": 4, "learning_rate": 0.01})
    assert loss(tuned, baseline) < 0.9 * loss(coded, baseline)
    assert {field.dtype.name for field in float_fields(tuned).values()} == {"float16"}
    wild = {**TUNE, "learning_rate": 1e6, "schedule": "constant", "keep": "last", "clip": 1.0}
    with pytest.raises(LeafError, match="a value has grown too large for float16; put `cast` after the training"):
        run(baseline, *before, wild)
