"""Allocation on arrays alone, against brute force, SciPy's hull and the closed form of reverse water-filling."""

import itertools

import numpy as np
import pytest
import scipy.spatial
from hypothesis import given
from hypothesis import strategies as st

from quantree.quantizers.planning import Steps, lower_hull

points = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=12)


@given(points)
def test_the_hull_is_scipys_as_far_as_it_falls(found: list[tuple[int, int]]) -> None:
    x, y = np.asarray(found, float).T
    # Far corners above make the lower hull start at the least x and end at the least y.
    corners = [[x.min(), 1000.0], [1000.0, y.min()], [1000.0, 1000.0]]
    cloud = np.concatenate([np.stack([x, y], axis=1), corners])
    wanted = {tuple(cloud[i]) for i in scipy.spatial.ConvexHull(cloud).vertices} - {tuple(each) for each in corners}
    hull = lower_hull(x, y)
    assert {(x[i], y[i]) for i in hull} == wanted
    assert (np.diff(x[hull]) > 0).all() and (np.diff(y[hull]) < 0).all()


def test_of_equal_points_the_first_counts() -> None:
    assert lower_hull([4, 4, 2, 2], [0, 0, 5, 5]).tolist() == [2, 0]


def curves(rng: np.random.Generator, leaves: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    sizes, distortions = [], []
    for _ in range(leaves):
        x, y = rng.integers(1, 60, 7), rng.random(7) * rng.choice([1, 10])
        hull = lower_hull(x, y)
        sizes.append(x[hull])
        distortions.append(y[hull])
    return sizes, distortions


def totals(points: np.ndarray, sizes: list[np.ndarray], distortions: list[np.ndarray]) -> tuple[int, float]:
    return tuple(sum(each[i] for each, i in zip(values, points, strict=True)) for values in (sizes, distortions))  # type: ignore


@pytest.mark.parametrize("seed", range(20))
def test_no_choice_of_the_same_size_is_better(seed: int) -> None:
    sizes, distortions = curves(np.random.default_rng(seed), 3)
    every = [
        totals(np.asarray(choice), sizes, distortions)
        for choice in itertools.product(*(range(len(each)) for each in sizes))
    ]
    steps = Steps.of(sizes, distortions)
    for count in range(len(steps) + 1):
        size, distortion = totals(steps.first(count), sizes, distortions)
        assert distortion <= min(loss for bytes_, loss in every if bytes_ <= size) + 1e-9
        assert totals(steps.within(size), sizes, distortions) == (size, distortion)  # pyright: ignore
    for room in range(steps.start, sum(int(each[-1]) for each in sizes) + 1):
        found = steps.within(room)
        assert found is not None
        size, distortion = totals(found, sizes, distortions)
        assert size <= room
        # No mixture of choices beats the hulls, which the first step that does not fit would follow.
        count = int(np.searchsorted(np.cumsum(steps.size), room - steps.start, side="right"))
        whole = totals(steps.first(count), sizes, distortions)
        gap = 0.0 if count == len(steps) else float(steps.slope[count] * (room - whole[0]))
        assert distortion <= min(whole[1], min(loss for bytes_, loss in every if bytes_ <= room) + gap) + 1e-9
    assert steps.within(steps.start - 1) is None


def test_what_is_left_over_is_filled() -> None:
    # The best step of leaf 0 costs 10 and does not fit into 6; that of leaf 1, a worse one, does.
    steps = Steps.of([np.asarray([1, 11]), np.asarray([1, 7])], [np.asarray([9.0, 0.0]), np.asarray([1.0, 0.0])])
    assert steps.within(8) is not None
    assert steps.within(8).tolist() == [0, 1]  # pyright: ignore[reportOptionalMemberAccess]


def test_equal_slopes_are_reverse_water_filling() -> None:
    """Distortion s 2^(-2 B): bits differ by half the log of the ratio of the variances, where they are not zero."""
    variances = np.asarray([1.0, 4.0, 64.0, 1e-6])
    bits = np.arange(0, 12, 0.01)
    sizes = [np.arange(bits.size)] * 4
    steps = Steps.of(sizes, [s * 2 ** (-2 * bits) for s in variances])
    points = steps.within(int(8 / 0.01))
    assert points is not None
    spent = bits[points]
    assert spent[3] == 0 and spent.sum() == pytest.approx(8, abs=0.01)
    level = (8 - 0.5 * np.log2(variances[:3]).sum()) / 3
    np.testing.assert_allclose(spent[:3], level + 0.5 * np.log2(variances[:3]), atol=0.02)


def test_leaves_with_one_point_and_leaves_that_do_not_matter() -> None:
    steps = Steps.of([np.asarray([5]), np.asarray([2, 4])], [np.asarray([0.0]), np.asarray([0.0, 0.0])])
    assert len(steps) == 1 and steps.first(0).tolist() == [0, 0]
    assert steps.within(9).tolist() == [0, 1]  # pyright: ignore[reportOptionalMemberAccess]
