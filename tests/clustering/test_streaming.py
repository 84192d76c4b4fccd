"""Points that are read by rows: the same results as in memory, mini-batches against scikit-learn, bounded memory."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import sklearn.cluster

from quantree.clustering import KMeans, assign, kmeans, pieces, search
from quantree.clustering.rows import source
from quantree.clustering.streaming import SAMPLED, kmeans_minibatch, kmeans_streamed
from quantree.errors import LeafError

KEY = jax.random.key(7)
ROOT = Path(__file__).parents[2]
PIECE = search.BLOCKS * search.BLOCK
BOTH = (kmeans_streamed, kmeans_minibatch)


class Stored:
    """As a data set of h5py or zarr: shape, dtype, and ranges of rows; remembers the longest that was read."""

    def __init__(self, held: np.ndarray) -> None:
        self.held, self.shape, self.dtype, self.longest = held, held.shape, held.dtype, 0

    def __getitem__(self, rows: slice) -> np.ndarray:
        assert isinstance(rows, slice) and rows.step is None
        found = self.held[rows]
        self.longest = max(self.longest, len(found))
        return found.copy()


def inertia(x: np.ndarray, result: KMeans, weights: Any = 1.0) -> float:
    """The inertia by its definition, in float64."""
    x, centroids = np.asarray(x, np.float64), np.asarray(result.centroids, np.float64)
    return float(np.sum(weights * np.sum((x - centroids[np.asarray(result.codes)]) ** 2, axis=-1)))


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e15])
def test_from_the_same_start_it_is_kmeans(rng: np.random.Generator, scale: float) -> None:
    n = 2 * PIECE + 777
    x, weights = (rng.normal(size=(n, 3)) * scale).astype(np.float32), rng.uniform(0, 2, n).astype(np.float32)
    start = np.concatenate([x[:9], np.full((2, 3), 50 * scale)])  # two of them lose their points
    given: dict[str, Any] = {"key": KEY, "initial": start, "pinned": np.zeros((1, 3)), "iterations": 8}
    stored, heavy = Stored(x), Stored(weights)
    ours, theirs = kmeans_streamed(stored, 12, weights=heavy, **given), kmeans(x, 12, weights=weights, **given)
    assert ours.repaired == theirs.repaired == 2
    for one, two in zip(ours, theirs, strict=True):
        assert (one.shape, one.dtype) == (two.shape, two.dtype)
        np.testing.assert_allclose(one, two, rtol=1e-5)
    assert stored.longest == heavy.longest == PIECE


@pytest.mark.parametrize("init", SAMPLED)
def test_few_points_have_the_start_of_kmeans(rng: np.random.Generator, init: Any) -> None:
    x = rng.normal(size=(3000, 2)).astype(np.float32)
    ours, theirs = kmeans_streamed(x, 10, key=KEY, init=init), kmeans(x, 10, key=KEY, init=init)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.parametrize("init", SAMPLED)
def test_a_start_on_a_sample_is_a_good_one(rng: np.random.Generator, init: Any) -> None:
    x = rng.normal(size=(2 * PIECE, 3)).astype(np.float32)
    weights = np.where(x[:, 0] > 0, 1, 0)  # a start among points without weight would be far off
    reference: Any = sklearn.cluster.KMeans(12, random_state=1).fit(x, sample_weight=weights)
    result = kmeans_streamed(Stored(x), 12, key=KEY, weights=weights, init=init, iterations=50)
    assert result.inertia <= 1.03 * reference.inertia_
    begun = kmeans_streamed(Stored(x), 12, key=KEY, weights=weights, init=init, iterations=0)
    assert np.all(begun.centroids[:, 0] > 0) and len(np.unique(begun.centroids, axis=0)) == 12
    assert np.all(begun.centroids[:, None] == x[None, :], axis=2).any(axis=1).all()


@pytest.mark.parametrize("init", SAMPLED)
def test_a_start_finds_the_few_points_that_have_weight(rng: np.random.Generator, init: Any) -> None:
    x, weights = rng.normal(size=(2 * PIECE, 3)).astype(np.float32), np.zeros(2 * PIECE)
    weights[rng.choice(len(x), 12, replace=False)] = rng.uniform(1, 2, 12)
    found = kmeans_streamed(Stored(x), 12, key=KEY, weights=weights, init=init, iterations=0)
    assert found.inertia == 0 and set(map(tuple, found.centroids.tolist())) == set(map(tuple, x[weights > 0].tolist()))


@pytest.mark.parametrize("by_weight", [True, False])
def test_rows_are_drawn_as_they_should_be(rng: np.random.Generator, by_weight: bool) -> None:
    n = 2 * PIECE + 99
    groups = np.arange(n) // (n // 8)  # the ninth has few rows
    weights = np.array([0, 1, 2, 3, 0, 0, 5, 0.5, 9])[groups] * (np.arange(n) % 2)
    odds = weights if by_weight else np.sign(weights)
    rows = source(np.ones((n, 1), np.float32), weights).draw(rng, 20_000, by_weight)
    assert np.all(np.diff(rows) >= 0) and np.all(weights[rows] > 0)
    expected = np.bincount(groups, odds) / odds.sum() * 20_000
    likely = expected > 5
    drawn = np.bincount(groups[rows], minlength=9)
    assert (
        scipy.stats.chisquare(drawn[likely], expected[likely] / expected[likely].sum() * drawn[likely].sum())[1] > 0.01
    )


@hypothesis.given(
    x=arrays.arrays(np.float32, (12, 2), elements=st.integers(-3, 3).map(float)),
    weights=arrays.arrays(np.float32, 12, elements=st.integers(0, 2).map(float)),
    k=st.sampled_from([1, 4, 16]),
    how=st.sampled_from(BOTH),
)
def test_properties_on_few_points_with_repeats(x: np.ndarray, weights: np.ndarray, k: int, how: Any) -> None:
    result = how(Stored(x), k, key=KEY, weights=weights)
    assert np.all(np.isfinite(result.centroids)) and result.counts.sum() == 12
    np.testing.assert_array_equal(result.codes, assign(x, result.centroids))
    np.testing.assert_array_equal(result.counts, np.bincount(result.codes, minlength=k))
    np.testing.assert_allclose(result.inertia, inertia(x, result, weights), rtol=1e-4, atol=1e-5)
    assert result.history[-1] == result.inertia


def test_numbers_of_any_type(rng: np.random.Generator) -> None:
    whole = rng.integers(-50, 50, (500, 2))
    found = [
        kmeans_streamed(each, 5, key=KEY)
        for each in (whole.astype(np.float32), whole, whole.tolist(), jnp.asarray(whole, jnp.bfloat16))
    ]
    for each in found:
        assert each.centroids.dtype == jnp.float32
        jax.tree.map(np.testing.assert_array_equal, each, found[0])


def test_another_number_of_points_compiles_nothing(rng: np.random.Generator) -> None:
    x = rng.normal(size=(3 * PIECE, 2)).astype(np.float32)
    for how in BOTH:
        how(x, 5, key=KEY)
        before = pieces._measure.outer._cache_size(), pieces._farthest.outer._cache_size()
        how(x[: 2 * PIECE + 1], 5, key=KEY)
        assert (pieces._measure.outer._cache_size(), pieces._farthest.outer._cache_size()) == before


@pytest.mark.parametrize(("batch", "steps"), [pytest.param(1024, 100, marks=pytest.mark.slow), (4096, 50)])
def test_mini_batches_are_as_good_as_those_of_scikit_learn(rng: np.random.Generator, batch: int, steps: int) -> None:
    centres = rng.normal(size=(60, 5)) * 2
    x = (centres[rng.integers(0, 60, 40_000)] + rng.normal(size=(40_000, 5))).astype(np.float32)
    budget: dict[str, Any] = {
        "n_init": 1,
        "batch_size": batch,
        "max_iter": steps * batch // len(x) + 1,
        "max_no_improvement": None,
    }
    ours, theirs = [], []
    for seed in range(5):
        peer: Any = sklearn.cluster.MiniBatchKMeans(60, random_state=seed, **budget).fit(x)
        assert peer.n_steps_ >= steps
        theirs.append(peer.inertia_)
        ours.append(kmeans_minibatch(x, 60, key=jax.random.key(seed), batch=batch, steps=steps).inertia)
    assert np.median(ours) <= 1.02 * np.median(theirs)


def test_the_learning_rate_makes_a_mean_of_all_that_was_drawn(rng: np.random.Generator) -> None:
    x, weights = rng.normal(size=(20_000, 1)).astype(np.float32), rng.integers(0, 2, 20_000)
    x[weights == 0] = 1000
    result = kmeans_minibatch(x, 1, key=KEY, weights=weights, initial=[[90.0]], batch=100, steps=400)
    assert abs(result.centroids[0, 0] - x[weights == 1].mean()) < 4 / np.sqrt(400 * 50)
    assert result.steps == 400 and not result.converged and result.history.shape == (401,)
    np.testing.assert_allclose(np.mean(result.history[1:-1]), result.inertia, rtol=0.05)


def test_a_key_decides_everything_but_not_threads_or_where_points_lie(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, weights = rng.normal(size=(3 * PIECE, 2)).astype(np.float32), rng.uniform(0, 2, 3 * PIECE).astype(np.float32)
    for batch in (50, 2 * PIECE):  # of few points each is read by itself, of many all between them
        found = []
        for threads, points, heavy in (("1", x, weights), ("3", x, weights), ("2", Stored(x), Stored(weights))):
            monkeypatch.setenv("NPROC", threads)
            found.append(kmeans_minibatch(points, 8, key=KEY, weights=heavy, batch=batch, steps=5))
            jax.tree.map(np.testing.assert_array_equal, found[-1], found[0])
        other = kmeans_minibatch(x, 8, key=jax.random.key(8), weights=weights, batch=batch, steps=5)
        assert np.any(other.centroids != found[0].centroids)


def test_mini_batches_find_a_place_for_centroids_without_points(rng: np.random.Generator) -> None:
    centres = rng.normal(size=(10, 2)) * 100
    x = (centres[rng.integers(0, 10, 5000)] + rng.normal(size=(5000, 2))).astype(np.float32)
    start = np.full((9, 2), 1e4) + np.arange(9)[:, None]
    result = kmeans_minibatch(x, 10, key=KEY, initial=start, pinned=centres[:1], batch=500, steps=60)
    assert result.repaired >= 8 and np.all(result.counts > 100)
    np.testing.assert_array_equal(result.centroids[0], centres[0].astype(np.float32))
    assert result.inertia < 0.1 * kmeans(x, 2, key=KEY).inertia


def test_wrong_arguments_are_told(rng: np.random.Generator) -> None:
    x = np.zeros((4, 2), np.float32)
    bad = np.zeros((2 * PIECE, 2))
    bad[5, 0], bad[-1] = np.inf, np.nan
    cases: list[tuple[str, Any, Any, dict[str, Any]]] = [
        ("k is 0", x, 0, {}),
        ("at least one point", np.zeros((0, 2)), 2, {}),
        (r"expected \[n, d\]", np.zeros((2, 4, 2)), 2, {}),
        ("x of shape .* 3 NaN or infinite", Stored(bad), 1, {}),
        ("x of shape .* 1 NaN or infinite", [[1e300]], 1, {}),
        ("weights has shape", x, 2, {"weights": np.ones(3)}),
        ("negative", x, 2, {"weights": -np.ones(4)}),
        ("weights of shape .* 4 NaN", x, 2, {"weights": np.full(4, np.nan)}),
        ("pinned, but k is 1", x, 1, {"pinned": np.zeros((2, 2))}),
        ("pinned has shape", x, 2, {"pinned": np.zeros((1, 3))}),
        ("initial of shape", x, 1, {"initial": [[np.nan, 0]]}),
        (r"expected \[1, 2\]", x, 2, {"pinned": np.zeros((1, 2)), "initial": x[:2]}),
        ("start from 'k-means\\+\\+'", x, 2, {"init": "density"}),
        ("x is complex64", x * np.complex64(1j), 2, {}),
        ("x is object", np.array([[None]]), 1, {}),
    ]
    for how in BOTH:
        for message, points, k, options in cases:
            with pytest.raises(LeafError, match=message):
                how(points, k, key=KEY, **options)
        with pytest.raises(LeafError, match=r"jax\.jit"):
            jax.jit(lambda x, how=how: how(x, 2, key=KEY))(x)
    with pytest.raises(LeafError, match="batch is 0"):
        kmeans_minibatch(x, 2, key=KEY, batch=0)
    with pytest.raises(LeafError, match="steps is -1"):
        kmeans_minibatch(x, 2, key=KEY, steps=-1)
    with pytest.raises(LeafError, match="iterations is -1"):
        kmeans_streamed(x, 2, key=KEY, iterations=-1)


MEMORY = """
import jax, numpy as np
from experiments.benchmarks.memory import peak
from quantree.clustering import streaming

TABLE = np.random.default_rng(0).random((997, 16), np.float32)

class Made:
    def __init__(self, n):
        self.shape, self.dtype = (n, 16), TABLE.dtype

    def __getitem__(self, rows):
        return TABLE[np.arange(rows.start, rows.stop) % 997]

def run(n):
    streaming.{how}(Made(n), 16, key=jax.random.key(0), {limits})

run(40_000)  # compiles
print(peak(lambda: run({n})))
"""


@pytest.mark.parametrize(
    ("how", "limits"),
    [("kmeans_streamed", "iterations=1"), pytest.param("kmeans_minibatch", "steps=5", marks=pytest.mark.slow)],
)
def test_memory_stays_under_the_stated_bound(how: str, limits: str) -> None:
    n, d = 4_000_000, 16
    program = MEMORY.format(how=how, limits=limits, n=n)
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert ran.returncode == 0, ran.stderr
    assert 4 * n < int(ran.stdout) < 8 * n + 40_000_000 < 4 * n * d / 3
