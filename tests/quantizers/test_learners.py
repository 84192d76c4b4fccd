"""The learners alone: vectors in, codebook and codes out."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.cluster
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from quantree.clustering.problem import bucket
from quantree.encodings import Affine
from quantree.errors import ConfigError
from quantree.quantizers import EntropyConstrained, EntropyLloyd, KMeans, Learner, Uniform
from quantree.quantizers.annealed import Annealed
from quantree.quantizers.base import LADDER
from quantree.quantizers.kmeans import affordable
from quantree.schema import validate
from tests.compilations import compilations

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


def learn(learner: Learner, x: np.ndarray, mask: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, float]:
    """x [n] or [n, d] -> centroids [k, d], codes [n], inertia over what the mask lets take part."""
    blocks = x.reshape(1, len(x), -1).astype(np.float32)
    taking = np.ones((1, len(x)), bool) if mask is None else mask[None]
    book, codes = learner.learn(jnp.asarray(blocks), jnp.asarray(taking), KEY)
    table, found = np.asarray(book.table())[0], np.asarray(codes)[0]
    squares = np.sum((table[found].astype(np.float64) - blocks[0]) ** 2, axis=1)
    return table, found, float(squares[taking[0]].sum())


# --- k-means --------------------------------------------------------------------------------------------------------


def sklearns(x: np.ndarray, k: int, **settings: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sklearn.cluster.KMeans(k, random_state=0, **settings).fit(x.reshape(len(x), -1))  # pyright: ignore


@pytest.mark.parametrize("k", [2, 16])
def test_scalars_are_as_near_as_the_best_of_scikit_learns_runs(k: int) -> None:
    x = np.concatenate([RNG.normal(size=300), RNG.normal(5, 0.1, size=100)])
    assert learn(KMeans(k=k), x)[2] <= sklearns(x, k, n_init=10).inertia_ * 1.0001


def test_vectors_are_as_near_as_scikit_learns() -> None:
    x = RNG.normal(size=(300, 3))
    table, codes, inertia = learn(KMeans(k=8, restarts=4), x)
    assert table.shape == (8, 3) and codes.shape == (300,)
    assert inertia <= sklearns(x, 8, n_init=4).inertia_ * 1.03


@pytest.mark.parametrize("init", ["linear", "density"])
def test_starts_of_han_lead_where_lloyd_leads_from_them(init: str) -> None:
    x = np.sort(RNG.exponential(size=200)).astype(np.float32)
    start = (
        np.linspace(x[0], x[-1], 6) if init == "linear" else x[np.ceil((np.arange(6) + 0.5) / 6 * 200).astype(int) - 1]
    )
    wanted = sklearns(x, 6, init=start[:, None], n_init=1, algorithm="lloyd", tol=0, max_iter=300)
    table, _, inertia = learn(KMeans.model_validate({"k": 6, "init": init, "iterations": 300, "tolerance": 0.0}), x)
    np.testing.assert_allclose(np.sort(table[:, 0]), np.sort(wanted.cluster_centers_[:, 0]), rtol=1e-4)
    np.testing.assert_allclose(inertia, wanted.inertia_, rtol=1e-4)


@pytest.mark.parametrize("width", [1, 2])
def test_masked_blocks_take_no_part(width: int) -> None:
    x = RNG.normal(size=(60, width))
    mask = RNG.random(60) < 0.5
    far = np.where(mask[:, None], x, 1e6)
    table, codes, inertia = learn(KMeans(k=5), far, mask)
    assert np.abs(table).max() < 10
    assert inertia <= sklearns(x[mask], 5, n_init=1).inertia_ * 1.3
    assert codes.min() >= 0 and codes.max() < 5


@pytest.mark.parametrize(("n", "k"), [(1024, 256), (1023, 128), (40, 8), (5, 1), (3, 1)])
def test_k_is_the_largest_power_of_two_that_leaves_each_centroid_its_blocks(n: int, k: int) -> None:
    # Martinez et al. 2021: k is at most the largest power of two up to N / 4.
    assert affordable(256, n, 4) == k
    assert affordable(6, 1024, 4) == 6
    x = np.random.default_rng(0).normal(size=(1, 40, 2)).astype(np.float32)
    for learner in (KMeans(k=256, least_blocks=4), Annealed(k=256, least_blocks=4, steps=2)):
        book, _ = learner.learn(jnp.asarray(x), jnp.ones((1, 40), bool), jax.random.key(0))
        assert book.table().shape == (1, 8, 2)


def test_segments_are_independent() -> None:
    blocks = RNG.normal(size=(3, 40, 2)).astype(np.float32) + np.asarray([0, 100, -100], np.float32)[:, None, None]
    book, codes = KMeans(k=4).learn(jnp.asarray(blocks), jnp.ones((3, 40), bool), KEY)
    table = np.asarray(book.table())
    assert table.shape == (3, 4, 2) and codes.shape == (3, 40)
    for i, centre in enumerate((0, 100, -100)):
        assert np.abs(table[i] - centre).max() < 10


@given(st.integers(1, 1 << 20))
def test_sizes_come_in_few_kinds_and_never_grow_by_more_than_half(n: int) -> None:
    assert n <= bucket(n) <= max(1.5 * n, n + 1)
    assert bucket(bucket(n)) == bucket(n)
    assert bin(bucket(n)).count("1") <= 2


@pytest.mark.parametrize("init", ["linear", "density"])
def test_restarts_that_could_not_differ_are_refused(init: str) -> None:
    with pytest.raises(ConfigError, match=rf"restarts: every run from init '{init}' is the same"):
        validate(KMeans, {"k": 2, "init": init, "restarts": 2})


# --- Uniform --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [2, 3, 16])
def test_levels_from_the_least_to_the_greatest_weight(k: int) -> None:
    x = RNG.normal(size=100).astype(np.float32)
    table, codes, _ = learn(Uniform(k=k, clip="none"), x)
    np.testing.assert_allclose(table[:, 0], np.linspace(x.min(), x.max(), k), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(codes, np.abs(x[:, None] - table[:, 0]).argmin(axis=1))


@pytest.mark.parametrize("k", [2, 4, 16])
def test_the_clipped_range_is_the_best_of_those_that_are_tried(k: int) -> None:
    x = np.concatenate([RNG.normal(size=200), [6.0, -9.0]]).astype(np.float32)
    errors = []
    for share in np.linspace(1, 0.1, 64):
        middle, half = (x.min() + x.max()) / 2, share * (x.max() - x.min()) / 2
        levels = np.linspace(middle - half, middle + half, k)
        errors.append(((x[:, None] - levels) ** 2).min(axis=1).sum())
    assert learn(Uniform(k=k), x)[2] == pytest.approx(min(errors), rel=1e-4)
    assert min(errors) < 0.9 * errors[0]


def test_uniform_looks_only_at_what_takes_part() -> None:
    x = RNG.normal(size=50).astype(np.float32)
    mask = np.arange(50) < 40
    table, _, _ = learn(Uniform(k=8, clip="none"), np.where(mask, x, 1e6), mask)
    np.testing.assert_allclose(table[[0, -1], 0], [x[:40].min(), x[:40].max()], rtol=1e-5)


@pytest.mark.parametrize("value", [0.0, -3.0, 1e-30, 1e30])
@pytest.mark.parametrize("clip", ["none", "mse"])
def test_one_value_repeated_is_coded_exactly(value: float, clip: str) -> None:
    table, codes, _ = learn(Uniform.model_validate({"k": 4, "clip": clip}), np.full(5, value))
    np.testing.assert_array_equal(table[codes, 0], np.full(5, value, np.float32))


def test_uniform_compiles_once_for_all_k_and_neighbouring_sizes() -> None:
    learn(Uniform(k=2), RNG.normal(size=100))
    with compilations() as compiled:
        for k, n, clip in ((3, 100, "mse"), (17, 120, "mse"), (256, 128, "none")):
            blocks, mask = (
                jnp.asarray(RNG.normal(size=(1, n, 1)).astype(np.float32)),
                jnp.asarray(np.ones((1, n), bool)),
            )
            Uniform.model_validate({"k": k, "clip": clip}).learn(blocks, mask, KEY)
    assert not [name for name in compiled if "_fit" in name]


def test_a_uniform_codebook_is_two_numbers() -> None:
    book, _ = Uniform(k=300).learn(jnp.ones((1, 2, 1)), jnp.ones((1, 2), bool), KEY)
    assert isinstance(book, Affine) and book.size == 300
    assert sum(stream.data.size for stream in book.streams().values()) == 2


# --- Entropy-constrained --------------------------------------------------------------------------------------------


def rate(codes: np.ndarray) -> float:
    shares = np.bincount(codes) / codes.size
    return float(-np.sum(shares[shares > 0] * np.log2(shares[shares > 0])))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_a_slope_is_a_share_of_the_variance_and_bits_are_bits(scale: float) -> None:
    x = np.random.default_rng(0).laplace(size=4000) * scale
    table, codes, _ = learn(EntropyConstrained(slope=0.1), x)
    np.testing.assert_array_equal(codes, learn(EntropyConstrained(slope=0.1), x / scale)[1])
    np.testing.assert_array_equal(np.unique(codes), np.arange(len(table)))
    _, codes, _ = learn(EntropyConstrained(bits=2.0), x)
    assert 1.9 < rate(codes) <= 2.0
    _, iterative, worse = learn(EntropyLloyd(k=4, slope=0.1), x)
    assert 1 < rate(iterative) < 3 and np.isfinite(worse)


def test_pruned_values_have_no_part_in_the_rate() -> None:
    x, mask = RNG.normal(size=3000), RNG.random(3000) < 0.3
    table, codes, _ = learn(EntropyConstrained(bits=1.5), np.where(mask, x, 0), mask)
    alone, own, _ = learn(EntropyConstrained(bits=1.5), x[mask])
    np.testing.assert_array_equal(table, alone)
    np.testing.assert_array_equal(codes[mask], own)


@pytest.mark.parametrize(("k", "weight"), [(4, 0.2), (8, 0.05)])
def test_the_iterative_form_is_the_published_one_with_its_weight_in_nats(k: int, weight: float) -> None:
    """Marino et al.: argmin (w - c)^2 - lambda ln p, from 3 k chunks of equal size; emptied clusters go."""
    x = np.random.default_rng(0).laplace(size=3000).astype(np.float32)
    chunks = np.split(np.sort(x.astype(np.float64)), 3 * k)
    centroids, shares = np.asarray([chunk.mean() for chunk in chunks]), np.full(3 * k, 1 / (3 * k))
    codes = np.zeros(x.size, np.intp)
    for _ in range(50):
        nearest = np.argmin((x[:, None] - centroids) ** 2 - weight * np.log(shares), axis=1)
        _, codes, counts = np.unique(nearest, return_inverse=True, return_counts=True)
        centroids, shares = np.bincount(codes, x) / counts, counts / x.size
    slope = weight * np.log(2) / np.var(x, dtype=np.float64)
    table, found, _ = learn(EntropyLloyd(k=k, slope=slope, tolerance=0.0), x)
    np.testing.assert_allclose(table[:, 0], centroids, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found, codes)


def test_slope_or_bits() -> None:
    for wrong in ({}, {"slope": 0.1, "bits": 2.0}):
        with pytest.raises(ConfigError, match="give either slope or bits"):
            validate(EntropyConstrained, wrong)


# --- Ladders --------------------------------------------------------------------------------------------------------


def test_ladders_are_settings_from_coarse_to_fine() -> None:
    assert KMeans.ladder() == tuple(KMeans(k=k) for k in LADDER)
    assert [(each.k, each.clip) for each in Uniform.ladder()][:4] == [(2, "mse"), (2, "none"), (3, "mse"), (3, "none")]

    class Narrow(KMeans):
        k: int = Field(ge=4, le=16)

    assert [each.k for each in Narrow.ladder()] == [4, 5, 6, 8, 11, 16]
