"""The counting of Marino et al., on matrices whose bits can be counted by hand."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.papers.accounting import Marino2021, Marino2023
from experiments.papers.accounting.kernels import Kernel
from quantree.encodings import Compressed

Make = Callable[..., Compressed]


def sparse(rows: int, columns: int, kept: int) -> np.ndarray:
    """`kept` entries that are 1 or 2 in turns."""
    values = np.zeros(rows * columns)
    values[:kept] = 1 + np.arange(kept) % 2
    return np.random.default_rng(0).permutation(values).reshape(rows, columns)


def test_2021_two_values_take_a_bit_each_and_a_dictionary(model: Make) -> None:
    values = np.random.default_rng(0).permutation(np.repeat([1.0, 2.0], 2048)).reshape(64, 64)
    count = Marino2021().count(model({"fc/kernel": values}, coded={"fc/kernel": "a"}))
    assert count.stored == 4096 + 2 * 8 * (1 + 1 + 4 + 8)


def test_2021_all_dense_kernels_share_one_code_and_fill_words_of_64_bits(model: Make) -> None:
    leaves = {"a/kernel": np.tile([1.0, 2.0], (5, 3)), "b/kernel": np.tile([3.0, 4.0], (5, 3))}
    one = {path: "both" for path in leaves}
    two = dict(zip(leaves, "ab", strict=True))
    hac = 2 * 64 + 4 * 8 * (2 + 13)  # 30 weights of 2 bits each are a word; four entries
    shac = 2 * (64 + 2 * 8 * (1 + 13) + 8 * (30 + 6))
    assert Marino2021().count(model(leaves, one)).stored == min(hac, shac) == hac
    assert Marino2021().count(model(leaves, two)).stored == hac


@pytest.mark.parametrize(("rows", "width"), [(255, 8), (256, 16), (65535, 16), (65536, 32)])
def test_2021_sparse_kernels_pay_for_row_indices_by_the_number_of_rows(model: Make, rows: int, width: int) -> None:
    values = sparse(rows, 3, 10)
    count = Marino2021().count(model({"fc/kernel": values}, coded={"fc/kernel": "a"}))
    shac = 64 + 2 * 8 * (1 + 13) + width * (10 + 3)
    hac = -(-(rows * 3 + 10) // 64) * 64 + 8 * (1 + 2 + 2 + 3 * 13)
    assert count.stored == min(hac, shac)


def test_2021_convolutions_are_index_maps_of_their_codebooks(model: Make) -> None:
    leaves = {"c1/kernel": sparse(9, 8, 30).reshape(3, 3, 1, 8), "c2/kernel": sparse(9, 8, 40).reshape(9, 1, 8)}
    shared = Marino2021(part="conv").count(model(leaves, dict.fromkeys(leaves, "a")))
    apart = Marino2021(part="conv").count(model(leaves, dict(zip(leaves, "ab", strict=True))))
    assert shared.stored == 3 * 32 + 2 * 144 and apart.stored == 2 * 3 * 32 + 2 * 144


def test_kernels_that_were_only_pruned_are_sparse_columns(model: Make) -> None:
    made = model({"fc/kernel": sparse(300, 20, 500)}, pruned=("fc/kernel",))
    assert Marino2021().count(made).stored == 32 * (2 * 500 + 20 + 1)
    assert Marino2023().count(made).stored == 500 * (32 + 16) + 20 * 16


def test_2023_counts_words_of_32_bits_and_the_tables_of_a_canonical_code(model: Make) -> None:
    values = np.tile([1.0, 1.0, 2.0, 3.0], (300, 3))  # 1 bit, 2 bits, 2 bits
    count = Marino2023().count(model({"fc/kernel": values}, coded={"fc/kernel": "a"}))
    assert count.stored == -(-3600 * 3 // 2 // 32) * 32 + 3 * 32 + 2 * 2 * 8 + 3 * 8


def test_2023_index_map(model: Make) -> None:
    values = np.arange(300.0).reshape(5, 3, 20)
    count = Marino2023().count(model({"c/kernel": values}, coded={"c/kernel": "a"}))
    assert count.stored == 300 * 16 + 300 * 32


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 40), st.integers(1, 30), st.integers(1, 30), st.floats(0, 1), st.integers(0, 99))
def test_no_more_bits_than_the_published_bounds(k: int, n: int, m: int, density: float, seed: int) -> None:
    draw = np.random.default_rng(seed)
    values = np.where(draw.random((n, m)) < density, draw.integers(1, k, (n, m)), 0).astype(np.float32)
    kernel, k, kept = Kernel("fc/kernel", values, "coded", "a"), np.unique(values).size, np.count_nonzero(values)
    stream = n * m * (1 + math.log2(k)) + 31
    wide = next((width for width in (8, 16, 32, 64) if 2 ** (k - 1) < 2**width), 64)
    tables = 2 * (k - 1) * 8 + k * wide + 32 * k
    alone = 2 * 8 + 2 * 8 + 32  # k = 1, which the bound does not foresee: a codeword of one bit
    assert Marino2023().hac([kernel]) <= stream + max(tables, alone)
    assert Marino2023().shac(kernel) <= kept * (1 + math.log2(k) + 8) + 31 + 8 * (m + 1) + max(tables, alone)


def test_hac_and_shac_cross_over_where_theory_says(model: Make) -> None:
    """With 16 bits for a row, below a density of 1/17 (and a little less, for the counts of the columns)."""
    for density, expected in ((0.08, "hac"), (0.04, "shac")):
        kernel = Kernel("fc/kernel", sparse(1000, 1000, int(density * 1e6)).astype(np.float32), "coded", "a")
        for rule in (Marino2021(), Marino2023()):
            assert ("hac" if rule.hac([kernel]) < rule.shac(kernel) else "shac") == expected
