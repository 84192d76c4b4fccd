"""Balanced assignment against SciPy's assignment problem, its proof of optimality, and what it always holds."""

from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from quantree.clustering import kmeans
from quantree.clustering.balanced import Balanced, balanced_assign, balanced_kmeans
from quantree.errors import LeafError


def cost(x: np.ndarray, centroids: Any, codes: Any) -> float:
    """By its definition, in float64."""
    return float(np.sum((x.astype(np.float64) - np.asarray(centroids, np.float64)[np.asarray(codes)]) ** 2))


def least(x: np.ndarray, centroids: np.ndarray, capacities: Any) -> float:
    """What SciPy finds, with a column for each place."""
    squares = cdist(x.astype(np.float64), centroids.astype(np.float64), "sqeuclidean")
    columns = squares[:, np.repeat(np.arange(len(centroids)), capacities)]
    return float(columns[linear_sum_assignment(columns)].sum())


def is_proven(x: np.ndarray, centroids: np.ndarray, found: Balanced) -> bool:
    """Whether each point has its cheapest centroid under the prices, so that nothing costs less."""
    prices = np.asarray(found.prices, np.float64)
    scores = cdist(x.astype(np.float64), centroids.astype(np.float64), "sqeuclidean") + prices
    chosen = scores[np.arange(len(x)), np.asarray(found.codes)]
    return prices.min() >= 0 and bool((chosen <= scores.min(axis=1) + 1e-5 * scores.max()).all())


@pytest.mark.parametrize(("n", "d", "k"), [(60, 1, 5), (150, 3, 8), (150, 3, 150), (40, 2, 1)])
def test_it_costs_what_scipy_finds(rng: np.random.Generator, n: int, d: int, k: int) -> None:
    x, centroids = rng.normal(size=(n, d)).astype(np.float32), rng.normal(size=(k, d)).astype(np.float32)
    even = n // k + (np.arange(k) < n % k)
    skewed = rng.multinomial(n, rng.dirichlet(np.full(k, 0.5)))
    for capacities in (None, skewed):
        found = balanced_assign(x, centroids, capacities=capacities)
        wanted = even if capacities is None else skewed
        np.testing.assert_array_equal(np.bincount(found.codes, minlength=k), wanted)
        np.testing.assert_array_equal(found.counts, wanted)
        assert float(found.cost) == pytest.approx(least(x, centroids, wanted), rel=1e-6)
        assert float(found.cost) == pytest.approx(cost(x, centroids, found.codes), rel=1e-6)
        assert is_proven(x, centroids, found)


@hypothesis.given(st.data())
def test_capacities_are_met_whatever_the_points(data: st.DataObject) -> None:
    n, k = 24, 4
    values = st.sampled_from([0.0, 1.0, 1.0, 2.5, -3e3, 1e-20, 1e18])
    x, centroids = (
        np.array(data.draw(st.lists(values, min_size=2 * rows, max_size=2 * rows)), np.float32).reshape(rows, 2)
        for rows in (n, k)
    )
    cuts = sorted(data.draw(st.lists(st.integers(0, n), min_size=k - 1, max_size=k - 1)))
    capacities = np.diff([0, *cuts, n])
    found = balanced_assign(x, centroids, capacities=capacities)
    np.testing.assert_array_equal(np.bincount(found.codes, minlength=k), capacities)
    assert cost(x, centroids, found.codes) <= least(x, centroids, capacities) * (1 + 1e-9)
    assert np.isfinite(found.prices).all()


@pytest.mark.slow
def test_a_large_one_is_proven_by_its_prices(rng: np.random.Generator) -> None:
    x = np.concatenate([rng.normal(size=(6000, 2)), rng.normal(4, 0.2, size=(2000, 2))]).astype(np.float32)
    centroids = x[rng.choice(len(x), 16, replace=False)]
    found = balanced_assign(x, centroids)
    assert (np.asarray(found.counts) == 500).all() and is_proven(x, centroids, found)
    again = balanced_assign(x, centroids)
    np.testing.assert_array_equal(found.codes, again.codes)


def test_equal_points_are_shared_out_at_once() -> None:
    x = np.zeros((20000, 1), np.float32)
    found = balanced_assign(x, np.arange(8, dtype=np.float32)[:, None])
    assert (np.asarray(found.counts) == 2500).all()
    assert (np.bincount(found.codes) == 2500).all()


def test_masked_points_take_no_part(rng: np.random.Generator) -> None:
    x, mask = rng.normal(size=(50, 2)).astype(np.float32), rng.random(50) < 0.5
    dirty = np.where(mask[:, None], x, np.float32(np.nan))
    found, alone = balanced_assign(dirty, x[:3], mask=mask), balanced_assign(x[mask], x[:3])
    np.testing.assert_array_equal(np.asarray(found.codes)[mask], alone.codes)
    assert not np.asarray(found.codes)[~mask].any() and found.counts.sum() == mask.sum()
    nobody = balanced_kmeans(dirty, x[:3], mask=np.zeros(50))
    assert nobody.inertia == 0 and nobody.counts.sum() == 0
    np.testing.assert_allclose(nobody.centroids, x[:3], rtol=1e-6)


def test_balanced_k_means_never_gets_worse(rng: np.random.Generator) -> None:
    x = rng.normal(size=(1003, 3)).astype(np.float32)
    start = kmeans(x, 8, key=jax.random.key(0)).centroids
    runs = [balanced_kmeans(x, start, iterations=i, tolerance=0) for i in range(6)]
    inertias = [float(run.inertia) for run in runs]
    assert inertias == sorted(inertias, reverse=True) and inertias[-1] < inertias[0]
    last = balanced_kmeans(x, start, iterations=100)
    assert last.converged and set(np.asarray(last.counts).tolist()) == {125, 126} and last.steps > 1
    assert float(last.inertia) == pytest.approx(cost(x, last.centroids, last.codes), rel=1e-5)
    # Both the best for the other: the assignment for these centroids costs as much.
    again = balanced_assign(x, last.centroids)
    assert float(again.cost) == pytest.approx(float(last.inertia), rel=1e-5)
    skewed = balanced_kmeans(x, start, capacities=[1003, 0, 0, 0, 0, 0, 0, 0])
    np.testing.assert_allclose(skewed.centroids[0], x.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(skewed.centroids[1:], start[1:], atol=1e-5)


def test_wrong_arguments_are_told() -> None:
    x: Any = np.ones((6, 2), np.float32)
    for arguments, reason in (
        ({"capacities": [3, 2]}, "capacities of shape .* sum 5; expected 2 whole numbers, at least 0, with sum 6"),
        ({"capacities": [2, 2, 2]}, "expected 2 whole numbers"),
        ({"capacities": [7, -1]}, "at least 0"),
        ({"capacities": [2.5, 3.5]}, "whole numbers"),
        ({"capacities": [np.nan, 6]}, "whole numbers"),
        ({"centroids": np.ones((2, 3))}, r"expected \[n, d\] and \[k, d\]"),
        ({"x": np.ones((1, 6, 2))}, r"expected \[n, d\] and \[k, d\]"),
        ({"x": np.full((6, 2), np.nan)}, "NaN"),
    ):
        with pytest.raises(LeafError, match=reason):
            balanced_assign(**{"x": x, "centroids": x[:2], **arguments})
    with pytest.raises(LeafError, match="iterations is -1"):
        balanced_kmeans(x, x[:2], iterations=-1)
    with pytest.raises(LeafError, match="tolerance is -1"):
        balanced_kmeans(x, x[:2], tolerance=-1)
