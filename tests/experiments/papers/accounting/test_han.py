"""The counting of Deep Compression, against a walk over the weights one by one."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.papers.accounting import Han2016
from experiments.papers.accounting.han import gaps
from experiments.papers.han2016 import fillers
from quantree.encodings import Compressed

Make = Callable[..., Compressed]


def walk(values: list[int], longest: int) -> list[int]:
    """The distances that are stored."""
    stored, distance = [], 0
    for i, value in enumerate(values):
        distance += 1
        if value or (distance == longest and any(values[i + 1 :])):
            stored.append(distance)
            distance = 0
    return stored


@given(st.lists(st.sampled_from([0, 0, 0, 0, 0, 0, 1, 2]), max_size=60), st.integers(1, 3))
def test_distances_are_those_of_a_walk(values: list[int], bits: int) -> None:
    counts = gaps(np.array(values), bits)
    assert counts.tolist() == [walk(values, 1 << bits).count(i + 1) for i in range(1 << bits)]


def test_a_distance_of_more_than_8_needs_a_filler_in_3_bits() -> None:
    """As in the paper's Figure 2: the filler comes 8 after the weight before it."""
    row = np.zeros(16)
    row[[1, 4, 15]] = 3.4, 0.9, 1.7
    assert gaps(row, 3).tolist() == [0, 1, 2, 0, 0, 0, 0, 1]


def test_fixed_widths(model: Make) -> None:
    row = np.zeros((4, 8))
    row.reshape(-1)[[1, 4, 15]] = 3.0, 1.0, 2.0
    made = model({"fc/kernel": row}, coded={"fc/kernel": "a"})
    # three values and the zero of the filler
    assert Han2016(gap_bits=3, huffman=False).count(made).stored == 4 * (2 + 3) + 4 * 32
    assert Han2016(gap_bits=4, huffman=False).count(made).stored == 3 * (2 + 4) + 3 * 32


def test_huffman_codes_of_codes_and_distances(model: Make) -> None:
    row = np.zeros((4, 8))
    row.reshape(-1)[[1, 4, 7, 10, 12]] = 3.0, 3.0, 3.0, 1.0, 2.0
    made = model({"fc/kernel": row}, coded={"fc/kernel": "a"})
    assert Han2016().count(made).stored == (3 + 2 + 2) + (3 + 2) + 3 * 32


def test_codebooks_count_once(model: Make) -> None:
    leaves = {"a/kernel": np.ones((2, 2)), "b/kernel": np.ones((2, 2))}
    one, two = (model(leaves, dict(zip(leaves, names, strict=True))) for names in ("aa", "ab"))
    assert Han2016().count(two).stored - Han2016().count(one).stored == 32


def test_a_pruned_kernel_has_distances_and_floats(model: Make) -> None:
    made = model({"fc/kernel": np.eye(8)}, pruned=("fc/kernel",))
    assert Han2016(huffman=False).count(made).stored == 8 * (32 + 5)


@pytest.mark.parametrize(("density", "bits"), [(0.08, 5), (0.09, 4), (0.25, 4), (0.04, 5)])
def test_weights_at_random_need_the_fillers_that_are_expected(density: float, bits: int) -> None:
    kept = np.random.default_rng(0).random(1_000_000) < density
    needed = gaps(kept, bits).sum() / kept.sum() - 1
    assert needed == pytest.approx(fillers(density, bits), rel=0.03)
