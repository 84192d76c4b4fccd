"""Residual and additive quantization against exhaustive search, NumPy's least squares and faiss."""

import itertools
from typing import Any

import faiss
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantree.clustering import Additive, additive, kmeans, residual
from quantree.clustering.additive import _choose, _fit  # pyright: ignore[reportPrivateUsage]
from quantree.errors import LeafError

KEY = jax.random.key(0)


def check(found: Additive, x: np.ndarray, weights: np.ndarray | None = None) -> None:
    """What is promised of every result."""
    m, k, d = found.centroids.shape
    codes = np.asarray(found.codes)
    assert codes.shape == (len(x), m) and codes.min() >= 0 and codes.max() < k and d == x.shape[1]
    sums = sum(np.asarray(found.centroids)[j][codes[:, j]] for j in range(m))
    np.testing.assert_allclose(found.decode(), sums, rtol=1e-5, atol=1e-5)
    costs = np.sum((x - sums) ** 2.0, axis=1) * (1 if weights is None else weights)
    np.testing.assert_allclose(found.inertia, np.sum(costs), rtol=1e-4)
    assert np.all(np.diff(found.history) <= 0) and found.history[-1] == found.inertia


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.normal(size=(3000, 8)) @ rng.normal(size=(8, 8))).astype(np.float32)


def test_each_codebook_is_k_means_on_what_is_left(x: np.ndarray) -> None:
    found = residual(x, 16, 3, key=KEY)
    check(found, x)
    left = x
    for j, key in enumerate(jax.random.split(KEY, 3)):
        step = kmeans(left, 16, key=key)
        np.testing.assert_array_equal(found.codes[:, j], step.codes)
        left = left - np.asarray(step.centroids)[np.asarray(step.codes)]


@pytest.mark.parametrize("m", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_sums_beat_products_residuals_and_faiss(x: np.ndarray, m: int) -> None:
    found = additive(x, 16, m, key=KEY, rounds=20)
    check(found, x)
    for start in ("residual", "product"):
        alone = additive(x, 16, m, key=KEY, start=start, rounds=0)
        check(alone, x)
        assert found.inertia < 0.97 * alone.inertia
    peer: Any = faiss.LocalSearchQuantizer(8, m, 4)
    peer.train(x)
    theirs = np.sum((x - peer.decode(peer.compute_codes(x))) ** 2)
    assert found.inertia < 1.03 * theirs


def test_a_wide_beam_finds_the_best_codes() -> None:
    rng = np.random.default_rng(1)
    x, centroids = rng.normal(size=(40, 3)).astype(np.float32), rng.normal(size=(3, 3, 3)).astype(np.float32)
    every = [sum(centroids[j][code[j]] for j in range(3)) for code in itertools.product(range(3), repeat=3)]
    least = np.min(np.sum((x[:, None] - np.stack(every)) ** 2, axis=2), axis=1)
    codes = jnp.zeros((40, 3), jnp.int32)
    for beam, exact in ((1, False), (9, True)):
        chosen = np.asarray(_choose(jnp.asarray(x), jnp.asarray(centroids), codes, beam=beam))
        costs = np.sum((x - sum(centroids[j][chosen[:, j]] for j in range(3))) ** 2, axis=1)
        assert np.allclose(costs, least, rtol=1e-4) == exact
        start = np.sum((x - centroids[:, 0].sum(axis=0)) ** 2, axis=1)
        assert np.all(costs <= start * (1 + 1e-5))


def test_centroids_are_those_of_least_squares() -> None:
    rng = np.random.default_rng(2)
    x, codes = rng.normal(size=(200, 4)).astype(np.float32), rng.integers(0, 5, (200, 2)).astype(np.int32)
    weights = rng.uniform(0.1, 2, 200).astype(np.float32)
    design = np.concatenate([np.eye(5)[codes[:, j]] for j in range(2)], axis=1)
    root = np.sqrt(weights)[:, None]
    best = design @ np.linalg.lstsq(root * design, root * x, rcond=None)[0]
    fitted = np.asarray(_fit(jnp.asarray(x), jnp.asarray(weights), jnp.asarray(codes), k=5))
    np.testing.assert_allclose(fitted[0][codes[:, 0]] + fitted[1][codes[:, 1]], best, atol=1e-4)


def test_masked_points_and_weights(x: np.ndarray) -> None:
    rng = np.random.default_rng(3)
    mask, weights = rng.random(len(x)) < 0.5, rng.uniform(0.1, 2, len(x)).astype(np.float32)
    found = additive(
        np.where(mask[:, None], x, np.float32(np.nan)), 8, 2, key=KEY, mask=mask, weights=weights, rounds=3
    )
    assert not np.asarray(found.codes)[~mask].any() and np.isfinite(found.centroids).all()
    kept = Additive(found.centroids, found.codes[mask], found.inertia, found.history)
    check(kept, x[mask], weights[mask])
    heavy = additive(x, 8, 2, key=KEY, weights=np.where(mask, 1.0, 1e-3), rounds=5)
    even = additive(x, 8, 2, key=KEY, rounds=5)
    error = [np.sum((x - np.asarray(each.decode()))[mask] ** 2) for each in (heavy, even)]
    assert error[0] < error[1]


def test_few_points_one_codebook_and_the_same_again(x: np.ndarray) -> None:
    few = additive(x[:5], 8, 2, key=KEY)
    assert few.inertia == pytest.approx(0, abs=1e-6)
    alone, plain = additive(x, 8, 1, key=KEY, rounds=0), kmeans(x, 8, key=jax.random.split(KEY, 1)[0])
    np.testing.assert_array_equal(alone.centroids[0], plain.centroids)
    one, two = (additive(x, 8, 2, key=KEY, rounds=2) for _ in range(2))
    np.testing.assert_array_equal(one.centroids, two.centroids)
    np.testing.assert_array_equal(one.codes, two.codes)


def test_wrong_arguments_are_told(x: np.ndarray) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"m": 0}, "m is 0"),
        ({"rounds": -1}, "rounds is -1"),
        ({"beam": 0}, "beam is 0"),
        ({"k": 0}, "k is 0"),
        ({"m": 3, "start": "product"}, "3 does not divide d = 8"),
        ({"start": "random"}, "start is 'random'; known: best, residual, product"),
    ]
    for settings, reason in cases:
        with pytest.raises(LeafError, match=reason):
            additive(x, **{"k": 4, "m": 2, "key": KEY, **settings})
    with pytest.raises(LeafError, match=r"expected \[n, d\]"):
        additive(x[None], 4, 2, key=KEY)
    with pytest.raises(LeafError, match="NaN"):
        residual(np.full((3, 2), np.nan), 2, 2, key=KEY)
