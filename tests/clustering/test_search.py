"""`assign` against faiss, and its bound on memory."""

import faiss
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantree.clustering import assign
from quantree.clustering import search as module
from quantree.errors import LeafError


@pytest.mark.parametrize(("n", "d", "k"), [(1, 1, 1), (7, 2, 3), (2500, 4, 17), (1030, 9, 256), (300, 40, 33)])
def test_finds_the_same_centroids_as_faiss(rng: np.random.Generator, n: int, d: int, k: int) -> None:
    x, centroids = rng.normal(size=(n, d)).astype(np.float32), rng.normal(size=(k, d)).astype(np.float32)
    index = faiss.IndexFlatL2(d)
    index.add(centroids)  # pyright: ignore[reportCallIssue]
    expected = index.search(x, 1)[1][:, 0]  # pyright: ignore[reportCallIssue]
    codes = assign(x, centroids)
    assert codes.dtype == jnp.int32
    assert np.mean(codes == expected) > 0.999


def test_is_exact_far_from_the_origin_and_at_any_scale(rng: np.random.Generator) -> None:
    centroids = np.arange(50, dtype=np.float32)[:, None] * np.ones((1, 3), np.float32)
    wanted = rng.integers(0, 50, 400)
    x = centroids[wanted] + rng.uniform(-0.3, 0.3, (400, 3)).astype(np.float32)
    for scale, offset in [(1, 0), (1, 1e4), (1e-20, 0), (1e-30, 0), (1e18, 0), (1e30, 0)]:
        codes = assign(
            np.float32(scale) * (x + np.float32(offset)), np.float32(scale) * (centroids + np.float32(offset))
        )
        np.testing.assert_array_equal(codes, wanted)


@pytest.mark.parametrize("far", [1e3, 1e4, 1e5, 1e6])
def test_an_outlier_among_the_centroids_blurs_nothing(rng: np.random.Generator, far: float) -> None:
    x = rng.normal(size=(3000, 2)).astype(np.float32)
    centroids = np.concatenate([rng.normal(size=(7, 2)), [[far, far]]]).astype(np.float32)
    exact = np.sum((x[:, None].astype(np.float64) - centroids) ** 2, axis=2).argmin(axis=1)
    assert np.mean(assign(x, centroids) == exact) > 0.999


@pytest.mark.parametrize(
    "k", [pytest.param(2, marks=pytest.mark.slow), 5, 16, 17, pytest.param(40, marks=pytest.mark.slow), 300]
)
def test_ties_go_to_the_lowest_index(rng: np.random.Generator, k: int) -> None:
    x = rng.normal(size=(37, 3)).astype(np.float32)
    np.testing.assert_array_equal(assign(x, np.zeros((k, 3))), 0)
    distinct = rng.normal(size=(7, 3)).astype(np.float32)
    np.testing.assert_array_equal(assign(x, np.tile(distinct, (k, 1))), assign(x, distinct))


def test_a_batch_is_a_loop(rng: np.random.Generator) -> None:
    x, centroids = rng.normal(size=(3, 130, 2)), rng.normal(size=(3, 20, 2))
    np.testing.assert_array_equal(assign(x, centroids), [assign(a, c) for a, c in zip(x, centroids, strict=True)])
    np.testing.assert_array_equal(assign(x, centroids[0]), [assign(a, centroids[0]) for a in x])


def test_memory_stays_under_the_stated_bound() -> None:
    n, d, k = 200_000, 4, 1024
    compiled = module._assign.outer.lower(jnp.zeros((n, d)), jnp.zeros((k, d))).compile()
    analysis = compiled.memory_analysis()
    if analysis is None:
        pytest.skip("this backend does not report memory")
    allowance = 2 * 4 * n * d + 2 * 8 * n + 2**20  # two copies of x, scores and codes, and a block
    assert analysis.temp_size_in_bytes < allowance < 4 * n * k / 50


def test_wrong_arguments_are_told() -> None:
    x = np.zeros((5, 2))
    with pytest.raises(LeafError, match=r"centroids of shape \(3, 4\)"):
        assign(x, np.zeros((3, 4)))
    with pytest.raises(LeafError, match="empty"):
        assign(x, np.zeros((0, 2)))
    with pytest.raises(LeafError, match=r"x of shape .* 1 NaN"):
        assign(np.array([[np.nan, 0]]), x)
    with pytest.raises(LeafError, match=r"expected \[n, d\]"):
        assign(np.zeros(3), x)


def test_half_precision_is_computed_in_single(rng: np.random.Generator) -> None:
    x = jnp.asarray(rng.normal(size=(100, 4)), jnp.bfloat16)
    c = jnp.asarray(rng.normal(size=(20, 4)), jnp.bfloat16)
    np.testing.assert_array_equal(assign(x, c), assign(x.astype(jnp.float32), c.astype(jnp.float32)))
    assert jax.eval_shape(assign, x, c).dtype == jnp.int32


def test_codes_do_not_depend_on_threads(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    x = rng.normal(size=(3 * module.BLOCKS * module.BLOCK + 5, 3)).astype(np.float32)
    centroids = rng.normal(size=(20, 3)).astype(np.float32)
    found = {}
    for threads in (1, 2, 3, 64):
        monkeypatch.setenv("NPROC", str(threads))
        found[threads] = np.asarray(assign(x, centroids))
        np.testing.assert_array_equal(found[threads], found[1])
    np.testing.assert_array_equal(found[1], jax.jit(assign)(x, centroids))
