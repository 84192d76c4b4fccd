"""Terms alone: what becomes of channels as axes are flattened, split and brought together."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantree.graph.terms import Terms

sizes = st.lists(st.integers(2, 4), min_size=2, max_size=3).map(tuple)


def channels(terms: Terms, labels: np.ndarray) -> list[tuple[int, ...]]:
    return [terms.resolve(term) for term in labels.tolist()]


@given(sizes, st.data())
def test_an_axis_that_was_flattened_is_split_into_what_it_was(shape: tuple[int, ...], data: st.DataObject) -> None:
    terms = Terms()
    axes = [terms.fresh(n) for n in shape]
    still = data.draw(st.sets(st.integers(0, len(shape) - 1)))
    for i in still:
        terms.fix(axes[i], "for the test")
    again = terms.factors(terms.product(axes), shape)
    assert again is not None
    for i, (axis, found) in enumerate(zip(axes, again, strict=True)):
        assert channels(terms, found) == ([()] * len(axis) if i in still else channels(terms, axis))


@given(sizes)
def test_splitting_an_axis_makes_axes_of_which_it_is_the_product(shape: tuple[int, ...]) -> None:
    terms = Terms()
    whole = terms.fresh(int(np.prod(shape)))
    axes = terms.factors(whole, shape)
    assert axes is not None
    assert channels(terms, terms.product(axes)) == channels(terms, whole)
    assert all(terms.tied(root) for axis in axes for each in channels(terms, axis) for root in each)


def test_a_kernel_that_meets_a_flattened_image_has_each_channel_once_per_pixel() -> None:
    terms = Terms()
    pixels, image = np.full(3, terms.fixed("pixels")), terms.fresh(4)
    rows = terms.fresh(12)
    terms.unify(rows, terms.product([pixels, image]))
    assert channels(terms, rows) == channels(terms, image) * 3


def test_what_meets_a_fixed_axis_is_fixed_for_the_same_reason_and_so_are_its_parts() -> None:
    terms = Terms()
    one, other = terms.fresh(2), terms.fresh(3)
    flat = terms.product([one, other])
    terms.unify(flat, np.full(6, terms.fixed("an output")))
    for labels in (one, other, flat):
        assert terms.is_fixed(labels)
        assert {terms.reason(term) and terms.reason(term)[1] for term in labels.tolist()} == {"an output"}  # pyright: ignore


def test_ties_and_marks_follow_channels_that_become_one() -> None:
    terms = Terms()
    a, b = terms.fresh(2, mark=("here", None)), terms.fresh(2)
    terms.tie(b[:1], "cut")
    terms.unify(a, b)
    roots = [each[0] for each in channels(terms, a)]
    assert roots == [each[0] for each in channels(terms, b)]
    assert [terms.tied(root) for root in roots] == ["cut", None]
    assert all(terms.marks(root) == {("here", None)} for root in roots)


@pytest.mark.parametrize("arities", [(2, 3), (1, 2)])
def test_axes_that_are_flattened_in_different_ways_are_fixed_unless_one_was_not_known(arities: tuple[int, int]) -> None:
    terms = Terms()
    one = terms.product([terms.fresh(2 ** (6 // arities[0])) for _ in range(arities[0])])
    other = terms.product([terms.fresh(2 ** (6 // arities[1])) for _ in range(arities[1])])
    terms.unify(one, other)
    assert terms.is_fixed(one) == (arities == (2, 3))
    assert channels(terms, one) == channels(terms, other)


def test_channels_beside_themselves_are_fixed_when_they_meet_other_pairs() -> None:
    terms = Terms()
    axis = terms.fresh(3)
    pairs = terms.product([axis, axis])
    assert channels(terms, pairs)[1] == (*channels(terms, axis)[0], *channels(terms, axis)[1])
