"""The groups of the benchmark of permutations, and the loops that ours is held against."""

import numpy as np

from experiments.benchmarks.permutation import Channels, children, groups, incremental, plain
from experiments.benchmarks.resnet50 import layers
from quantree.ordering import gaussian
from quantree.ordering.starts import greedy


def test_the_groups_have_every_weight_that_is_cut_in_fours() -> None:
    found = list(groups(smoke=False))
    assert sum(group.size * sum(group.rows) for group in found) == sum(4 * n for n, d, _ in layers() if d == 4)
    assert [group.size for group in found if "stream" in group.name] == [256, 512, 1024, 2048]


def test_the_loop_with_a_table_lowers_the_objective_that_it_believes_to_lower() -> None:
    given = children(Channels("two readers", 16, (20, 30)), 0)
    start = gaussian(given, greedy(given[0]))
    values = [start, *(gaussian(given, incremental(given, swaps)[1]) for swaps in (1, 10, 40, 300))]
    assert values == sorted(values, reverse=True)
    assert values[-1] < start - 0.05


def test_the_plain_loop_leaves_the_weights_as_they_are() -> None:
    given = children(Channels("one reader", 8, (6,)), 0)
    before = given[0].x.copy()
    assert plain(given, 2) > 0
    np.testing.assert_array_equal(given[0].x, before)
