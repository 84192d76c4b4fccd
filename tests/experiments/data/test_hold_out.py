import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from experiments.data.hold_out import hold_out


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.data(), st.integers(0, 2**32), st.booleans())
def test_the_parts_make_up_the_whole(labels, data, seed, stratified):
    count = data.draw(st.integers(0, len(labels)))
    targets = np.array(labels)
    kept, held = hold_out(len(labels), count, seed, targets if stratified else None)
    assert len(held) == count
    assert sorted([*kept, *held]) == list(range(len(labels)))
    assert np.all(np.diff(kept) > 0) and np.all(np.diff(held) > 0)
    if stratified:
        share = np.bincount(targets, minlength=5) * count / len(labels)
        assert np.all(np.abs(np.bincount(targets[held], minlength=5) - share) < 1)


def test_seeds_cut_differently_and_repeatably():
    labels = np.arange(1000) % 10
    first, again, other = (hold_out(1000, 100, seed, labels)[1] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert len(np.intersect1d(first, other)) < 30  # 10 are expected by chance


def test_every_example_may_be_held_out():
    held = {index for seed in range(60) for index in hold_out(20, 5, seed, np.arange(20) % 3)[1]}
    assert held == set(range(20))
