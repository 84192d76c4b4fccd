"""`kmeans` against scikit-learn, and the properties that it promises."""

import itertools
from typing import Any, get_args

import hypothesis
import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.cluster

from quantree.clustering import KMeans, assign, kmeans, pieces, problem, search
from quantree.clustering import vector as module
from quantree.clustering.starts import Start
from quantree.errors import LeafError

KEY = jax.random.key(7)
STARTS: tuple[Start, ...] = get_args(Start)


def inertia(x: np.ndarray, result: KMeans, weights: Any = 1.0) -> float:
    """The inertia by its definition, in float64."""
    x, centroids = np.asarray(x, np.float64), np.asarray(result.centroids, np.float64)
    return float(np.sum(weights * np.sum((x - centroids[np.asarray(result.codes)]) ** 2, axis=-1)))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("n", "d", "k"), [(400, 1, 8), (1500, 4, 20)])
def test_from_the_same_start_it_ends_where_scikit_learn_ends(
    rng: np.random.Generator, n: int, d: int, k: int, weighted: bool
) -> None:
    x = rng.normal(size=(n, d)).astype(np.float32)
    weights = rng.uniform(0.1, 3, n).astype(np.float32) if weighted else None
    start = x[rng.choice(n, k, replace=False)]
    options: dict[str, Any] = {"init": start, "tol": 0, "max_iter": 300}
    theirs: Any = sklearn.cluster.KMeans(k, **options).fit(x, sample_weight=weights)
    ours = kmeans(x, k, key=KEY, weights=weights, initial=start, iterations=300, tolerance=0)
    assert ours.converged
    np.testing.assert_allclose(ours.inertia, theirs.inertia_, rtol=1e-3)
    np.testing.assert_allclose(ours.inertia, inertia(x, ours, 1.0 if weights is None else weights), rtol=1e-5)


@pytest.mark.parametrize("init", STARTS)
def test_every_start_gives_a_good_clustering(rng: np.random.Generator, init: Start) -> None:
    x = rng.normal(size=(1200, 3)).astype(np.float32)
    reference: Any = sklearn.cluster.KMeans(12, random_state=1).fit(x)
    result = kmeans(x, 12, key=KEY, init=init, iterations=50)
    assert result.inertia <= 1.05 * reference.inertia_
    assert result.counts.sum() == 1200
    np.testing.assert_array_equal(result.codes, assign(x, result.centroids))
    np.testing.assert_array_equal(result.counts, np.bincount(result.codes, minlength=12))


def test_linear_and_density_starts_are_those_of_deep_compression(rng: np.random.Generator) -> None:
    x = rng.normal(size=(1001, 1)).astype(np.float32) ** 3
    linear = kmeans(x, 5, key=KEY, init="linear", iterations=0).centroids
    np.testing.assert_allclose(linear[:, 0], np.linspace(x.min(), x.max(), 5), rtol=1e-5)
    density = kmeans(x, 5, key=KEY, init="density", iterations=0).centroids
    np.testing.assert_allclose(density[:, 0], np.quantile(x, [0.1, 0.3, 0.5, 0.7, 0.9]), atol=0.02)


def test_a_greedy_start_beats_a_random_one(rng: np.random.Generator) -> None:
    centres = rng.normal(size=(30, 2)) * 100
    x = (centres[rng.integers(0, 30, 3000)] + rng.normal(size=(3000, 2))).astype(np.float32)
    greedy, random = (
        [kmeans(x, 30, key=jax.random.key(i), init=init, iterations=0).inertia for i in range(5)]
        for init in ("k-means++", "random")
    )
    assert max(greedy) < min(random) / 3


@hypothesis.given(
    x=arrays.arrays(np.float32, (12, 2), elements=st.integers(-3, 3).map(float)),
    k=st.sampled_from([4, 16]),
    init=st.sampled_from(STARTS),
)
def test_properties_on_few_points_with_repeats(x: np.ndarray, k: int, init: Start) -> None:
    results = [kmeans(x, k, key=KEY, init=init, iterations=i, tolerance=0) for i in range(5)]
    inertias = [float(result.inertia) for result in results]
    for before, after in itertools.pairwise(inertias):
        assert after <= before * (1 + 1e-5) + 1e-6
    last = results[-1]
    assert np.all(np.isfinite(last.centroids)) and last.counts.sum() == 12
    np.testing.assert_allclose(last.inertia, inertia(x, last), rtol=1e-4, atol=1e-5)
    if k >= len(np.unique(x, axis=0)):
        found = kmeans(x, k, key=KEY, init=init, iterations=25)
        assert found.inertia == 0
        assert np.sum(np.asarray(found.counts) > 0) == len(np.unique(x, axis=0))


@hypothesis.given(factor=st.sampled_from([1e-12, 0.5, 3.0, 1e6]), seed=st.integers(0, 100))
def test_scaling_the_weights_scales_the_inertia_alone(factor: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, weights = rng.normal(size=(200, 2)).astype(np.float32), rng.uniform(0.1, 1, 200).astype(np.float32)
    start = x[:8]
    one = kmeans(x, 8, key=KEY, weights=weights, initial=start)
    two = kmeans(x, 8, key=KEY, weights=weights * np.float32(factor), initial=start)
    np.testing.assert_allclose(two.inertia, one.inertia * factor, rtol=1e-3)
    np.testing.assert_allclose(two.centroids, one.centroids, atol=1e-2)


@hypothesis.given(seed=st.integers(0, 100), init=st.sampled_from(STARTS))
def test_masked_points_have_no_influence_whatever_they_hold(seed: int, init: Start) -> None:
    rng = np.random.default_rng(seed)
    x, mask = rng.normal(size=(100, 2)).astype(np.float32), rng.random(100) < 0.6  # a shape that another test has
    weights = rng.uniform(0.1, 1, 100).astype(np.float32)
    first, second = (np.where(mask[:, None], x, np.float32(filler)) for filler in (np.nan, 1e30))
    one = kmeans(first, 6, key=KEY, mask=mask, weights=weights, init=init)
    two = kmeans(second, 6, key=KEY, mask=mask, weights=np.where(mask, weights, 9), init=init)
    jax.tree.map(np.testing.assert_array_equal, one, two)
    assert np.all(np.asarray(one.codes)[~mask] == 0)
    assert one.counts.sum() == mask.sum()
    np.testing.assert_allclose(one.inertia, inertia(x, one, weights * mask), rtol=1e-5)


@hypothesis.given(seed=st.integers(0, 100))
def test_the_order_of_points_is_of_no_account(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, order = rng.normal(size=(300, 2)).astype(np.float32), rng.permutation(300)
    one, two = kmeans(x, 5, key=KEY, initial=x[:5]), kmeans(x[order], 5, key=KEY, initial=x[:5])
    np.testing.assert_allclose(one.inertia, two.inertia, rtol=1e-3)


@pytest.mark.parametrize(
    "init",
    [start if start == "linear" else pytest.param(start, marks=pytest.mark.slow) for start in STARTS],
)
def test_a_batch_is_a_loop(rng: np.random.Generator, init: Start) -> None:
    x, mask = rng.normal(size=(3, 100, 2)).astype(np.float32), rng.random((3, 100)) < 0.8
    together = kmeans(x, 6, key=KEY, mask=mask, init=init)
    for i, key in enumerate(jax.random.split(KEY, 3)):
        alone = kmeans(x[i], 6, key=key, mask=mask[i], init=init)
        np.testing.assert_allclose(together.inertia[i], alone.inertia, rtol=1e-4)
        np.testing.assert_array_equal(together.codes[i], alone.codes)
        assert together.steps[i] == alone.steps


def test_restarts_never_hurt_and_a_key_decides_everything(rng: np.random.Generator) -> None:
    x = rng.normal(size=(400, 2)).astype(np.float32)
    for seed in range(4):
        key = jax.random.key(seed)
        one, four = (kmeans(x, 15, key=key, init="random", restarts=restarts) for restarts in (1, 4))
        assert four.inertia <= one.inertia
        jax.tree.map(np.testing.assert_array_equal, four, kmeans(x, 15, key=key, init="random", restarts=4))


def test_pinned_centroids_stay_and_come_first(rng: np.random.Generator) -> None:
    x = rng.normal(size=(2, 500, 1)).astype(np.float32) + 1
    result = kmeans(x, 4, key=KEY, pinned=[[0.1]])
    assert np.all(result.centroids[:, 0] == np.float32(0.1))
    assert np.all(result.counts > 0)
    given = kmeans(x[0], 3, key=KEY, pinned=[[0.1]], initial=[[1.0], [2.0]])
    assert given.centroids[0, 0] == np.float32(0.1) and given.inertia <= result.inertia[0] * 2
    fixed = kmeans(x[0], 2, key=KEY, pinned=[[0.0], [2.0]])
    np.testing.assert_array_equal(fixed.centroids, [[0.0], [2.0]])


def test_centroids_without_points_are_moved_to_far_ones() -> None:
    x = np.array([[0.0], [1], [10], [11], [50], [51]], np.float32)
    result = kmeans(x, 3, key=KEY, initial=[[5.0], [900], [901]])
    assert result.repaired == 2
    np.testing.assert_allclose(np.sort(result.centroids[:, 0]), [0.5, 10.5, 50.5])
    same = kmeans(x, 6, key=KEY, initial=np.full((6, 1), 7.0))
    assert same.inertia == 0 and same.repaired >= 5
    alike = kmeans(np.ones((5, 2)), 4, key=KEY)
    assert alike.repaired == 0 and alike.converged
    np.testing.assert_array_equal(alike.counts, [5, 0, 0, 0])
    np.testing.assert_array_equal(alike.centroids, 1)


def test_points_without_weight_get_a_code_and_move_nothing(rng: np.random.Generator) -> None:
    x = np.concatenate([rng.normal(size=(11, 2)), [[1000, 1000]]]).astype(np.float32)
    weights = np.append(np.ones(11), 0)
    for init in STARTS:
        result = kmeans(x, 16, key=KEY, weights=weights, init=init)
        assert np.max(result.centroids) < 100 and result.counts.sum() == 12
    nothing = kmeans(x, 4, key=KEY, mask=np.zeros(12, bool))
    np.testing.assert_array_equal(nothing.centroids, 0)
    assert nothing.counts.sum() == 0 and nothing.inertia == 0


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e15, 1e30])
def test_any_scale(rng: np.random.Generator, scale: float) -> None:
    x = rng.normal(size=(200, 2)).astype(np.float32)
    one, two = kmeans(x, 5, key=KEY), kmeans(x * np.float32(scale), 5, key=KEY)
    np.testing.assert_allclose(two.centroids / np.float32(scale), one.centroids, rtol=1e-3, atol=1e-3)
    assert two.converged


def test_the_inertia_keeps_its_digits_far_from_the_origin(rng: np.random.Generator) -> None:
    x = (1000 + rng.normal(size=(3000, 2))).astype(np.float32)
    result = kmeans(x, 4, key=KEY)
    np.testing.assert_allclose(result.inertia, inertia(x, result), rtol=1e-4)


def test_equal_shapes_compile_once_and_jit_changes_nothing(rng: np.random.Generator) -> None:
    x = rng.normal(size=(123, 2)).astype(np.float32)
    first = kmeans(x, 5, key=KEY, iterations=10)
    batch = np.stack([x, x])
    kmeans(batch, 5, key=KEY, iterations=10)
    before = pieces._measure.outer._cache_size(), problem.solve.outer._cache_size()
    for i in range(3):
        kmeans(x + np.float32(i), 5, key=jax.random.key(i), iterations=10 + i, tolerance=10.0**-i)
        kmeans(x[i:], 5, key=jax.random.key(i), initial=x[:5])  # pieces are filled up
        kmeans(batch + np.float32(i), 5, key=jax.random.key(i), iterations=10 + i, tolerance=10.0**-i)
    assert (pieces._measure.outer._cache_size(), problem.solve.outer._cache_size()) == before
    inside = jax.jit(lambda x, key: kmeans(x, 5, key=key, iterations=10))(x, KEY)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), inside, first)


def test_the_layers_of_a_network_share_their_programs(rng: np.random.Generator) -> None:
    before = pieces._measure.outer._cache_size()
    for n in (64, 700, 2048, 2049, 5000, 40_000):  # layers of many sizes, blocks of two
        for d, k in ((4, 16), (9, 16)):
            x = rng.normal(size=(n, d)).astype(np.float32)
            kmeans(x, k, key=KEY, initial=x[:k], iterations=1)
    assert pieces._measure.outer._cache_size() == before + 2


def test_half_precision_is_computed_in_single(rng: np.random.Generator) -> None:
    x = jnp.asarray(rng.normal(size=(200, 2)), jnp.bfloat16)
    half, single = kmeans(x, 5, key=KEY), kmeans(x.astype(jnp.float32), 5, key=KEY)
    assert half.centroids.dtype == jnp.float32
    jax.tree.map(np.testing.assert_array_equal, half, single)


def test_memory_stays_under_the_stated_bound() -> None:
    n, d, k = 200_000, 4, 1024
    given = problem.Problem(
        jnp.zeros((n, d)), jnp.ones(n), jnp.ones(n, bool), jnp.zeros((0, d)), jnp.zeros((k, d)), KEY
    )
    limits = problem.Limits(jnp.int32(5), jnp.float32(0), jnp.int32(0))
    settings = problem.Settings(k, "k-means++", 1, None, 32)
    analysis = problem.solve.outer.lower(given, limits, settings=settings).compile().memory_analysis()
    if analysis is None:
        pytest.skip("this backend does not report memory")
    allowance = 2 * 4 * n * d + 32 * n + 2**20
    assert analysis.temp_size_in_bytes < allowance < 4 * n * k / 10


def test_wrong_arguments_are_told() -> None:
    x = np.zeros((4, 2), np.float32)
    bad = np.array([[np.inf, 1]], np.float32)
    cases: list[tuple[str, Any, Any, dict[str, Any]]] = [
        ("k is 0", x, 0, {}),
        ("empty", np.zeros((0, 2)), 2, {}),
        ("1 NaN or infinite", bad, 1, {}),
        ("weights has shape", x, 2, {"weights": np.ones(3)}),
        ("negative", x, 2, {"weights": -np.ones(4)}),
        ("weights of shape .* 4 NaN", x, 2, {"weights": np.full(4, np.nan)}),
        ("pinned, but k is 1", x, 1, {"pinned": np.zeros((2, 2))}),
        (r"expected \[.., 1, 2\]", x, 2, {"pinned": np.zeros((1, 2)), "initial": x[:2]}),
        ("did you mean 'k-means\\+\\+'", x, 2, {"init": "kmeans++"}),
        ("restarts is 2", x, 2, {"init": "linear", "restarts": 2}),
        ("tolerance is nan", x, 2, {"tolerance": np.nan}),
        ("iterations is 1.5", x, 2, {"iterations": 1.5}),
        ("rows differ in length", [[1, 2], [3]], 2, {}),
        ("array of <U1", [["a"]], 2, {}),
        ("key is 3; expected one", x, 2, {"key": 3}),
        ("key is an array of shape \\(2,\\)", x, 2, {"key": jax.random.split(KEY, 2)}),
        ("complex64", x * np.complex64(1j), 2, {}),
    ]
    for message, points, k, options in cases:
        with pytest.raises(LeafError, match=message):
            kmeans(points, k, **{"key": KEY, **options})


def test_an_outlier_costs_one_centroid_and_no_more(rng: np.random.Generator) -> None:
    x = rng.normal(size=(3000, 2)).astype(np.float32)
    for far in (1e3, 1e6):
        with_outlier = np.concatenate([x, [[far, far]]]).astype(np.float32)
        start = np.concatenate([x[:7], with_outlier[-1:]])
        found, alone = kmeans(with_outlier, 8, key=KEY, initial=start), kmeans(x, 7, key=KEY, initial=x[:7])
        np.testing.assert_allclose(found.inertia, alone.inertia, rtol=1e-3)
        assert np.all(np.diff(found.history) <= 1e-5 * found.inertia) and found.repaired == 0


def test_large_integers_and_far_pinned_centroids(rng: np.random.Generator) -> None:
    x = rng.normal(size=(300, 3)).astype(np.float32)
    far = kmeans((x * 1e6).astype(np.int64) + 2**40, 4, key=KEY)
    assert np.all(np.abs(far.centroids - 2.0**40) < 1e8)
    for scale in (1e-30, 1e-20):
        result = kmeans(x * np.float32(scale), 4, key=KEY, pinned=np.full((1, 3), 1e15))
        assert np.all(np.isfinite(result.centroids)) and np.isfinite(result.inertia)


def test_a_large_problem_in_threads_is_the_same_problem(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    n = 2 * search.BLOCKS * search.BLOCK + 777
    x, weights = rng.normal(size=(n, 2)).astype(np.float32), rng.uniform(0, 2, n).astype(np.float32)
    mask = rng.random(n) < 0.9
    settings: dict[str, Any] = {"key": KEY, "weights": weights, "mask": mask, "pinned": np.zeros((1, 2)), "restarts": 2}
    found = {}
    for threads in (1, 3):
        monkeypatch.setenv("NPROC", str(threads))
        found[threads] = kmeans(x, 12, iterations=6, tolerance=0, **settings)
        for one, two in zip(found[threads], found[1], strict=True):
            np.testing.assert_array_equal(one, two)
    monkeypatch.setattr(module, "on_host", lambda *arguments: False)
    monkeypatch.setattr(module, "filled", lambda problem: problem)  # with more points others would be drawn
    alone = kmeans(x, 12, iterations=6, tolerance=0, **settings)
    np.testing.assert_allclose(found[1].centroids, alone.centroids, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found[1].inertia, alone.inertia, rtol=1e-5)
    assert np.mean(np.asarray(found[1].codes) == alone.codes) > 0.999
    assert (found[1].steps, found[1].converged) == (alone.steps, alone.converged)


def test_threads_repair_and_stop_as_one_does(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    n = 2 * search.BLOCKS * search.BLOCK
    x = np.repeat(rng.normal(size=(8, 3)), n // 8, axis=0).astype(np.float32)
    found = kmeans(x, 8, key=KEY, initial=x[:8])  # eight copies of one point
    assert found.repaired > 0 and found.inertia < 1e-4 and found.converged
    np.testing.assert_array_equal(found.counts, n // 8)
    monkeypatch.setattr(module, "on_host", lambda *arguments: False)
    alone = kmeans(x, 8, key=KEY, initial=x[:8])
    assert (found.repaired, found.steps) == (alone.repaired, alone.steps)
