"""Compressed columns and rows against SciPy's, and the relative index against the paper's example."""

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st

from quantree.coding import Coder, Csc, Csr, Relative, Shac, Symbols
from quantree.coding.relative import Gaps
from quantree.coding.sparse import Lines
from quantree.errors import FormatError


def sparse(shape: tuple[int, int], density: float, seed: int, k: int = 9) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.where(rng.random(shape) < density, rng.integers(1, k, shape), 0)


@given(st.integers(1, 30), st.integers(1, 30), st.floats(0, 1), st.integers(0, 99))
def test_lines_are_those_of_scipy(rows: int, columns: int, density: float, seed: int) -> None:
    values = sparse((rows, columns), density, seed)
    for by_columns, peer in ((True, scipy.sparse.csc_array(values)), (False, scipy.sparse.csr_array(values))):
        lines = Lines.of(values, by_columns)
        np.testing.assert_array_equal(lines.counts, np.diff(peer.indptr))
        np.testing.assert_array_equal(lines.places, peer.indices)
        np.testing.assert_array_equal(lines.values + 1, peer.data)


def test_the_payload_is_as_long_as_the_formula_says() -> None:
    values = sparse((1000, 50), 0.1, 0)
    q, most = np.count_nonzero(values), int((values != 0).sum(axis=0).max())
    size = -(-50 * most.bit_length() // 8) + -(-q * 10 // 8) + 1
    assert len(Csc().encode(Symbols(values, 9), b"")) == size + -(-q * 3 // 8)


@pytest.mark.parametrize("coder", [Csc(), Csr(), Shac()], ids=lambda coder: coder.name)
def test_places_that_are_none_are_an_error(coder: Coder) -> None:
    symbols = Symbols(np.array([[1, 0, 2], [0, 0, 1]]), 3)
    table = coder.table(symbols)
    payload = coder.encode(symbols, table)
    assert payload[:1] == b"\x01" or payload[:1] == b"\x02"
    for wrong in (
        b"",
        payload[:-1],
        payload + b"\0",
        b"\x21" + payload[1:],
        bytes([payload[0]]) + b"\xff" + payload[2:],
    ):
        with pytest.raises(FormatError):
            coder.decode(wrong, table, (2, 3), 3)


def test_places_of_a_line_ascend() -> None:
    head = bytes([2, 0b10])  # one line of two elements
    with pytest.raises(FormatError, match="ascending"):
        Csc().decode(head + bytes([0b0101]) + bytes([0]), b"", (4,), 3)


def test_fillers_stand_where_the_paper_has_them() -> None:
    """Han et al. 2016, figure 2: with 3 bits, a jump of 11 is a filler after 8 and a jump of 3."""
    values = np.zeros(16, np.int64)
    values[[1, 4, 15]] = [3, 1, 2]
    codes, gaps = Gaps.of(values).filled(3)
    np.testing.assert_array_equal(codes, [3, 1, 0, 2])
    np.testing.assert_array_equal(gaps + 1, [2, 3, 8, 3])


@given(st.integers(1, 400), st.floats(0, 0.5), st.integers(0, 99), st.integers(0, 8))
def test_fillers_are_counted(size: int, density: float, seed: int, width: int) -> None:
    gaps = Gaps.of(sparse((size, 1), density, seed))
    codes, steps = gaps.filled(width)
    assert len(codes) - len(gaps.values) == gaps.fillers(width) == np.count_nonzero(codes == 0)
    np.testing.assert_array_equal(np.bincount(steps, minlength=1 << width), gaps.counts(width))


def test_fillers_are_as_many_as_chance_predicts() -> None:
    """u / (1 - u) for each element, with u = (1 - density) ** 2**b (docs/results.md, of Deep Compression's tables)."""
    values = sparse((1 << 20, 1), 0.05, 0)
    gaps = Gaps.of(values)
    u = (1 - len(gaps.values) / values.size) ** 16
    assert gaps.fillers(4) == pytest.approx(len(gaps.values) * u / (1 - u), rel=0.01)


def test_the_best_width_is_taken() -> None:
    symbols = Symbols(sparse((5000, 8), 0.03, 1), 9)
    table = Relative().table(symbols)
    best = len(table) + len(Relative().encode(symbols, table))
    assert 4 <= table[0] <= 8
    for other in (sparse((5000, 8), 0.5, 2), sparse((5000, 8), 0.002, 3)):
        wrong = Relative().table(Symbols(other, 9))
        assert wrong[0] != table[0]
        if not np.isinf(Relative().cost(symbols, wrong)):
            assert len(wrong) + len(Relative().encode(symbols, wrong)) > best
