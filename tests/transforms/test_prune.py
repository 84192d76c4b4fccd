from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import quantree as qt
from quantree.encodings import Compressed, Pruned
from quantree.errors import ConfigError, LeafError
from quantree.recipe import Recipe
from quantree.stage import Context
from quantree.transforms import Prune

RNG = np.random.default_rng(0)
A, B = RNG.normal(size=(8, 10)).astype(np.float32), 3 * RNG.normal(size=(4, 5)).astype(np.float32)


def run(*stages: Any, net: Any = None) -> dict[str, np.ndarray]:
    """Decoded leaves after pruning."""
    model = qt.from_params({"a": A, "b": B, "bias": np.ones(3, np.float32)} if net is None else net)
    compressed = Recipe.from_config([{"kind": "prune", **stage} for stage in stages]).run(model, key=jax.random.key(0))
    decoded = {path: np.asarray(leaf) for path, leaf in compressed.decode().items()}
    for path, leaf in compressed.leaves.items():
        if isinstance(leaf, Pruned):
            np.testing.assert_array_equal(leaf.zeros(), decoded[path] == 0)
    return decoded


def largest(value: np.ndarray, count: int) -> np.ndarray:
    """`value` with all but its `count` largest magnitudes set to zero."""
    order = np.argsort(-np.abs(value).reshape(-1), kind="stable")
    kept = np.zeros(value.size, bool)
    kept[order[:count]] = True
    return np.where(kept.reshape(value.shape), value, 0)


@pytest.mark.parametrize(
    ("density", "of_a", "of_b"), [(0.5, 40, 10), (0.1, 8, 2), (0.001, 1, 1), (1, 80, 20), (0.33, 26, 7)]
)
def test_density_of_each_layer(density: float, of_a: int, of_b: int) -> None:
    pruned = run({"density": density})
    np.testing.assert_array_equal(pruned["a"], largest(A, of_a))
    np.testing.assert_array_equal(pruned["b"], largest(B, of_b))
    np.testing.assert_array_equal(pruned["bias"], np.ones(3))


def test_density_by_pattern_is_that_of_the_first_that_matches() -> None:
    pruned = run({"density": {"a": 0.5, "*": 0.1}, "match": ["a", "b"]})
    assert [np.count_nonzero(pruned[name]) for name in ("a", "b", "bias")] == [40, 2, 3]
    pruned = run({"density": {"*": 0.1, "a": 0.5}})
    assert [np.count_nonzero(pruned[name]) for name in ("a", "b")] == [8, 2]
    pruned = run({"density": {"b": 0.5}})
    assert [np.count_nonzero(pruned[name]) for name in ("a", "b")] == [80, 10]


def test_one_threshold_over_the_net() -> None:
    pruned = run({"density": 0.3, "scope": "global"})
    together = largest(np.concatenate([A.reshape(-1), B.reshape(-1)]), 30)
    np.testing.assert_array_equal(pruned["a"], together[:80].reshape(A.shape))
    np.testing.assert_array_equal(pruned["b"], together[80:].reshape(B.shape))
    pruned = run({"density": 0.1, "scope": "global"}, net={"a": A, "b": 1e3 * (1 + np.abs(B))})
    assert np.count_nonzero(pruned["a"]) == 1, "no layer loses everything"


@pytest.mark.parametrize("quality", [0.0, 0.5, 1.5, 100.0])
def test_quality_is_in_standard_deviations_of_the_leaf(quality: float) -> None:
    pruned = run({"quality": quality})
    for name, value in (("a", A), ("b", B)):
        threshold = min(quality * np.std(value.astype(np.float64)), np.abs(value).max())
        np.testing.assert_array_equal(pruned[name], np.where(np.abs(value) >= threshold, value, 0))


def lamp(value: np.ndarray) -> np.ndarray:
    """Lee et al. 2021, eq. 3, as it is written."""
    squares = value.astype(np.float64) ** 2
    return squares / np.asarray([[squares[squares >= each].sum() for each in row] for row in squares])


def test_lamp() -> None:
    pruned = run({"density": 0.25, "scope": "global", "score": "lamp"})
    scores = np.concatenate([lamp(A).reshape(-1), lamp(B).reshape(-1)])
    threshold = np.sort(scores)[-25]
    for name, value in (("a", A), ("b", B)):
        np.testing.assert_array_equal(pruned[name], np.where(lamp(value) >= threshold, value, 0))
    within = run({"density": 0.25, "score": "lamp"})
    np.testing.assert_array_equal(within["a"], largest(A, 20))  # within a leaf it is the order of magnitudes


def test_ties_with_the_threshold_are_kept_and_zeros_are_not() -> None:
    value = np.asarray([[1, -1, 1, 0], [0, 0, 2, 0]], np.float32)
    np.testing.assert_array_equal(run({"density": 0.25}, net={"a": value})["a"], value)
    np.testing.assert_array_equal(run({"density": 0.125}, net={"a": value})["a"], largest(value, 1))
    np.testing.assert_array_equal(run({"density": 1}, net={"a": value})["a"], value)
    np.testing.assert_array_equal(run({"density": 0.5}, net={"a": np.zeros((2, 2), np.float32)})["a"], np.zeros((2, 2)))
    np.testing.assert_array_equal(run({"density": 0.5, "match": "a"}, net={"a": np.float32(3)})["a"], 3)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("rule", [{"density": 0.4}, {"quality": 1.0}, {"density": 0.4, "score": "lamp"}])
def test_16_bit_leaves_stay_what_they_are(dtype: str, rule: Any) -> None:
    leaf = jnp.asarray(A).astype(dtype)
    wanted = run(rule, net={"a": np.asarray(leaf.astype(jnp.float32))})["a"]
    found = run(rule, net={"a": leaf})["a"]
    assert found.dtype == leaf.dtype
    np.testing.assert_array_equal(found.astype(np.float32), wanted)


def test_pruning_what_is_pruned_never_brings_a_weight_back() -> None:
    np.testing.assert_array_equal(run({"density": 0.5}, {"density": 0.2})["a"], largest(A, 16))
    np.testing.assert_array_equal(run({"density": 0.2}, {"density": 0.5})["a"], largest(A, 16))


@given(
    st.integers(0, 2**32 - 1), st.lists(st.floats(0, 1), min_size=2, max_size=6), st.sampled_from(["layer", "global"])
)
def test_a_gradual_mask_only_shrinks_and_ends_at_the_density(seed: int, progress: list[float], scope: str) -> None:
    rng = np.random.default_rng(seed)
    model = qt.from_params({"a": A, "b": B})
    context, compressed = Context(model, jax.random.key(0)), Compressed.from_model(model)
    stage = Prune.model_validate({"density": 0.2, "scope": scope})
    before = {path: np.ones(leaf.shape, bool) for path, leaf in compressed.leaves.items()}
    for now in [*sorted(progress), 1.0]:
        drift = {
            path: Pruned.of(leaf.decode({}) + rng.normal(size=leaf.shape).astype(np.float32), jnp.asarray(before[path]))
            for path, leaf in compressed.leaves.items()
        }  # as training would
        compressed = stage.at(now).run(compressed.replace(drift), context)
        after = {path: ~np.asarray(leaf.zeros()) for path, leaf in compressed.leaves.items()}
        assert all((after[path] <= before[path]).all() for path in after)
        kept = sum(mask.sum() for mask in after.values())
        wanted = (0.2 + 0.8 * (1 - now) ** 3) * 100  # Zhu and Gupta, eq. 1
        assert kept <= wanted + 2
        before = after
    sizes = [int(mask.sum()) for mask in before.values()]
    assert sizes == [16, 4] if scope == "layer" else sum(sizes) == 20


def test_quality_grows_too() -> None:
    stage = Prune(quality={"a": 1.0})
    assert stage.at(0.0).quality == {"a": 0.0} and stage.at(1.0).quality == {"a": 1.0}
    assert stage.at(0.5).quality == {"a": pytest.approx(0.875)}
    assert stage.quality == {"a": 1.0}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, r"\[0\].density: give either density or quality"),
        ({"density": 0.5, "quality": 1.0}, r"\[0\].density: give either density or quality"),
        ({"density": {"a": 0.5}, "scope": "global"}, r"\[0\].scope: a global threshold needs one number"),
        ({"quality": 0.5, "scope": "global"}, r"\[0\].scope: a global threshold needs one number"),
        ({"density": 0}, r"\[0\].density: input should be greater than 0, not 0"),
        ({"density": {"a": 1.5}}, r"\[0\].density.a: input should be less than or equal to 1, not 1.5"),
        ({"density": {"c*": 0.5}}, r"pattern 'c\*' matches no leaf"),
        ({"density": {"bias": 0.5}}, r"pattern 'bias' matches no leaf"),
    ],
)
def test_rules_that_make_no_sense_are_told(settings: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        run(settings)


@pytest.mark.parametrize(
    ("leaf", "told"),
    [
        (np.full((2, 2), np.nan, np.float32), "a: 4 of 4 weights are NaN or infinite"),
        (np.zeros((2, 0), np.float32), r"a: an empty tensor of shape \(2, 0\) has nothing to prune"),
        (np.ones((2, 2), np.int32), "a: only plain float leaves can be pruned, not raw int32"),
    ],
)
def test_leaves_that_can_not_be_pruned_are_named(leaf: np.ndarray, told: str) -> None:
    with pytest.raises(LeafError, match=rf"stage 0 \(prune\): {told}"):
        run({"density": 0.5, "match": "a"}, net={"a": leaf})


def test_pruning_after_quantizing_is_an_error_that_says_what_to_do() -> None:
    recipe = Recipe.from_config([{"kind": "kmeans", "k": 2}, {"kind": "prune", "density": 0.5}])
    with pytest.raises(ConfigError, match=r"stage 1 \(prune\): a: an earlier stage quantizes it; prune, then quantize"):
        recipe.run(qt.from_params({"a": A}), key=jax.random.key(0))


def blocks_of(value: np.ndarray, d: int) -> np.ndarray:
    """Rows along the inputs cut in pieces of d, outputs first, [m, d]; what is missing of the last one is NaN."""
    rows = value.reshape(-1, value.shape[-1]).T if value.ndim < 4 else np.moveaxis(value, (-1, -2), (0, 1))
    rows = rows.reshape(value.shape[-1], -1).astype(np.float64)
    short = -rows.shape[1] % d
    return np.pad(rows, ((0, 0), (0, short)), constant_values=np.nan).reshape(-1, d)


@pytest.mark.parametrize("score", ["magnitude", "lamp"])
@pytest.mark.parametrize(
    ("shape", "blocking", "d"),
    [
        ((10, 6), {"kind": "sub_vectors", "d": 4}, 4),
        ((3, 3, 4, 5), {"kind": "kernel_slices", "slices": 1}, 9),
        ((1, 1, 8, 5), {"kind": "kernel_slices", "d": 4}, 4),
    ],
)
def test_blocks_are_kept_or_pruned_whole(shape: tuple[int, ...], blocking: Any, d: int, score: str) -> None:
    value = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    kept = run({"density": 0.4, "blocking": blocking, "score": score}, net={"a": value})["a"] != 0
    blocks = np.nanmean(blocks_of(value, d) ** 2, axis=1)
    held = np.nanmean(blocks_of(kept, d), axis=1)
    assert set(held) == {0, 1}
    np.testing.assert_array_equal(held == 1, blocks > blocks[held == 0].max())
    assert abs(kept.mean() - 0.4) < d / value.size + 0.02


def test_blocks_of_all_leaves_share_a_global_threshold() -> None:
    net = {"a": A, "k": np.random.default_rng(2).normal(size=(3, 3, 2, 4)).astype(np.float32) / 2}
    pruned = run({"density": 0.5, "scope": "global", "blocking": {"kind": "kernel_slices", "d": 2}}, net=net)
    means = {"a": np.nanmean(blocks_of(A, 2) ** 2, axis=1), "k": np.nanmean(blocks_of(net["k"], 9) ** 2, axis=1)}
    held = {"a": blocks_of(pruned["a"] != 0, 2)[:, 0] == 1, "k": blocks_of(pruned["k"] != 0, 9)[:, 0] == 1}
    least = min(means[name][held[name]].min() for name in net)
    assert all(means[name][~held[name]].max() < least for name in net)
    assert sum(np.count_nonzero(value) for value in pruned.values() if value.ndim > 1) >= 0.5 * 152


def test_pruned_blocks_are_one_centroid_for_a_quantizer_that_cuts_alike() -> None:
    blocking = {"kind": "sub_vectors", "d": 2}
    stages = [
        {"kind": "prune", "density": 0.4, "blocking": blocking},
        {"kind": "quantize", "blocking": blocking, "learner": {"kind": "kmeans", "k": 4}, "release_mask": True},
    ]
    coded = Recipe.from_config(stages).run(qt.from_params({"a": A}), key=jax.random.key(0))
    value = np.asarray(coded.decode()["a"])
    assert np.mean(np.abs(blocks_of(value, 2)).max(axis=1) < 0.2) >= 0.55


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_squares_of_blocks_neither_vanish_nor_overflow(scale: float) -> None:
    rule = {"density": 0.5, "blocking": {"kind": "sub_vectors", "d": 2}}
    found = run(rule, net={"a": A * np.float32(scale)})["a"]
    np.testing.assert_array_equal(found != 0, run(rule, net={"a": A})["a"] != 0)
