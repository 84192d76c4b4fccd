"""`kmeans_1d` against exhaustive search, kmeans1d and scikit-learn."""

import itertools
from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import kmeans1d
import numpy as np
import pytest
import sklearn.cluster

from quantree.clustering import KMeans, kmeans_1d
from quantree.clustering.intervals import scalars
from quantree.clustering.scalar import _lloyd  # pyright: ignore[reportPrivateUsage]
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


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_the_exact_optimum_of_every_choice_of_a_few_values(n: int) -> None:
    for values in itertools.combinations_with_replacement((0.0, 1.0, 3.0, 7.0), n):
        x = np.array(values[::-1], np.float32)
        for weights in (np.ones(n), np.arange(1.0, n + 1)):
            for k in range(1, n + 2):
                found = kmeans_1d(x, k, weights=weights, exact=True).inertia
                np.testing.assert_allclose(found, least_inertia(x, k, weights), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("k", [1, 2, 7, 64, 300])
@pytest.mark.parametrize("shape", ["normal", "steps", "outliers"])
def test_the_exact_optimum_is_that_of_kmeans1d(rng: np.random.Generator, shape: str, k: int) -> None:
    x, weights = rng.normal(size=1000), rng.integers(0, 4, size=1000)
    if shape == "steps":
        x = np.round(x * 20)
    elif shape == "outliers":
        x[:3] *= 1e4
    x = x.astype(np.float32)
    for given, each in ((None, x), (weights, np.repeat(x, weights))):
        theirs = kmeans1d.cluster(each.tolist(), k)
        least = np.sum((each - np.array(theirs.centroids)[np.array(theirs.clusters)]) ** 2)
        ours = kmeans_1d(x, k, weights=given, exact=True)
        np.testing.assert_allclose(ours.inertia, least, rtol=1e-5, atol=1e-9)


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


def test_is_never_above_fifty_iterations_from_quantiles(rng: np.random.Generator) -> None:
    x = rng.normal(size=50_000).astype(np.float32)
    start = np.quantile(x, (np.arange(16) + 0.5) / 16).astype(np.float32)[:, None]
    settings: dict[str, Any] = {"init": start, "n_init": 1, "max_iter": 50, "tol": 0}
    reference: Any = sklearn.cluster.KMeans(16, **settings).fit(x[:, None].astype(np.float64))
    assert kmeans_1d(x, 16).inertia <= reference.inertia_


@pytest.mark.parametrize("weighted", [False, True])
def test_many_values_get_the_nearest_centroid_and_every_digit_of_the_inertia(
    rng: np.random.Generator, weighted: bool
) -> None:
    x = rng.normal(size=300_000).astype(np.float32)
    x[:4] = [3e6, -3e6, 0.0, -0.0]  # with two clusters far away, prefix sums of squares would have no digit left
    weights = rng.uniform(0.1, 3, x.size) if weighted else np.ones(x.size)
    mask = rng.random(x.size) < 0.9 if weighted else np.ones(x.size, bool)
    found = kmeans_1d(x, 9, weights=weights if weighted else None, mask=mask if weighted else None)
    centroids = np.asarray(found.centroids, np.float64)
    codes = np.argmin(np.abs(x[:, None].astype(np.float64) - centroids), axis=1) * mask
    np.testing.assert_array_equal(found.codes, codes)
    np.testing.assert_array_equal(found.counts, np.bincount(codes[mask], minlength=9))
    direct = np.sum(weights[mask] * (x.astype(np.float64) - centroids[codes])[mask] ** 2)
    np.testing.assert_allclose(found.inertia, direct, rtol=1e-6)


def test_cores_do_not_matter(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    x = rng.laplace(size=400_000).astype(np.float32)
    found: list[KMeans] = []
    for cores in ("1", "3"):
        monkeypatch.setenv("NPROC", cores)
        found.append(kmeans_1d(x, 32))
    for one, three in zip(*found, strict=True):
        np.testing.assert_array_equal(one, three)


def test_history_ends_with_the_inertia(rng: np.random.Generator) -> None:
    found = kmeans_1d(rng.laplace(size=20_000).astype(np.float32), 12)
    history = np.asarray(found.history)
    assert history.shape == (201,) and history.dtype == np.float32 and np.all(np.diff(history) <= 0)
    assert np.all(history[int(found.steps) :] == found.inertia)
    exact = kmeans_1d(np.arange(9.0), 3, exact=True)
    assert exact.history.tolist() == [float(exact.inertia)]


def test_what_iterations_save_is_what_the_inertia_falls_by(rng: np.random.Generator) -> None:
    x, weights = rng.normal(size=4000).astype(np.float32), rng.uniform(0.5, 2, 4000)
    ordered = scalars(x, weights, None).sort()
    centroids = last = np.linspace(-1, 5, 12)
    inertias = []
    end, saved, converged = _lloyd(ordered, np.zeros(13, np.int64), centroids)
    for _ in range(saved.size):
        distances = (x[:, None].astype(np.float64) - centroids) ** 2
        codes = distances.argmin(axis=1)
        inertias.append(weights @ distances.min(axis=1))
        mass, moment = (np.bincount(codes, weights * factor, 12) for factor in (1, x))
        last, centroids = centroids, np.where(mass > 0, moment / np.maximum(mass, 1e-9), centroids)
    np.testing.assert_allclose(end, last)
    np.testing.assert_allclose(ordered.unit * (saved[-1] - saved), np.array(inertias) - inertias[-1], atol=1e-6)
    assert converged and saved.size > 10 and np.all(np.diff(saved) > -1e-9)


def test_types_of_the_result(rng: np.random.Generator) -> None:
    result = kmeans_1d(jnp.asarray(rng.normal(size=64), jnp.bfloat16), 4)
    assert result.centroids.dtype == result.inertia.dtype == jnp.float32
    assert result.codes.dtype == result.counts.dtype == result.steps.dtype == jnp.int32
    assert result.converged and result.repaired == 0


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8", "float64"])
def test_widths_of_values(rng: np.random.Generator, dtype: str) -> None:
    x = np.asarray(jnp.asarray(rng.normal(size=5000) * 30, jnp.float32).astype(dtype if dtype != "float64" else None))
    x = x.astype(np.float64) if dtype == "float64" else x
    for k in (3, 600):
        found, wide = kmeans_1d(x, k), kmeans_1d(x.astype(np.float32), k)
        assert found.centroids.dtype == jnp.float32
        np.testing.assert_array_equal(found.codes, wide.codes)
        np.testing.assert_allclose(found.centroids, wide.centroids, rtol=1e-6)
    with jax.enable_x64(True):
        assert kmeans_1d(x, 3).centroids.dtype == (jnp.float64 if dtype == "float64" else jnp.float32)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("scale", [1e-44, 1e-40, 1e-30, 1e30, 3e37])
def test_any_size_of_values(rng: np.random.Generator, scale: float, exact: bool) -> None:
    x = (rng.uniform(-10, 10, size=2000) * scale).astype(np.float32)
    found = kmeans_1d(x, 5, exact=exact)
    centroids = np.asarray(found.centroids, np.float64)
    assert np.all(np.isfinite(centroids)) and np.all(np.diff(centroids) > 0) and not np.isnan(found.inertia)
    np.testing.assert_array_equal(found.codes, np.argmin(np.abs(x[:, None].astype(np.float64) - centroids), axis=1))
    np.testing.assert_allclose(centroids, np.linspace(-8, 8, 5) * scale, atol=scale)


@pytest.mark.parametrize("exact", [False, True])
def test_degenerate_values(exact: bool) -> None:
    equal = kmeans_1d(np.full(7, 0.1, np.float32), 3, exact=exact)
    assert equal.centroids.tolist() == [np.float32(0.1)] * 3 and equal.counts.tolist() == [7, 0, 0]
    assert equal.inertia == 0 and equal.steps == 0 and equal.converged
    x = np.array([3, 1, 2], np.float32)
    for k in (3, 5):
        each = kmeans_1d(x, k, exact=exact)
        assert each.centroids.tolist() == [1, 2, 3, 3, 3][:k] and each.codes.tolist() == [2, 0, 1]
    one = kmeans_1d(np.arange(9001.0), 1, exact=exact)
    assert one.centroids.tolist() == [4500] and one.counts.tolist() == [9001]
    weightless = kmeans_1d(x, 2, weights=np.zeros(3), exact=exact)
    assert weightless.centroids.tolist() == [0, 0] and weightless.inertia == 0 and weightless.counts.sum() == 3
    masked = kmeans_1d(np.full(3, np.nan), 2, mask=np.zeros(3, bool), exact=exact)
    assert masked.counts.tolist() == [0, 0] and masked.inertia == 0
    assert masked.centroids.tolist() == [0, 0] and masked.codes.tolist() == [0, 0, 0]


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
    with pytest.raises(LeafError, match="NaN or infinite"):
        kmeans_1d(np.array([1, -np.inf], np.float32), 2)
    with pytest.raises(LeafError, match="weights of shape"):
        kmeans_1d(np.ones(2), 2, weights=[np.nan, 1])
    with pytest.raises(LeafError, match=r"reaches 1e\+39; expected at most 3.40282e\+38"):
        kmeans_1d(np.array([1, -1e39]), 2)
    with pytest.raises(LeafError, match="complex"):
        kmeans_1d(np.ones(2, np.complex64), 2)
    with jax.enable_x64(True), pytest.raises(LeafError, match=r"reaches 1e\+200; expected at most 1e\+140"):
        kmeans_1d(np.array([1, 1e200]), 2)
