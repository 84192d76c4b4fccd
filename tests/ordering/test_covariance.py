"""The objective and every swap's gain against NumPy's covariances; the search against all orders."""

import itertools
from collections.abc import Callable

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantree.errors import LeafError
from quantree.ordering import Child, by_covariance, gaussian
from quantree.ordering.children import blocks_of
from quantree.ordering.moments import RIDGE, families, objective
from quantree.ordering.starts import by_score, greedy
from quantree.ordering.swaps import Swaps, disjoint, drawn, gains, made, touched
from tests.compilations import compilations
from tests.ordering.cases import child, vectors

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
CHAINS = 16  # with this and 7 channels in blocks of 4 most tests share one program


def by_numpy(children: list[Child], order: np.ndarray) -> float:
    total = sum(each.x.size for each in children)
    found = 0.0
    for each in children:
        x = vectors(each, order)
        d = x.shape[1]
        covariance = np.cov(x.T, bias=True).reshape(d, d) + RIDGE * x.var() * np.eye(d)
        found += each.x.size / total * np.linalg.slogdet(covariance)[1] / d
    return found


def flattened(channels: int, pixels: int, d: int) -> Child:
    """What a dense layer reads behind a flattened image."""
    places = np.arange(channels * pixels).reshape(pixels, channels).T
    return Child(child(RNG, 20, channels * pixels, d).x, places, d)


QUICK = ("children with blocks of two lengths", "three kernels to a block")  # both ways to work out a gain
CASES: dict[str, Callable[[], list[Child]]] = {
    "one child": lambda: [child(RNG, 30, 24, 4)],
    "two children, one a hundred times the other": lambda: [
        child(RNG, 30, 24, 4),
        Child(child(RNG, 10, 24, 4).x * 100, np.arange(24)[:, None], 4),
    ],
    "a last piece that is filled up": lambda: [child(RNG, 30, 22, 4)],
    "channels of another group on the axis": lambda: [child(RNG, 30, 21, 4, first=3, after=9)],
    "children with blocks of two lengths": lambda: [child(RNG, 30, 22, 4, first=3, after=4), child(RNG, 20, 22, 8)],
    "two kernels to a block": lambda: [child(RNG, 30, 12, 18, w=9)],
    "three kernels to a block": lambda: [child(RNG, 20, 13, 12, w=4)],
    "a flattened image whose pixels are cut alike": lambda: [flattened(12, 5, 4)],
    "channels in any order on the axis": lambda: [Child(child(RNG, 20, 24, 4).x, RNG.permutation(24)[:20, None], 4)],
    "a child in which no order matters": lambda: [child(RNG, 30, 12, 9, w=9), child(RNG, 30, 12, 3)],
}


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
def test_objective_and_gains_are_those_of_numpy(name: str) -> None:
    children = CASES[name]()
    size = len(children[0].places)
    order = RNG.permutation(size)
    assert gaussian(children, order) == pytest.approx(by_numpy(children, order), abs=1e-9)
    groups, now = families(blocks_of(children)), jnp.asarray(order, jnp.int32)
    # The tables leave out what no order changes.
    mattering = [each for each in children if each.matters]
    swaps = drawn(KEY, size, 40)
    one = by_numpy(mattering, order)
    wanted = [one - by_numpy(mattering, swapped(order, *pair)) for pair in zip(*map(np.asarray, swaps), strict=True)]
    np.testing.assert_allclose(jax.jit(gains)(groups, now, swaps), wanted, atol=2e-6)
    value = jax.jit(objective)
    change = value(groups, now) - value(groups, jnp.arange(size, dtype=jnp.int32))
    assert float(change) == pytest.approx(one - by_numpy(mattering, np.arange(size)), abs=2e-6)


def swapped(order: np.ndarray, one: int, other: int) -> np.ndarray:
    new = order.copy()
    new[[one, other]] = new[[other, one]]
    return new


@pytest.mark.slow
def test_a_flattened_image_whose_pixels_are_cut_at_different_places() -> None:
    """Gains leave out what two channels of a swap do in one block; the objective doesn't."""
    children = [flattened(10, 5, 4)]
    groups, start = families(blocks_of(children)), jnp.arange(10, dtype=jnp.int32)
    swaps = drawn(KEY, 10, 45)
    wanted = [
        by_numpy(children, np.arange(10)) - by_numpy(children, swapped(np.arange(10), *pair))
        for pair in zip(*map(np.asarray, swaps), strict=True)
    ]
    assert np.corrcoef(jax.jit(gains)(groups, start, swaps), wanted)[0, 1] > 0.95
    found = by_covariance(children, key=KEY, steps=30, chains=2)
    assert found.after == pytest.approx(by_numpy(children, found.order), abs=1e-9)
    assert found.after < found.before - 0.01


@pytest.mark.parametrize(
    ("channels", "d", "w", "first"),
    [(7, 4, 1, 0), *(pytest.param(*each, marks=pytest.mark.slow) for each in ((7, 3, 1, 1), (6, 18, 9, 0)))],
)
def test_it_finds_the_best_of_all_orders(channels: int, d: int, w: int, first: int) -> None:
    children = [child(RNG, 12, channels, d, w, first)]
    best = min(by_numpy(children, np.array(order)) for order in itertools.permutations(range(channels)))
    found = by_covariance(children, key=KEY, steps=40, chains=CHAINS)
    assert found.after == pytest.approx(best, abs=1e-5)
    assert found.after == pytest.approx(by_numpy(children, found.order), abs=1e-9)
    assert found.before == pytest.approx(by_numpy(children, np.arange(channels)), abs=1e-9)


@pytest.mark.slow
def test_random_candidates_do_better_than_the_paper_s_swaps() -> None:
    """More channels than a step tries all swaps of; the paper's 10,000 swaps, a tenth of them, from its start."""
    children = [child(RNG, 16, 160, 4)]
    order = greedy(children[0])
    value = gaussian(children, order)
    for _ in range(1000):
        new = swapped(order, *RNG.integers(0, 160, 2))
        if gaussian(children, new) < value:
            order, value = new, gaussian(children, new)
    assert by_covariance(children, key=KEY, steps=50).after < value


def test_a_local_optimum_where_all_swaps_are_tried() -> None:
    children = [child(RNG, 20, 7, 4)]
    found = by_covariance(children, key=KEY, chains=CHAINS)
    for pair in itertools.combinations(range(7), 2):
        assert gaussian(children, swapped(found.order, *pair)) > found.after - 2e-6


@hypothesis.given(st.lists(st.sampled_from([0.0, 1.0, 1.0, -1.0, 1e-20, 1e18, 3e37]), min_size=42, max_size=42))
def test_any_weights_give_finite_numbers_and_never_a_worse_order(values: list[float]) -> None:
    children = [Child(np.array(values, np.float32).reshape(6, 7, 1), np.arange(7)[:, None], 4)]
    found = by_covariance(children, key=KEY, steps=5, chains=CHAINS)
    assert np.isfinite([found.before, found.after]).all()
    assert sorted(found.order) == list(range(7))
    assert found.after < found.before or (found.order == np.arange(7)).all()


@pytest.mark.parametrize("x", [np.zeros((6, 8, 1)), np.ones((6, 8, 1)), np.repeat(RNG.normal(size=(6, 1, 1)), 8, 1)])
def test_the_identity_is_kept_where_nothing_is_gained(x: np.ndarray) -> None:
    found = by_covariance([Child(x, np.arange(7)[:, None], 4)], key=KEY, steps=10, chains=CHAINS)
    np.testing.assert_array_equal(found.order, np.arange(7))
    assert found.before == found.after


def test_channels_that_are_zero_go_where_they_cost_least() -> None:
    x = child(RNG, 20, 7, 4).x
    x[:, :3] = 0
    children = [Child(x, np.arange(7)[:, None], 4)]
    found = by_covariance(children, key=KEY, steps=50, chains=CHAINS)
    # With the zero that fills the last block up, two positions of the sub-vector hold nothing else.
    assert found.after < found.before - 1
    assert (vectors(children[0], found.order) == 0).all(axis=0).sum() == 2


def test_no_order_of_these_matters() -> None:
    found = by_covariance([child(RNG, 10, 6, 9, w=9)], key=KEY)
    np.testing.assert_array_equal(found.order, np.arange(6))
    assert (found.before, found.tried) == (found.after, 0)


def test_the_same_key_gives_the_same_order_and_nothing_is_compiled_for_other_weights() -> None:
    one = by_covariance([child(RNG, 12, 7, 4)], key=KEY, steps=7, chains=CHAINS)
    again = [child(RNG, 12, 7, 4)]
    with compilations() as compiled:
        first, second = (by_covariance(again, key=jax.random.key(5), steps=9, chains=CHAINS) for _ in range(2))
    assert compiled == []
    np.testing.assert_array_equal(first.order, second.order)
    assert (first.order != one.order).any()


@hypothesis.given(st.data())
def test_chosen_swaps_share_no_block_and_the_best_is_among_them(data: st.DataObject) -> None:
    children = [child(RNG, 3, 12, 2), child(RNG, 3, 12, 4)]
    groups = touched(families(blocks_of(children)))
    pairs = data.draw(st.lists(st.permutations(range(12)).map(lambda p: p[:2]), min_size=20, max_size=20))
    worth = np.array(data.draw(st.lists(st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0, np.nan]), min_size=20, max_size=20)))
    swaps = Swaps(*jnp.asarray(pairs, jnp.int32).T)
    chosen = disjoint(groups, swaps, jnp.asarray(worth, jnp.float32))
    real = [(int(one), int(other)) for one, other in zip(*chosen, strict=True) if one < 12]
    assert set(real) <= {tuple(pair) for pair in pairs}
    for b in (2, 4):
        blocks = [block for pair in real for block in {place // b for place in pair}]
        assert len(blocks) == len(set(blocks))
    assert (np.nanmax(worth) > 0) == bool(real)
    if real:
        assert real[0] in {tuple(pair) for pair, value in zip(pairs, worth, strict=True) if value == np.nanmax(worth)}
    order = np.asarray(made(jnp.arange(12, dtype=jnp.int32), chosen, jnp.arange(chosen.one.size) < 12))
    wanted = np.arange(12)
    for pair in real:
        wanted = swapped(wanted, *pair)
    np.testing.assert_array_equal(order, wanted)


@pytest.mark.parametrize("start", [greedy, by_score])
@pytest.mark.parametrize(("channels", "d", "w"), [(12, 4, 1), (10, 4, 1), (6, 18, 9)])
def test_starts_are_orders(start: Callable[[Child], np.ndarray], channels: int, d: int, w: int) -> None:
    assert sorted(start(child(RNG, 12, channels, d, w))) == list(range(channels))


def test_starts_by_hand() -> None:
    deviations = np.sqrt([8.0, 1.0, 4.0, 2.0])
    x = deviations[None, :, None] * RNG.normal(size=(4000, 4, 1))
    given = Child(x, np.arange(4)[:, None], 2)
    # 8 goes into the first bucket, 4 into the second, then 2 and 1: the second is full before the last.
    np.testing.assert_array_equal(greedy(given), [0, 2, 1, 3])
    np.testing.assert_array_equal(by_score(given), [0, 3, 2, 1])


@pytest.mark.parametrize(
    ("x", "places", "d", "told"),
    [
        (np.ones((2, 4)), np.arange(4)[:, None], 2, r"x has shape \(2, 4\); expected \[rows, channels, w\]"),
        (np.ones((2, 4, 0)), np.arange(4)[:, None], 2, "not empty"),
        (np.ones((2, 4, 1)), np.arange(4), 2, r"places of shape \(4,\) and int64"),
        (np.ones((2, 4, 1)), np.arange(1, 5)[:, None], 2, "no different ones among 4 channels"),
        (np.ones((2, 4, 1)), np.array([[0], [0]]), 2, "no different ones among 4 channels"),
        (np.ones((2, 4, 9)), np.arange(4)[:, None], 12, "sub-vectors of 12 weights cut the 9 weights of a channel in"),
        (np.ones((2, 4, 1)), np.arange(4)[:, None], 0, "sub-vectors of 0 weights"),
        (np.full((2, 4, 1), np.nan), np.arange(4)[:, None], 2, "conv: 8 of 8 weights are NaN or infinite"),
    ],
)  # fmt: skip
def test_what_is_no_child(x: np.ndarray, places: np.ndarray, d: int, told: str) -> None:
    with pytest.raises(LeafError, match=told):
        Child(x, places, d, "conv")


def test_children_that_do_not_fit() -> None:
    with pytest.raises(LeafError, match=r"children have \[4, 6\] channels of the group"):
        by_covariance([child(RNG, 2, 4, 2), child(RNG, 2, 6, 2)], key=KEY)
    with pytest.raises(LeafError, match="no children"):
        by_covariance([], key=KEY)
    with pytest.raises(LeafError, match="up to 8192 weights"):
        by_covariance([child(RNG, 1, 8196, 4)], key=KEY)
    with pytest.raises(LeafError, match="chains is 0"):
        by_covariance([child(RNG, 2, 4, 2)], key=KEY, chains=0)
