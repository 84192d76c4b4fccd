"""Merging against SciPy's own distances, scikit-learn and cases that can be seen."""

from typing import Any

import numpy as np
import pytest
import sklearn.cluster
from scipy.cluster import hierarchy
from scipy.spatial import distance as scipy_distance

from quantree.clustering import agglomerate
from quantree.clustering.agglomerative import METHODS, ROWS
from quantree.errors import LeafError


def partition(codes: Any) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(np.asarray(codes) == code).tolist()) for code in np.unique(codes)}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("k", [1, 2, 7, 40, ROWS + 44])
def test_equals_scikit_learn(rng: np.random.Generator, method: Any, k: int) -> None:
    x = (rng.normal(size=(ROWS + 44, 6)) + 100).astype(np.float32)
    found = agglomerate(x, k=k, method=method)
    theirs: Any = sklearn.cluster.AgglomerativeClustering(k, linkage=method).fit(x.astype(np.float64))
    assert partition(found.codes) == partition(theirs.labels_)
    for code in range(k):
        np.testing.assert_allclose(found.centroids[code], x[np.asarray(found.codes) == code].mean(axis=0), rtol=1e-5)
    assert found.counts.sum() == len(x) and found.counts.min() > 0
    first = [int(np.flatnonzero(np.asarray(found.codes) == code)[0]) for code in range(k)]
    assert first == sorted(first)


@pytest.mark.parametrize("method", METHODS)
def test_a_distance_is_a_height_of_the_tree(rng: np.random.Generator, method: Any) -> None:
    x = rng.normal(size=(120, 3)).astype(np.float32)
    tree = hierarchy.linkage(scipy_distance.pdist(x.astype(np.float64)), method)
    heights = agglomerate(x, k=1, method=method).merges[:, 2]
    np.testing.assert_allclose(heights, tree[:, 2], rtol=1e-4)
    for height in (0.0, 0.31, 1.0, 1e6):
        found = agglomerate(x, distance=height, method=method)
        assert partition(found.codes) == partition(hierarchy.fcluster(tree, height, "distance"))


def test_equal_neurons_meet_at_distance_zero_however_large_they_are(rng: np.random.Generator) -> None:
    x = np.repeat(1e4 + 100 * rng.normal(size=(5, 700)), 3, axis=0).astype(np.float32)
    x[1] += 1e-1
    found = agglomerate(x, distance=0.0)
    assert found.codes.tolist() == [0, 1, 0, 2, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5, 5]
    near = agglomerate(x, k=5, method="average")
    assert near.counts.tolist() == [3] * 5 and near.merges[-5, 2] == pytest.approx(
        scipy_distance.cdist(x[:1].astype(np.float64), x[1:2].astype(np.float64))[0, 0]
    )


def test_ward_merges_what_adds_the_least_inertia(rng: np.random.Generator) -> None:
    x = rng.normal(size=(60, 4)).astype(np.float32)
    merges = agglomerate(x, k=1).merges
    for k in range(1, 59):
        added = float(agglomerate(x, k=k).inertia) - float(agglomerate(x, k=k + 1).inertia)
        assert merges[-k, 2] ** 2 / 2 == pytest.approx(added, rel=1e-3)


def test_one_point_and_wrong_arguments(rng: np.random.Generator) -> None:
    one = agglomerate(np.ones((1, 3)), k=1)
    assert one.codes.tolist() == [0] and one.merges.shape == (0, 4) and one.inertia == 0
    x = rng.normal(size=(4, 2))
    for settings, reason in (
        ({}, "either k or distance"),
        ({"k": 2, "distance": 1.0}, "either k or distance"),
        ({"k": 5}, "k is 5, but there are 4 points"),
        ({"k": 0}, "k is 0"),
        ({"distance": -1.0}, "distance is -1.0"),
        ({"distance": np.nan}, "distance is nan"),
        ({"k": 2, "method": "single"}, "method is 'single'; known: ward, average"),
    ):
        with pytest.raises(LeafError, match=reason):
            agglomerate(x, **settings)  # pyright: ignore[reportArgumentType]
    with pytest.raises(LeafError, match="NaN"):
        agglomerate(np.full((2, 2), np.nan), k=1)
    with pytest.raises(LeafError, match=r"expected \[n, d\]"):
        agglomerate(np.ones((2, 2, 2)), k=1)


def test_a_weight_is_so_many_points_in_one_place(rng: np.random.Generator) -> None:
    x, weights = rng.normal(size=(80, 3)).astype(np.float32), rng.integers(1, 5, 80)
    theirs = hierarchy.linkage(np.repeat(x.astype(np.float64), weights, axis=0), "ward")
    found = agglomerate(x, k=7, weights=weights)
    np.testing.assert_allclose(found.merges[:, 2], theirs[-79:, 2], rtol=1e-4)
    np.testing.assert_array_equal(found.merges[:, 3], theirs[-79:, 3])
    cut = hierarchy.fcluster(theirs, 7, "maxclust")
    assert partition(found.codes) == partition(cut[np.cumsum(weights) - 1])
    for code in range(7):
        here = np.asarray(found.codes) == code
        np.testing.assert_allclose(found.centroids[code], np.average(x[here], axis=0, weights=weights[here]), rtol=1e-4)
    plain, ones = agglomerate(x, k=7), agglomerate(x, k=7, weights=np.full(80, 2.0))
    assert plain.codes.tolist() == ones.codes.tolist()
    assert float(ones.inertia) == pytest.approx(2 * float(plain.inertia))


@pytest.mark.parametrize("weights", [[1.0, 2.0], [1.0, 0.0, 1.0], [1.0, np.nan, 1.0]])
def test_weights_that_are_none(weights: list[float]) -> None:
    with pytest.raises(LeafError, match="weights must be 3 positive numbers"):
        agglomerate(np.ones((3, 2), np.float32), k=1, weights=weights)
    with pytest.raises(LeafError, match='weights are for "ward"'):
        agglomerate(np.ones((3, 2), np.float32), k=1, method="average", weights=np.ones(3))
