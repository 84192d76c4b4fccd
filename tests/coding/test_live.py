"""Rows and columns of zeros cost a bit each, whatever the rest costs."""

import numpy as np

from quantree.coding import Ans, Live, Symbols


def _sizes(values: np.ndarray) -> dict[str, int]:
    symbols = Symbols(values, int(values.max()) + 1)
    return {coder.name: len(coder.encode(symbols, coder.table(symbols))) for coder in (Ans(), Live())}


def test_only_what_lies_in_rows_and_columns_in_use_is_coded() -> None:
    rng = np.random.default_rng(0)
    core = rng.integers(1, 5, (20, 30))
    values = np.zeros((400, 300), np.int64)
    rows, columns = rng.permutation(400)[:20], rng.permutation(300)[:30]
    values[np.ix_(rows, columns)] = core
    alone = Symbols(core, 5)
    payload = Live().encode(Symbols(values, 5), Live().table(Symbols(values, 5)))
    assert Live().table(Symbols(values, 5)) == Ans().table(alone)
    assert len(payload) == -(-(400 + 300) // 8) + len(Ans().encode(alone, Ans().table(alone)))
    assert len(payload) < _sizes(values)["ans"]


def test_without_such_rows_it_costs_the_bitmap() -> None:
    values = np.random.default_rng(1).integers(0, 4, (64, 64))
    sizes = _sizes(values)
    assert sizes["live"] == sizes["ans"] + 16


def test_rows_are_all_axes_but_the_last() -> None:
    values = np.zeros((5, 5, 4, 6), np.int64)
    values[2, 3, 1] = 1
    symbols = Symbols(values, 2)
    table = Live().table(symbols)
    payload = Live().encode(symbols, table)
    assert len(payload) == -(-(100 + 6) // 8)  # one row in use, all of it the same symbol
    assert (Live().decode(payload, table, values.shape, 2) == values).all()


def test_all_zeros_are_a_bitmap_and_nothing_else() -> None:
    symbols = Symbols(np.zeros((10, 6), np.int64), 3)
    table = Live().table(symbols)
    assert table == b"" and Live().encode(symbols, table) == b"\0\0"
    assert not Live().decode(b"\0\0", b"", (10, 6), 3).any()
