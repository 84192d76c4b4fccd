"""`kmeans_1d` against exhaustive search and scikit-learn."""

import itertools
from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.cluster

from quantree.clustering import kmeans_1d
from quantree.errors import LeafError


def least_inertia(x: np.ndarray, k: int, weights: np.ndarray) -> float:
    """The global optimum, by looking at every way to cut the sorted values into at most k intervals."""
    order = np.argsort(x)
    x, weights, best = x[order].astype(np.float64), weights[order], np.inf
    for cuts in itertools.combinations(range(1, len(x)), min(k, len(x)) - 1):
        parts = itertools.pairwise((0, *cuts, len(x)))
        spread = ((x[a:b] - np.average(x[a:b], weights=weights[a:b])) ** 2 @ weights[a:b] for a, b in parts)
        best = min(best, sum(spread))
    return float(best)


@hypothesis.given(
    x=st.lists(st.one_of(st.integers(-4, 4).map(float), st.floats(-10, 10, width=32)), min_size=1, max_size=9),
    k=st.integers(1, 11),
    weighted=st.booleans(),
    exact=st.booleans(),
)
def test_finds_the_global_optimum_of_few_values(x: list[float], k: int, weighted: bool, exact: bool) -> None:
    values = np.array(x, np.float32)
    weights = np.random.default_rng(len(x)).uniform(0.2, 3, len(x)) if weighted else np.ones(len(x))
    result = kmeans_1d(values, k, weights=weights if weighted else None, exact=exact)
    np.testing.assert_allclose(result.inertia, least_inertia(values, k, weights), rtol=1e-4, atol=1e-8)
    assert np.all(np.diff(result.centroids) >= 0)
    assert result.counts.sum() == len(x)
    distinct = len(np.unique(values))
    if k >= distinct:
        np.testing.assert_array_equal(
            result.centroids, np.append(np.unique(values), np.full(k - distinct, values.max()))
        )
        assert np.all(np.asarray(result.counts)[distinct:] == 0)


@pytest.mark.parametrize("k", [2, 16, 64])
@pytest.mark.parametrize("shape", ["laplace", "pruned", "outliers"])
def test_is_never_worse_than_scikit_learn(rng: np.random.Generator, shape: str, k: int) -> None:
    x = rng.laplace(size=6000).astype(np.float32) * np.float32(0.05)
    if shape == "pruned":
        x = x[np.abs(x) > 0.08]
    elif shape == "outliers":
        x[:3] *= 1000
    reference: Any = sklearn.cluster.KMeans(k, random_state=0).fit(x[:, None])
    theirs = reference.inertia_
    fast, exact = kmeans_1d(x, k), kmeans_1d(x, k, exact=True)
    assert exact.inertia <= fast.inertia * (1 + 1e-5)
    assert fast.inertia <= theirs * (1 + 1e-5)
    assert fast.inertia <= exact.inertia * 1.02
    codes = np.argmin(np.abs(x[:, None].astype(np.float64) - np.asarray(fast.centroids)), axis=1)
    np.testing.assert_array_equal(fast.codes, codes)
    np.testing.assert_allclose(fast.inertia, np.sum((x - np.asarray(fast.centroids)[codes]) ** 2.0), rtol=1e-4)


def test_masked_values_and_values_without_weight(rng: np.random.Generator) -> None:
    x, mask = rng.normal(size=500).astype(np.float32), rng.random(500) < 0.5
    filled = np.where(mask, x, np.float32(np.nan))
    masked, alone = kmeans_1d(filled, 8, mask=mask), kmeans_1d(x[mask], 8)
    np.testing.assert_array_equal(masked.centroids, alone.centroids)
    np.testing.assert_array_equal(np.asarray(masked.codes)[mask], alone.codes)
    assert np.all(np.asarray(masked.codes)[~mask] == 0) and masked.counts.sum() == mask.sum()
    np.testing.assert_allclose(masked.inertia, alone.inertia)
    weightless = kmeans_1d(x, 8, weights=mask)
    np.testing.assert_allclose(weightless.centroids, alone.centroids, rtol=1e-6)
    assert weightless.counts.sum() == 500
    np.testing.assert_array_equal(kmeans_1d(x, 3, mask=np.zeros(500, bool)).centroids, 0)


@hypothesis.given(scale=st.sampled_from([1e-30, 1e-6, 1e6, 1e30]), factor=st.sampled_from([1e-20, 4.0, 1e20]))
def test_scales_of_values_and_weights(scale: float, factor: float) -> None:
    rng = np.random.default_rng(1)
    x, weights = rng.normal(size=3000).astype(np.float32), rng.uniform(0.1, 1, 3000)
    one = kmeans_1d(x, 7, weights=weights)
    two = kmeans_1d(x * np.float32(scale), 7, weights=weights * factor)
    np.testing.assert_allclose(two.centroids / np.float32(scale), one.centroids, rtol=1e-3, atol=1e-4)


def test_types_of_the_result(rng: np.random.Generator) -> None:
    result = kmeans_1d(jnp.asarray(rng.normal(size=64), jnp.bfloat16), 4)
    assert result.centroids.dtype == result.inertia.dtype == jnp.float32
    assert result.codes.dtype == result.counts.dtype == result.steps.dtype == jnp.int32
    assert result.converged and result.repaired == 0


def test_wrong_arguments_are_told() -> None:
    with pytest.raises(LeafError, match="k is 0"):
        kmeans_1d(np.ones(3), 0)
    with pytest.raises(LeafError, match=r"expected \[n\]"):
        kmeans_1d(np.ones((3, 1)), 2)
    with pytest.raises(LeafError, match="at least one"):
        kmeans_1d(np.ones(0), 2)
    with pytest.raises(LeafError, match="NaN"):
        kmeans_1d(np.array([1, np.nan]), 2)
    with pytest.raises(LeafError, match="negative"):
        kmeans_1d(np.ones(2), 2, weights=[-1, 1])
    with pytest.raises(LeafError, match="mask has shape"):
        kmeans_1d(np.ones(2), 2, mask=[True])
