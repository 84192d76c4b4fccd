"""Methods of papers as one stage: what they stand for."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import quantree as qt
from experiments.config import load_experiment
from quantree.encodings import Coded
from quantree.errors import ConfigError, DataError
from quantree.recipe import Recipe
from tests.nets import digits, mlp

KEY = jax.random.key(0)
QUICK = {"density": 0.3, "k": 6, "epochs": 2, "tune_epochs": 1, "batch_size": 64}


def recipe(**settings: Any) -> Recipe:
    return Recipe.from_config([{"kind": "deep_compression", **settings}])


def test_deep_compression_stands_for_the_stages_of_the_shipped_config() -> None:
    # So the published rows of docs/results.md are what it gives, and trials of both are one and the same.
    config = Path(__file__).parents[1] / "configs" / "deep_compression_lenet300.yaml"
    points = [point for point in load_experiment(config).points if point.method == "deep compression"]
    assert len(points) == 8
    for point in points:
        first, weights = point.settings["stages"][:2]
        preset = recipe(density=first["gradual"]["stage"]["density"], k=weights["k"])
        assert preset.expanded == point.recipe.expanded


def test_deep_compression_prunes_shares_tunes_and_casts() -> None:
    compressed = recipe(**QUICK).run(mlp(), key=KEY, data=digits())
    decoded = compressed.decode()
    kernels = [np.asarray(decoded[layer]["kernel"]) for layer in ("fc1", "fc2")]
    kept = sum(np.count_nonzero(kernel) for kernel in kernels)
    assert abs(kept - 0.3 * sum(kernel.size for kernel in kernels)) <= 1
    assert all(len(np.unique(kernel[kernel != 0])) <= 6 for kernel in kernels)
    assert {
        leaf.codebook for path, leaf in compressed.leaves.items() if isinstance(leaf, Coded) and "bias" in path
    } == {"vector"}
    assert all(book.table().dtype == np.float16 for book in compressed.codebooks.values())


def test_settings_of_deep_compression_reach_its_stages() -> None:
    changed = {"match": "fc1/*", "scope": "layer", "learning_rate": 1e-3, "l2": 0.0, "stop": 0.5}
    retrain, weights, tune, cast = recipe(**QUICK, **changed, bias_k=None, tune_learning_rate=2e-3).expanded
    told = retrain.to_config()
    assert (told["epochs"], told["batch_size"], told["learning_rate"], told["l2"]) == (2, 64, 1e-3, 0.0)
    assert told["gradual"]["stop"] == 0.5
    assert told["gradual"]["stage"]["scope"] == "layer" and told["gradual"]["stage"]["match"] == ["fc1/*"]
    assert weights.to_config()["match"] == ["fc1/*"] and weights.to_config()["learner"]["k"] == 6
    assert (tune.to_config()["epochs"], tune.to_config()["learning_rate"]) == (1, 2e-3)
    assert cast.name == "cast"


@pytest.mark.parametrize("before", [[], [{"kind": "kmeans", "k": 4, "match": "fc1/kernel"}]])
def test_without_data_it_is_refused_before_any_work(before: list[Any]) -> None:
    stages = Recipe.from_config([*before, {"kind": "deep_compression", **QUICK, "match": "fc2/kernel"}])
    started: list[Any] = []
    with pytest.raises(DataError, match=rf"stage {len(before)} \(deep_compression\) learns from data: give"):
        stages.run(mlp(), key=KEY, on_stage=lambda *step: started.append(step))
    assert started == []


def test_what_can_not_fit_is_told_before_any_work() -> None:
    bare = qt.from_params({"a": np.ones((4, 4), np.float32)})
    with pytest.raises(ConfigError, match=r"stage 0 \(deep_compression\): pattern '\*/bias' matches no leaf"):
        recipe(**QUICK).check(bare)
    recipe(**QUICK, bias_k=None).check(bare)
    with pytest.raises(ConfigError, match="pattern 'conv' matches no leaf"):
        recipe(**QUICK, match="conv").check(mlp())


@pytest.mark.slow
def test_pqf_orders_channels_quantizes_by_the_papers_rules_and_tunes() -> None:
    preset = Recipe.from_config([{"kind": "pqf", "k": 8, "epochs": 1, "steps": 5, "last": "fc2/kernel", "last_k": 4}])
    kinds = [stage.name for stage in preset.expanded]
    assert kinds == ["permute", "quantize", "quantize", "finetune", "cast"]
    stages = []
    compressed = preset.run(
        mlp(), key=KEY, data=digits(), on_stage=lambda index, stage, before, after, seconds: stages.append(after)
    )
    first, last = (compressed.leaves[path] for path in ("fc1/kernel", "fc2/kernel"))
    assert isinstance(first, Coded) and isinstance(last, Coded)
    # 64 x 12 weights are 192 sub-vectors of four, 12 x 10 are 30: at most seven centroids, so four.
    assert compressed.codebooks[first.codebook].table().shape == (1, 8, 4)
    assert compressed.codebooks[last.codebook].table().shape == (1, 4, 4)
    assert compressed.codebooks[first.codebook].table().dtype == np.float16
    before, after = (np.asarray(params["fc1"]["kernel"]) for params in (mlp().params, stages[0].decode()))
    assert not np.array_equal(before, after)
    np.testing.assert_array_equal(np.sort(before, axis=1), np.sort(after, axis=1))
