"""The stage that trains through soft codes: what it wins, what it leaves, what it must not touch."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantree.encodings import Coded, Compressed, Table
from quantree.errors import ConfigError, DataError
from quantree.model import Model
from quantree.recipe import Recipe
from quantree.recovery import evaluate, fit
from quantree.storage.file import from_bytes, to_bytes
from tests.nets import digits, mlp

KEY = jax.random.key(0)
DKM = {"kind": "dkm", "k": 3, "epochs": 6, "batch_size": 64, "learning_rate": 0.01}


def run(model: Model, *stages: Any) -> list[Compressed]:
    """The model after each stage."""
    steps: list[Compressed] = []
    Recipe.from_config(list(stages)).run(
        model, key=KEY, data=digits(), on_stage=lambda index, stage, before, after, seconds: steps.append(after)
    )
    return steps


@pytest.mark.slow
def test_it_is_no_worse_than_tuning_the_centroids_of_k_means(baseline: Model) -> None:
    tune = {name: value for name, value in DKM.items() if name != "k"} | {"kind": "finetune"}
    _, tuned = run(baseline, {"kind": "kmeans", "k": 3}, tune)
    (found,) = run(baseline, DKM)
    scores = [evaluate(each, baseline, digits()) for each in (found, tuned)]
    assert scores[0].metric >= scores[1].metric


def test_it_leaves_what_quantize_leaves(baseline: Model) -> None:
    (coded,) = run(baseline, {"kind": "kmeans", "k": 3})
    (found,) = run(baseline, {**DKM, "epochs": 1, "coder": "fixed"})
    assert coded.codebooks.keys() == found.codebooks.keys()
    moved = 0
    for path, leaf in coded.leaves.items():
        now = found.leaves[path]
        assert type(now) is type(leaf) and now.shape == leaf.shape and now.dtype == leaf.dtype
        if isinstance(leaf, Coded) and isinstance(now, Coded):
            book = found.codebooks[path]
            assert isinstance(book, Table) and book.table().shape == coded.codebooks[path].table().shape
            assert (now.codes.dtype, now.blocking, now.zero) == (leaf.codes.dtype, leaf.blocking, False)
            assert now.coder == "fixed"
            moved += int(np.count_nonzero(now.codes != leaf.codes))
    assert moved > 0  # weights have changed their clusters
    loaded = from_bytes(to_bytes(found))
    jax.tree.map(np.testing.assert_array_equal, loaded, found)


def test_what_is_measured_in_training_is_what_is_left(baseline: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = []

    def spy(*args: Any, **kwargs: Any) -> Any:
        scores.append(fit(*args, **kwargs))
        return scores[-1]

    monkeypatch.setattr("quantree.recovery.finetune.fit", spy)
    (found,) = run(baseline, {**DKM, "epochs": 3})
    assert evaluate(found, baseline, digits()) == scores[0].score


@pytest.mark.parametrize(
    "blocking", [{"kind": "scalar"}, pytest.param({"kind": "sub_vectors", "d": 3}, marks=pytest.mark.slow)]
)
def test_pruned_weights_stay_zero_and_later_stages_go_on(baseline: Model, blocking: Any) -> None:
    pruned, found, tuned, _ = run(
        baseline,
        {"kind": "prune", "density": {"fc1/*": 0.2, "fc2/*": 0.5}},
        {**DKM, "epochs": 1, "blocking": blocking},
        {"kind": "finetune", "epochs": 1},
        {"kind": "cast"},
    )
    for path in ("fc1/kernel", "fc2/kernel"):
        zeros, leaf, later = pruned.leaves[path].zeros(), found.leaves[path], tuned.leaves[path]
        assert zeros is not None and not np.asarray(leaf.decode(found.codebooks))[zeros].any()
        assert isinstance(leaf, Coded) and isinstance(later, Coded)
        assert leaf.zero == (blocking["kind"] == "scalar") and (leaf.mask is None) == leaf.zero
        np.testing.assert_array_equal(leaf.codes, later.codes)


def test_leaves_that_do_not_match_and_codes_of_earlier_stages_stay(baseline: Model) -> None:
    coded, found = run(
        baseline, {"kind": "kmeans", "k": 4, "match": "fc2/*"}, {**DKM, "epochs": 1, "match": "fc1/kernel"}
    )
    old, new = coded.leaves["fc2/kernel"], found.leaves["fc2/kernel"]
    assert isinstance(old, Coded) and isinstance(new, Coded)
    np.testing.assert_array_equal(old.codes, new.codes)
    assert not np.array_equal(coded.codebooks["fc2/kernel"].table(), found.codebooks["fc2/kernel"].table())
    assert len(np.unique(found.decode()["fc1"]["kernel"])) == 3


@pytest.mark.slow
def test_a_leaf_with_fewer_values_than_k_and_one_of_sixteen_bits(baseline: Model) -> None:
    params = {name: dict(layer) for name, layer in baseline.params.items()}
    params["fc2"]["kernel"] = jnp.sign(params["fc2"]["kernel"])
    params["fc1"]["bias"] = params["fc1"]["bias"].astype(jnp.float16)
    model = Model(params, {}, baseline.apply)
    with jax.numpy_dtype_promotion("standard"):
        (found,) = run(model, {**DKM, "k": 5, "epochs": 1})
    assert found.codebooks["fc2/kernel"].size <= 2
    assert found.leaves["fc1/bias"].dtype == np.float16
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found.decode()))


def test_what_can_not_be_is_told(baseline: Model) -> None:
    with pytest.raises(DataError, match=r"stage 0 \(dkm\) learns from data"):
        Recipe.from_config([DKM]).run(mlp(), key=KEY)
    with pytest.raises(ConfigError, match="every leaf that it matches has been quantized"):
        run(baseline, {"kind": "uniform", "k": 2}, DKM)
    with pytest.raises(ConfigError, match="temperature"):
        Recipe.from_config([{**DKM, "temperature": 0}])
    assert Recipe.from_config([DKM]).stages[0].chooses == "keep"
    assert Recipe.from_config([{**DKM, "keep": "last"}]).stages[0].chooses is None
