"""Soft k-means: its limits, its gradient against unrolled autodiff and finite differences, its memory."""

from typing import Any

import hypothesis
import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.mixture

from quantree.clustering import assign, kmeans
from quantree.clustering.soft import SoftKMeans, soft_kmeans
from quantree.errors import LeafError
from tests.compilations import compilations

KEY = jax.random.key(3)
EXACT: dict[str, Any] = {"tolerance": 1e-10, "iterations": 3000}


def unrolled(x: Any, start: Any, temperature: Any, weights: Any, pinned: Any, steps: int = 2000) -> tuple[Any, Any]:
    """Centroids and soft points by the definition, n x k numbers at a time."""

    def attention(centroids: jax.Array) -> jax.Array:
        squares = jnp.sum((x[:, None] - centroids[None]) ** 2, axis=2)
        return jax.nn.softmax(-squares / temperature, axis=1)

    def step(centroids: jax.Array, _: None) -> tuple[jax.Array, None]:
        shares = attention(centroids) * weights[:, None]
        means = shares.T @ x / jnp.sum(shares, axis=0)[:, None]
        return jnp.concatenate([pinned, means[len(pinned) :]]), None

    centroids, _ = jax.lax.scan(step, jnp.concatenate([pinned, start]), None, length=steps)
    return centroids, attention(centroids) @ centroids


def projected(found: Any, towards: Any) -> jax.Array:
    """A number that depends on all centroids and points."""
    return jnp.sum(towards[0] * found[0]) + jnp.sum(towards[1] * found[1])


@pytest.mark.slow  # finite differences tell the same in the quick suite
@pytest.mark.parametrize(("d", "free", "pinned", "temperature"), [(2, 4, 1, 0.1), (1, 4, 0, 0.05), (3, 3, 0, 0.2)])
def test_the_gradient_is_that_of_an_unrolled_run(
    rng: np.random.Generator, d: int, free: int, pinned: int, temperature: float
) -> None:
    with jax.enable_x64(True):
        x, weights = jnp.asarray(rng.normal(size=(150, d))), jnp.asarray(rng.uniform(0.5, 2, 150))
        start, held = kmeans(x, free, key=KEY).centroids, jnp.zeros((pinned, d), x.dtype)
        towards = [jnp.asarray(rng.normal(size=shape)) for shape in ((free + pinned, d), (150, d))]

        def ours(x: Any, heat: Any, weights: Any, pinned: Any) -> jax.Array:
            found = soft_kmeans(x, start, temperature=heat, weights=weights, pinned=pinned, **EXACT)
            return projected(found, towards)

        def theirs(x: Any, heat: Any, weights: Any, pinned: Any) -> jax.Array:
            return projected(unrolled(x, start, heat, weights, pinned), towards)

        at = x, jnp.asarray(temperature, x.dtype), weights, held
        places = (0, 1, 2, 3) if pinned else (0, 1, 2)
        found, wanted = (jax.value_and_grad(function, places)(*at) for function in (ours, theirs))
        np.testing.assert_allclose(found[0], wanted[0], rtol=1e-6)
        for one, other in zip(found[1], wanted[1], strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * float(jnp.max(jnp.abs(other))))


def test_the_gradient_is_that_of_finite_differences(rng: np.random.Generator) -> None:
    with jax.enable_x64(True):
        x, start = rng.normal(size=(40, 2)), rng.normal(size=(3, 2))
        towards = [rng.normal(size=shape) for shape in ((3, 2), (40, 2))]

        def value(x: Any) -> jax.Array:
            return projected(soft_kmeans(x, start, temperature=0.15, **EXACT), towards)

        gradient = np.asarray(jax.grad(value)(jnp.asarray(x)))
        for i, j in ((0, 0), (7, 1), (33, 0)):
            step = np.zeros_like(x)
            step[i, j] = 1e-5
            slope = (float(value(x + step)) - float(value(x - step))) / 2e-5
            assert gradient[i, j] == pytest.approx(slope, rel=1e-4)


def test_it_is_a_mixture_of_equal_gaussians(rng: np.random.Generator) -> None:
    # scikit-learn's mixture with one round covariance fits it too; started at what it has found, it stays there.
    x = np.concatenate([rng.normal(center, 0.6, size=(400, 2)) for center in ((-2, 0), (2, 0), (0, 3))])
    theirs: Any = sklearn.mixture.GaussianMixture(3, covariance_type="spherical", tol=1e-9, max_iter=1, random_state=0)
    spread = 0.6
    theirs.set_params(means_init=(start := np.array([[-1.0, 0], [1, 0], [0, 2]])), weights_init=np.ones(3) / 3)
    theirs.set_params(precisions_init=np.full(3, 1 / spread**2))
    with pytest.warns(match="did not converge"):
        theirs.fit(x)
    ours = soft_kmeans(x, start, temperature=2 * spread**2, iterations=1)
    np.testing.assert_allclose(ours.centroids, theirs.means_, atol=1e-4)
    assert ours.steps == 1 and not ours.converged


@pytest.mark.parametrize("temperature", [0.0, 1e-6])
@pytest.mark.parametrize(("d", "k"), [(1, 6), pytest.param(4, 9, marks=pytest.mark.slow)])
def test_a_cold_one_is_hard(rng: np.random.Generator, d: int, k: int, temperature: float) -> None:
    x = (5 + rng.normal(size=(700, d))).astype(np.float32)
    start = x[:k]
    hard = kmeans(x, k, key=KEY, initial=start, iterations=300, tolerance=0)
    soft = soft_kmeans(x, start, temperature=temperature, iterations=300, tolerance=1e-7)
    assert hard.repaired == 0 and soft.converged
    np.testing.assert_allclose(soft.centroids, hard.centroids, atol=1e-4)
    np.testing.assert_allclose(soft.points, soft.centroids[assign(x, soft.centroids)], atol=2e-3 if temperature else 0)
    gradient = jax.grad(lambda x: jnp.sum(soft_kmeans(x, start, temperature=0.0, iterations=300).points ** 2))(
        jnp.asarray(x)
    )
    # Each point moves its own centroid alone, by its share in the mean.
    np.testing.assert_allclose(gradient, 2 * soft.centroids[hard.codes], rtol=1e-3, atol=1e-3)


@hypothesis.given(
    arrays.arrays(np.float32, (6, 2), elements=st.floats(-4, 4, width=16)),
    st.sampled_from([0.0, 1e-5, 0.1, 10.0, 1e30]),
)
def test_nothing_is_ever_nan(x: np.ndarray, temperature: float) -> None:
    start = np.resize(x, (8, 2))  # some of them twice
    towards = np.random.default_rng(0).normal(size=x.shape).astype(np.float32)

    def value(x: jax.Array) -> tuple[jax.Array, SoftKMeans]:
        found = soft_kmeans(x, start, temperature=temperature, iterations=20)
        return jnp.sum(towards * found.points), found

    gradient, found = jax.grad(value, has_aux=True)(jnp.asarray(x))
    assert np.isfinite(gradient).all()
    low, high = x.min() - 1e-4, x.max() + 1e-4
    for each in (found.centroids, found.points):
        assert ((low <= np.asarray(each)) & (np.asarray(each) <= high)).all()


def test_masks_weights_and_batches(rng: np.random.Generator) -> None:
    x, mask = rng.normal(size=(2, 60, 2)).astype(np.float32), rng.random((2, 60)) < 0.6
    start, heat = rng.normal(size=(2, 3, 2)).astype(np.float32), np.array([0.1, 0.3], np.float32)
    dirty = np.where(mask[..., None], x, np.float32(np.nan))

    def value(x: jax.Array) -> tuple[jax.Array, SoftKMeans]:
        found = soft_kmeans(x, start, temperature=heat, mask=mask)
        return jnp.sum(jnp.sin(found.points)), found

    gradient, found = jax.grad(value, has_aux=True)(jnp.asarray(dirty))
    assert not found.points[~mask].any() and not gradient[~mask].any()
    weighted = soft_kmeans(x, start, temperature=heat, weights=mask.astype(np.float32))
    np.testing.assert_allclose(weighted.centroids, found.centroids, rtol=1e-4, atol=1e-5)
    for i in range(2):
        alone = soft_kmeans(x[i][mask[i]], start[i], temperature=heat[i])
        np.testing.assert_allclose(found.centroids[i], alone.centroids, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(found.points[i][mask[i]], alone.points, rtol=1e-3, atol=1e-4)


def test_far_away_and_in_other_units_it_is_the_same(rng: np.random.Generator) -> None:
    x = np.round(rng.normal(size=(200, 2)), 2).astype(np.float32)
    near = soft_kmeans(x, x[:4], temperature=0.05)
    for unit in (1e-25, 1e15):
        scale = np.float32(unit)
        with np.errstate(under="ignore"):
            heat = np.float32(0.05 * unit**2) if unit > 1 else np.float32(0)
        found = soft_kmeans(x * scale, x[:4] * scale, temperature=heat)
        wanted = near if unit > 1 else soft_kmeans(x, x[:4], temperature=0)
        np.testing.assert_allclose(found.centroids / scale, wanted.centroids, rtol=1e-3, atol=1e-3)
    away = soft_kmeans(x.astype(np.float64) + 1024, x[:4] + 1024, temperature=0.05)
    np.testing.assert_allclose(away.centroids - 1024, near.centroids, atol=5e-3)
    held = soft_kmeans(x + 7, x[:3], pinned=np.full((1, 2), 0.1), temperature=0.05)
    assert (held.centroids[0] == np.float32(0.1)).all()


def test_memory_does_not_grow_with_n_times_k_or_with_iterations(rng: np.random.Generator) -> None:
    n, k = 65536, 256
    start = jnp.asarray(rng.normal(size=(k, 1)), jnp.float32)

    def value(x: jax.Array) -> jax.Array:
        return jnp.sum(soft_kmeans(x, start, temperature=0.01, iterations=50).points ** 2)

    compiled = jax.jit(jax.grad(value)).lower(jax.ShapeDtypeStruct((n, 1), jnp.float32)).compile()
    analysis: Any = compiled.memory_analysis()
    assert analysis.temp_size_in_bytes < n * k  # a quarter of n x k numbers; 50 unrolled iterations hold 50 times that


def test_other_temperatures_and_limits_compile_nothing(rng: np.random.Generator) -> None:
    x = rng.normal(size=(50, 1)).astype(np.float32)
    soft_kmeans(x, x[:3], temperature=0.1)
    with compilations() as compiled:
        soft_kmeans(x, x[:3], temperature=0.2, iterations=7, tolerance=1e-3)
    assert compiled == []


def test_wrong_arguments_are_told() -> None:
    x: Any = np.ones((5, 2), np.float32)
    for arguments, reason in (
        ({"centroids": np.ones((3, 1))}, r"centroids has shape \(3, 1\); expected \[.., number of centroids, 2\]"),
        ({"centroids": np.ones((0, 2))}, "k is 0"),
        ({"pinned": np.ones(2)}, "pinned has shape"),
        ({"temperature": -1.0}, "temperature is -1.0; expected at least 0"),
        ({"temperature": np.nan}, "temperature of shape .* NaN"),
        ({"temperature": np.ones(2)}, r"temperature has shape \(2,\)"),
        ({"iterations": -1}, "iterations is -1"),
        ({"tolerance": np.nan}, "tolerance is nan"),
        ({"weights": -np.ones(5)}, "weights are negative"),
        ({"mask": np.ones(4)}, "mask has shape"),
        ({"x": np.full((5, 2), np.inf)}, "NaN or infinite"),
        ({"x": np.ones((0, 2))}, "is empty"),
    ):
        with pytest.raises(LeafError, match=reason):
            soft_kmeans(**{"x": x, "centroids": x[:2], "temperature": 0.1, **arguments})
    nobody = soft_kmeans(x, x[:2] + 1, temperature=0.1, mask=np.zeros(5))
    np.testing.assert_array_equal(nobody.centroids, x[:2] + 1)
