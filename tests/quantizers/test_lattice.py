"""Multiples of a step: which step, and what it gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantree.quantizers import Lattice


def learn(k: int, x: np.ndarray, mask: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """x [n] -> centroids [k], codes [n]."""
    taking = np.ones((1, x.size), bool) if mask is None else mask[None]
    blocks = jnp.asarray(x.reshape(1, -1, 1).astype(np.float32))
    book, codes = Lattice(k=k).learn(blocks, jnp.asarray(taking), jax.random.key(0))
    return np.asarray(book.table())[0, :, 0], np.asarray(codes)[0]


def as_published(x: np.ndarray, k: int) -> float:
    """The step that Marino et al. search: upward from 0.0001, by 0.0005."""
    step = 1e-4
    while len(np.unique(np.round(x / step))) > k:
        step += 5e-4
    return step


@pytest.mark.parametrize("k", [2, 3, 16, 32, 256])
@pytest.mark.parametrize("tails", [3, 100])
def test_the_step_is_that_of_the_paper_but_for_the_width_of_its_search(k: int, tails: int) -> None:
    x = np.random.default_rng(k).standard_t(tails, size=3000).astype(np.float32)
    table, codes = learn(k, x)
    far = table[np.abs(table).argmax()]
    step = float(far / np.round(far / np.diff(table).min()))
    np.testing.assert_allclose(table, np.round(table / step) * step, rtol=1e-5)
    assert len(table) <= k and 0 in table and np.unique(codes).size == len(table)
    assert np.abs(table[codes] - x).max() <= 0.5001 * step
    published = as_published(x.astype(np.float64), k)
    # Steps that will do and steps that won't alternate, where outliers leave gaps: neither search sees all of them.
    assert 0.9 * published < step < 1.01 * published


def test_a_gap_costs_no_values() -> None:
    x = np.concatenate([np.linspace(-1, 1, 200), [500.0]])
    table, codes = learn(8, x)
    assert table[-1] == pytest.approx(500, abs=0.2) and np.abs(table[codes] - x).max() < 0.2


@given(
    st.lists(st.floats(-(2.0**60), 2.0**60, width=32, allow_subnormal=False), min_size=1, max_size=30),
    st.integers(2, 9),
)
def test_no_weights_are_worse_off_than_as_zeros(values: list[float], k: int) -> None:
    x = np.asarray(values, np.float32)
    table, codes = learn(k, x)
    assert np.isfinite(table).all() and len(table) <= k and (np.diff(table) > 0).all()
    wide = table.astype(np.float64)[codes]
    assert (np.abs(wide - x) <= np.abs(x) * (1 + 1e-6)).all()
    assert (np.signbit(table) <= (table < 0)).all(), "no minus zero"


def test_pruned_weights_have_no_part() -> None:
    x, mask = np.random.default_rng(0).normal(size=500), np.arange(500) % 3 > 0
    table, codes = learn(8, np.where(mask, x, 1e6), mask)
    alone, own = learn(8, x[mask])
    np.testing.assert_array_equal(table, alone)
    np.testing.assert_array_equal(codes[mask], own)
