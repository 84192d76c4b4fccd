"""Noise that fades: what it must not disturb, and what it wins."""

from typing import Any

import jax
import numpy as np
import pytest

from quantree.clustering import annealed, kmeans
from quantree.clustering.annealing import RELAXATIONS
from quantree.errors import LeafError

KEY = jax.random.key(0)


@pytest.mark.parametrize("relaxation", RELAXATIONS)
def test_without_noisy_steps_it_is_k_means(rng: np.random.Generator, relaxation: Any) -> None:
    x = rng.normal(size=(300, 3)).astype(np.float32)
    one, two = annealed(x, 7, key=KEY, relaxation=relaxation, steps=0), kmeans(x, 7, key=KEY, init="random")
    np.testing.assert_array_equal(one.centroids, two.centroids)
    noisy = annealed(x, 7, key=KEY, relaxation=relaxation, steps=3)
    assert not np.array_equal(noisy.centroids, two.centroids)
    np.testing.assert_array_equal(noisy.codes, annealed(x, 7, key=KEY, relaxation=relaxation, steps=3).codes)


def test_it_ends_lower_than_k_means_from_the_same_starts(rng: np.random.Generator) -> None:
    x = rng.normal(size=(4096, 4)).astype(np.float32)
    settings: dict[str, Any] = {"init": "random", "iterations": 200, "tolerance": 0}
    keys = jax.random.split(KEY, 3)
    plain = np.mean([kmeans(x, 128, key=key, **settings).inertia for key in keys])
    found = np.mean([annealed(x, 128, key=key, steps=200, **settings).inertia for key in keys])
    assert found < 0.98 * plain


@pytest.mark.parametrize("relaxation", ["SR-C", pytest.param("SR-D", marks=pytest.mark.slow)])
def test_pinned_centroids_masks_and_batches(rng: np.random.Generator, relaxation: Any) -> None:
    x, mask = rng.normal(size=(2, 200, 2)).astype(np.float32), rng.random((2, 200)) < 0.6
    x[~mask] = np.nan
    settings: dict[str, Any] = {"relaxation": relaxation, "steps": 5, "pinned": np.zeros((1, 2))}
    found = annealed(x, 6, key=KEY, mask=mask, **settings)
    assert np.isfinite(found.centroids).all() and not np.asarray(found.centroids)[:, 0].any()
    assert found.counts.sum() == mask.sum()
    for i, key in enumerate(jax.random.split(KEY, 2)):
        alone = annealed(x[i], 6, key=key, mask=mask[i], **settings)
        np.testing.assert_allclose(found.centroids[i], alone.centroids, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("relaxation", RELAXATIONS)
def test_degenerate_points(relaxation: Any) -> None:
    equal = annealed(np.full((9, 2), 3.0), 4, key=KEY, relaxation=relaxation, steps=4)
    assert equal.inertia == 0 and equal.counts.sum() == 9
    weightless = annealed(np.ones((5, 2)), 2, key=KEY, relaxation=relaxation, steps=4, weights=np.zeros(5))
    assert np.isfinite(weightless.centroids).all() and weightless.inertia == 0


def test_wrong_arguments_are_told() -> None:
    with pytest.raises(LeafError, match="relaxation is 'SR-E'; known: SR-C, SR-D"):
        annealed(np.ones((3, 1)), 2, key=KEY, relaxation="SR-E")  # pyright: ignore[reportArgumentType]
    with pytest.raises(LeafError, match="steps is -1"):
        annealed(np.ones((3, 1)), 2, key=KEY, steps=-1)
