"""Probabilistic rounding: right on average, and spread as the formula says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantree.errors import ConfigError
from quantree.quantizers import Budget, Probabilistic
from quantree.schema import validate
from tests.compilations import compilations


def learn(k: int, x: np.ndarray, mask: np.ndarray | None = None, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """x [n] -> levels [k], codes [n]."""
    taking = np.ones((1, x.size), bool) if mask is None else mask[None]
    blocks = jnp.asarray(x.reshape(1, -1, 1).astype(np.float32))
    book, codes = Probabilistic(k=k).learn(blocks, jnp.asarray(taking), jax.random.key(seed))
    return np.asarray(book.table())[0, :, 0], np.asarray(codes)[0]


@pytest.mark.parametrize(("n", "k"), [(500, 2), (500, 5), (499, 16), (40, 64)])
def test_levels_are_quantiles_of_what_takes_part(n: int, k: int) -> None:
    x, mask = np.random.default_rng(n).normal(size=n).astype(np.float32), np.arange(n) % 4 > 0
    levels, codes = learn(k, np.where(mask, x, -50), mask)
    np.testing.assert_allclose(levels, np.quantile(x[mask], np.linspace(0, 1, k)), rtol=1e-5, atol=1e-6)
    assert codes[mask].min() >= 0 and codes[mask].max() < k


def test_weights_are_right_on_average_with_the_variance_of_the_formula() -> None:
    x = np.random.default_rng(0).laplace(size=200).astype(np.float32)
    levels, _ = learn(6, x)
    draws = np.stack([levels[learn(6, x, seed=seed)[1]] for seed in range(400)]).astype(np.float64)
    above = np.clip(np.searchsorted(levels, x), 1, 5)
    low, high = levels[above - 1].astype(np.float64), levels[above].astype(np.float64)
    assert ((draws == low) | (draws == high)).all(), "a weight goes to one of its two neighbours"
    variance = (x - low) * (high - x)
    assert (draws[:, variance < 1e-12] == x[variance < 1e-12]).all(), "a weight on a level stays there"
    spread = np.sqrt(np.maximum(variance, 1e-12) / len(draws))
    assert (np.abs(draws.mean(axis=0) - x) < 5 * spread + 1e-6).all()
    assert np.mean((draws - x) ** 2) == pytest.approx(variance.mean(), rel=0.03)


@given(
    st.sampled_from([1, 8]).flatmap(
        lambda n: st.lists(st.sampled_from([-1, 0, 0.25, 3, 1e-30]), min_size=n, max_size=n)
    ),
    st.sampled_from([2, 5]),
)
def test_ties_and_few_values(values: list[float], k: int) -> None:
    x = np.asarray(values, np.float32)
    levels, codes = learn(k, x)
    assert np.isfinite(levels).all() and (np.diff(levels) >= 0).all()
    below, above = (levels <= x[:, None]).sum(axis=1) - 1, (levels < x[:, None]).sum(axis=1)
    assert ((levels[codes] == levels[below]) | (levels[codes] == levels[above])).all()
    if x.min() == x.max():
        np.testing.assert_array_equal(levels[codes], x)


def test_neighbouring_sizes_and_seeds_share_a_program() -> None:
    learn(4, np.arange(100.0))
    with compilations() as compiled:
        learn(4, np.arange(120.0), seed=3)
    assert not [name for name in compiled if "_draw" in name]


def test_budget_leaves_it_alone() -> None:
    assert Probabilistic.ladder() == ()
    with pytest.raises(ConfigError, match="'probabilistic' has no ladder of settings that fit; give its settings"):
        validate(Budget, {"ratio": 2, "learners": ["probabilistic"]})
