"""Entropy-constrained clustering against exhaustive search, theory and each value's own choice."""

import itertools
from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest

from quantree.clustering import EntropyCoded, entropy_constrained, entropy_lloyd
from quantree.clustering.entropy import _envelope  # pyright: ignore[reportPrivateUsage]
from quantree.coding import Coder, Symbols
from quantree.errors import LeafError

VALUES = st.lists(st.one_of(st.integers(-4, 4).map(float), st.floats(-10, 10, width=32)), min_size=1, max_size=8)


def cost(found: EntropyCoded, slope: float, overhead: float = 0.0) -> float:
    return float(found.inertia) + slope * (float(found.bits) + overhead * found.centroids.size)


def least_cost(x: np.ndarray, weights: np.ndarray, slope: float, overhead: float) -> float:
    """The optimum over all ways to cut the sorted values, equal ones together, into intervals."""
    order = np.argsort(x, kind="stable")
    x, weights, best = x[order].astype(np.float64), weights[order], np.inf
    places = np.flatnonzero(np.diff(x)) + 1
    for count in range(len(places) + 1):
        for cuts in itertools.combinations(places.tolist(), count):
            parts = list(itertools.pairwise((0, *cuts, len(x))))
            spread = sum((x[a:b] - np.average(x[a:b], weights=weights[a:b])) ** 2 @ weights[a:b] for a, b in parts)
            bits = sum((b - a) * np.log2(len(x) / (b - a)) + overhead for a, b in parts)
            best = min(best, spread + slope * bits)
    return float(best)


@hypothesis.given(
    x=VALUES,
    slope=st.sampled_from([1e-3, 0.1, 1.0, 30.0]),
    overhead=st.sampled_from([0.0, 1.5]),
    weighted=st.booleans(),
)
def test_finds_the_optimum_of_few_values(x: list[float], slope: float, overhead: float, weighted: bool) -> None:
    values = np.array(x, np.float32)
    weights = np.random.default_rng(len(x)).uniform(0.2, 3, len(x)) if weighted else np.ones(len(x))
    found = entropy_constrained(values, slope, weights=weights if weighted else None, overhead=overhead)
    np.testing.assert_allclose(
        cost(found, slope, overhead), least_cost(values, weights, slope, overhead), rtol=1e-4, atol=1e-7
    )
    assert np.all(np.diff(found.centroids) > 0) and np.all(np.asarray(found.counts) > 0)


@pytest.mark.parametrize(
    ("source", "bits", "error"),
    [("normal", 2.08, 0.0798), ("laplace", 1.63, 0.118), ("laplace", 2.16, 0.0599), ("laplace", 2.67, 0.0298)],
)
def test_reaches_what_theory_allows_in_real_bytes(source: str, bits: float, error: float) -> None:
    # Rows for unit variance; a sample's own variance is set to 1, so that noise has no part in it.
    x = getattr(np.random.default_rng(0), source)(size=200_000)
    x = ((x - x.mean()) / x.std()).astype(np.float32)
    found = entropy_constrained(x, bits=bits)
    codes = np.asarray(found.codes)
    coder, symbols = Coder.named("ans")(), Symbols(codes, found.centroids.size)
    table = coder.table(symbols)
    size = len(table) + len(coder.encode(symbols, table)) + found.centroids.nbytes
    assert found.inertia / x.size < error * 1.01
    assert 8 * size / x.size < bits * 1.01
    np.testing.assert_allclose(found.inertia, np.sum((x - np.asarray(found.centroids)[codes]) ** 2.0), rtol=1e-4)


def test_the_grid_hardly_loses_anything(rng: np.random.Generator) -> None:
    x = rng.laplace(size=3000).astype(np.float32)
    for slope in (1.0, 0.1, 0.01):
        fast = entropy_constrained(x, slope)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("quantree.clustering.entropy.CELLS", 4096)  # every value is its own cell
            exact = entropy_constrained(x, slope)
        assert cost(exact, slope) <= cost(fast, slope) * (1 + 1e-6)
        assert cost(fast, slope) <= cost(exact, slope) * 1.002


def test_a_larger_slope_means_fewer_bits_and_overhead_fewer_centroids(rng: np.random.Generator) -> None:
    x = rng.normal(size=5000).astype(np.float32)
    steps = [entropy_constrained(x, slope) for slope in (1e-4, 1e-3, 1e-2, 1e-1, 10.0)]
    assert all(
        finer.bits > coarser.bits and finer.inertia < coarser.inertia for finer, coarser in itertools.pairwise(steps)
    )
    assert steps[-1].centroids.size == 1
    assert entropy_constrained(x, 1e-3, overhead=100).centroids.size < steps[1].centroids.size


@pytest.mark.parametrize("bits", [0.3, 1.0, 2.5, 6.0])
def test_a_rate_is_kept_and_nearly_used(rng: np.random.Generator, bits: float) -> None:
    x = rng.laplace(size=4000).astype(np.float32) * 1e-3
    found = entropy_constrained(x, bits=bits)
    assert bits * 0.99 < found.bits / x.size <= bits * (1 + 1e-6)


def test_the_iterative_form_is_near_the_optimum_and_stops_at_k(rng: np.random.Generator) -> None:
    x = rng.normal(size=20_000).astype(np.float32)
    best, found = entropy_constrained(x, 0.15), entropy_lloyd(x, 0.15, 2, tolerance=1e-7, iterations=300)
    assert cost(best, 0.15) <= cost(found, 0.15) * (1 + 1e-6) and cost(found, 0.15) < cost(best, 0.15) * 1.01
    assert found.steps > 1
    # At the end each value has chosen for itself.
    lengths = -np.log2(np.asarray(found.counts) / x.size)
    prices = (x[:, None].astype(np.float64) - np.asarray(found.centroids)) ** 2 + 0.15 * lengths
    assert np.mean(prices.argmin(axis=1) == found.codes) > 0.999
    early = entropy_lloyd(x, 0.15, 12, tolerance=0)
    assert found.centroids.size < early.centroids.size <= 12 and early.steps < found.steps
    assert entropy_lloyd(x, 1e-6, 16, iterations=3).steps <= 3


@hypothesis.given(
    centroids=st.lists(st.integers(-20, 20), min_size=1, max_size=6, unique=True),
    prices=st.lists(st.integers(0, 60), min_size=6, max_size=6),
)
def test_the_cheapest_centroid_changes_at_the_corners(centroids: list[int], prices: list[int]) -> None:
    c, p = np.sort(np.array(centroids, float)), np.array(prices[: len(centroids)], float)
    x = np.linspace(-40.03, 40.01, 5001)
    cheapest = (((x[:, None] - c) ** 2) + p).min(axis=1)
    cuts = _envelope(c, p)
    groups = np.searchsorted(cuts, x, side="right")
    assert np.all(np.diff(cuts) >= 0)
    for group in np.unique(groups):  # one centroid is the cheapest for all of a group
        own = x[groups == group]
        assert np.isclose((((own[:, None] - c) ** 2) + p), cheapest[groups == group, None]).all(axis=0).any()


@pytest.mark.parametrize("cluster", [entropy_constrained, lambda x, slope, **more: entropy_lloyd(x, slope, 3, **more)])
def test_masked_values_and_values_without_weight(rng: np.random.Generator, cluster: Any) -> None:
    x, mask = rng.normal(size=500).astype(np.float32), rng.random(500) < 0.5
    filled = np.where(mask, x, np.float32(np.nan))
    masked, alone = cluster(filled, 0.05, mask=mask), cluster(x[mask], 0.05)
    np.testing.assert_array_equal(masked.centroids, alone.centroids)
    np.testing.assert_array_equal(np.asarray(masked.codes)[mask], alone.codes)
    assert np.all(np.asarray(masked.codes)[~mask] == 0) and masked.counts.sum() == mask.sum()
    np.testing.assert_allclose(masked.bits, alone.bits)
    weightless = cluster(x, 0.05, weights=mask)
    np.testing.assert_allclose(weightless.centroids, alone.centroids, rtol=1e-6)
    nothing = cluster(x, 0.05, mask=np.zeros(500, bool))
    assert nothing.centroids.tolist() == [0.0] and nothing.bits == 0 and nothing.inertia == 0


@hypothesis.given(scale=st.sampled_from([1e-15, 1e-6, 1e6, 1e15]), factor=st.sampled_from([1e-20, 4.0, 1e20]))
def test_scales_of_values_and_weights(scale: float, factor: float) -> None:
    rng = np.random.default_rng(1)
    x, weights = rng.normal(size=3000).astype(np.float32), rng.uniform(0.1, 1, 3000)
    one = entropy_constrained(x, 0.05, weights=weights)
    two = entropy_constrained(x * np.float32(scale), 0.05 * scale**2 * factor, weights=weights * factor)
    np.testing.assert_allclose(two.centroids / np.float32(scale), one.centroids, rtol=1e-3, atol=1e-4)


def test_types_and_degenerate_values() -> None:
    equal = entropy_constrained(np.full(7, 3.5, np.float32), 0.1)
    assert equal.centroids.tolist() == [3.5] and equal.inertia == 0 and equal.bits == 0
    assert entropy_constrained(np.full(7, 3.5, np.float32), bits=1.0).centroids.tolist() == [3.5]
    one = entropy_lloyd(jnp.asarray([2.0], jnp.bfloat16), 0.1, 4)
    assert one.centroids.dtype == one.inertia.dtype == one.bits.dtype == jnp.float32
    assert one.codes.dtype == one.counts.dtype == one.steps.dtype == jnp.int32 and one.codes.tolist() == [0]


def test_wrong_arguments_are_told() -> None:
    x = np.ones(3)
    for wrong in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(LeafError, match="slope is"):
            entropy_constrained(x, wrong)
        with pytest.raises(LeafError, match="bits is"):
            entropy_constrained(x, bits=wrong)
        with pytest.raises(LeafError, match="slope is"):
            entropy_lloyd(x, wrong, 2)
    with pytest.raises(LeafError, match="either slope or bits"):
        entropy_constrained(x)
    with pytest.raises(LeafError, match="overhead is -1"):
        entropy_constrained(x, 1.0, overhead=-1)
    with pytest.raises(LeafError, match="k is 0"):
        entropy_lloyd(x, 1.0, 0)
    with pytest.raises(LeafError, match="NaN"):
        entropy_constrained(np.array([1, np.nan]), 1.0)
    with pytest.raises(LeafError, match=r"expected \[n\]"):
        entropy_constrained(np.ones((3, 1)), 1.0)
