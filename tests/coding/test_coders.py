"""What every coder must do, whatever it does inside."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantree.coding import Ans, Coder, Fixed, Symbols, smallest
from quantree.errors import FormatError, LeafError
from quantree.registry import register, registered, temporarily

CODERS = [coder() for _, coder in sorted(registered("coder").items())]
each_coder = pytest.mark.parametrize("coder", CODERS, ids=lambda coder: coder.name)


@st.composite
def streams(draw: st.DrawFn) -> Symbols:
    """Any alphabet, any sparsity, any shape, any integer dtype that fits."""
    alphabet = draw(st.one_of(st.integers(1, 20), st.integers(1, 65_536)))
    shape = tuple(draw(st.lists(st.integers(0, 12), min_size=1, max_size=3)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    used = rng.integers(0, alphabet, draw(st.integers(1, 12)))
    values = np.where(rng.random(shape) < draw(st.floats(0, 1)), rng.choice(used, shape), used[0])
    narrow = [np.uint8, np.int16] if alphabet <= 128 else [np.uint16]
    return Symbols(values.astype(draw(st.sampled_from([*narrow, np.int32, np.int64]))), alphabet)


@each_coder
@given(symbols=streams())
def test_round_trip(coder: Coder, symbols: Symbols) -> None:
    table = coder.table(symbols)
    payload = coder.encode(symbols, table)
    decoded = coder.decode(payload, table, symbols.values.shape, symbols.alphabet)
    assert decoded.dtype == np.int32
    np.testing.assert_array_equal(decoded, symbols.values)
    assert abs(coder.cost(symbols, table) - 8 * len(payload)) <= 40
    assert 8 * (len(payload) + len(table)) <= coder.bound(symbols)


@each_coder
@given(symbols=streams(), data=st.data())
def test_damage_is_an_error_or_other_symbols(coder: Coder, symbols: Symbols, data: st.DataObject) -> None:
    table = coder.table(symbols)
    parts = [coder.encode(symbols, table), table]
    part = data.draw(st.integers(0, 1))
    whole = bytearray(parts[part])
    for _ in range(data.draw(st.integers(1, 3))):
        if whole and data.draw(st.booleans()):
            whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
        else:
            cut = data.draw(st.integers(0, len(whole)))
            whole[cut:] = data.draw(st.binary(max_size=6))
    parts[part] = bytes(whole)
    try:
        decoded = coder.decode(parts[0], parts[1], symbols.values.shape, symbols.alphabet)
    except FormatError:
        return
    assert decoded.shape == symbols.values.shape and decoded.dtype == np.int32
    assert ((decoded >= 0) & (decoded < symbols.alphabet)).all()


@each_coder
@given(payload=st.binary(max_size=40), table=st.binary(max_size=40), size=st.integers(0, 50), data=st.data())
def test_bytes_from_anyone(coder: Coder, payload: bytes, table: bytes, size: int, data: st.DataObject) -> None:
    alphabet = data.draw(st.one_of(st.integers(-1, 10), st.integers(1, 2**40)))
    try:
        decoded = coder.decode(payload, table, (size,), alphabet)
    except FormatError:
        return
    assert decoded.shape == (size,) and ((decoded >= 0) & (decoded < alphabet)).all()


@each_coder
def test_one_symbol_costs_no_payload_if_the_alphabet_has_no_other(coder: Coder) -> None:
    symbols = Symbols(np.zeros((4, 5), np.uint8), 1)
    assert coder.encode(symbols, coder.table(symbols)) == b""


@each_coder
@pytest.mark.slow
def test_many_elements(coder: Coder) -> None:
    values = np.random.default_rng(0).geometric(0.4, 1 << 26).astype(np.uint8)
    symbols = Symbols(values, 256)
    table = coder.table(symbols)
    decoded = coder.decode(coder.encode(symbols, table), table, values.shape, 256)
    assert (decoded == values).all()


def test_symbols_are_checked() -> None:
    for values, alphabet in ((np.array([0, 4]), 4), (np.array([-1]), 4), (np.array([0.0]), 4), (np.array([0]), 0)):
        with pytest.raises(LeafError):
            Symbols(values, alphabet)


def check_smallest(symbols: Symbols) -> None:
    sizes = {}
    for coder in CODERS:
        table = coder.table(symbols)
        sizes[coder.name] = len(table) + len(coder.encode(symbols, table))
    assert smallest(symbols).size == min(sizes.values()) == sizes[smallest(symbols).coder]


@given(streams())
def test_smallest_takes_the_shortest(symbols: Symbols) -> None:
    check_smallest(symbols)


def test_smallest_settles_near_ties_by_coding() -> None:
    class Pessimist(Fixed):
        def cost(self, symbols: Symbols, table: bytes) -> float:
            return super().cost(symbols, table) + 50

    symbols = Symbols(np.random.default_rng(0).integers(0, 16, 5000), 16)
    with temporarily():
        register("pessimist")(Pessimist)
        assert smallest(symbols, [Ans(), Pessimist()]).coder == "pessimist"


def test_smallest_says_why_nothing_fits() -> None:
    with pytest.raises(LeafError, match="65,536"):
        smallest(Symbols(np.array([0]), 1 << 20), [Coder.named("ans")()])


def test_cost_of_an_impossible_table_is_infinite() -> None:
    symbols = Symbols(np.array([5]), 9)
    table = Coder.named("ans")().table(Symbols(np.array([0]), 9))
    assert Coder.named("ans")().cost(symbols, table) == math.inf
