"""The adaptive coder against the decoder printed in docs/file-format.md, and against the entropy of the counts."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantree.coding import Fixed, Live, Symbols
from quantree.coding.adaptive import Adaptive
from quantree.coding.contexts import SQUASH, STRETCH
from quantree.errors import FormatError, LeafError


def encode(values: np.ndarray, alphabet: int) -> bytes:
    return Adaptive().encode(Symbols(values, alphabet), b"")


def check_round_trip(values: np.ndarray, alphabet: int) -> bytes:
    payload = encode(values, alphabet)
    decoded = Adaptive().decode(payload, b"", values.shape, alphabet)
    assert decoded.dtype == np.int32
    np.testing.assert_array_equal(decoded, values)
    return payload


@st.composite
def arrays(draw: st.DrawFn) -> tuple[np.ndarray, int]:
    """Long enough to be modelled, unlike most of what test_coders.py draws."""
    alphabet = draw(st.one_of(st.integers(2, 20), st.integers(2, 65_536)))
    shape = draw(st.sampled_from([(200,), (1, 300), (300, 1), (40, 30), (3, 3, 7, 9), (2, 5, 40), (150, 1, 2)]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    density = draw(st.sampled_from([0.0, 0.01, 0.3, 1.0]))
    return rng.integers(0, alphabet, shape) * (rng.random(shape) < density), alphabet


@given(arrays())
def test_round_trip(drawn: tuple[np.ndarray, int]) -> None:
    check_round_trip(*drawn)


@given(drawn=arrays(), data=st.data())
def test_cut_or_extended_payloads_are_refused(drawn: tuple[np.ndarray, int], data: st.DataObject) -> None:
    values, alphabet = drawn
    payload = encode(values, alphabet)
    kept = data.draw(st.integers(0, len(payload) - 1))
    for damaged in (payload[:kept], payload + b"\0", payload + data.draw(st.binary(min_size=2, max_size=9))):
        try:
            decoded = Adaptive().decode(damaged, b"", values.shape, alphabet)
        except FormatError:
            continue
        # The last byte only says where in its range the number lies: without it, it may still lie in some range.
        assert len(damaged) == len(payload) - 1
        assert ((decoded >= 0) & (decoded < alphabet)).all()


def test_a_zero_more_is_refused_where_the_number_needs_no_last_byte() -> None:
    values = np.ones((20, 10), np.uint8)  # all decisions are 1, and the encoder's number stays 0
    payload = check_round_trip(values, 2)
    with pytest.raises(FormatError, match="goes on"):
        Adaptive().decode(payload + b"\0", b"", values.shape, 2)


def test_symbols_outside_of_the_alphabet_are_refused() -> None:
    values = np.random.default_rng(0).integers(0, 8, (20, 20))
    values[0, 0] = 0
    with pytest.raises(FormatError, match="alphabet of 7"):
        Adaptive().decode(encode(values, 8), b"", values.shape, 7)


def test_impossible_slices_are_refused() -> None:
    for head in (b"\1", b"\xff\xff\xff\xff\x0f"):
        with pytest.raises(FormatError, match="slices"):
            Adaptive().decode(head + b"1234", b"", (20, 20), 5)


def test_what_it_does_not_code() -> None:
    with pytest.raises(LeafError, match="65,536"):
        Adaptive().table(Symbols(np.zeros(1, np.int32), 1 << 17))
    with pytest.raises(LeafError, match="no table"):
        Adaptive().encode(Symbols(np.zeros(1, np.int32), 3), b"1")
    with pytest.raises(FormatError, match="a table where none is expected"):
        Adaptive().decode(b"", b"1", (300,), 3)


@pytest.mark.parametrize("shape", [(0,), (0, 4), (3, 0), (1,), (127,)])
def test_short_streams_are_those_of_fixed(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).integers(0, 5, shape)
    assert check_round_trip(values, 5) == Fixed().encode(Symbols(values, 5), b"")


def test_blocks_and_windows_join() -> None:
    rng = np.random.default_rng(0)
    check_round_trip(rng.integers(0, 3, (70_001, 2)) * (rng.random((70_001, 1)) < 0.1), 3)  # three blocks of symbols
    check_round_trip(rng.integers(0, 65_536, 70_000), 65_536)  # more bytes of a block than a window holds


@pytest.fixture(scope="module")
def printed_decoder() -> Callable[[bytes, bytes, tuple[int, ...], int], list[int]]:
    """The decoder that docs/file-format.md prints: plain integers, and none of quantree's code."""
    document = Path(__file__).parents[2] / "docs" / "file-format.md"
    code = re.search(r"```python\n(.*?)^```$", document.read_text(), re.MULTILINE | re.DOTALL)
    assert code
    namespace: dict[str, Any] = {}
    exec(compile(code[1], str(document), "exec"), namespace)
    return namespace["decode_adaptive"]


@pytest.mark.parametrize("alphabet", [1, 2, 3, 17, 65_536])
@pytest.mark.parametrize("shape", [(5,), (400,), (30, 20), (3, 3, 6, 10), (2, 700)])
def test_printed_decoder(
    shape: tuple[int, ...], alphabet: int, printed_decoder: Callable[[bytes, bytes, tuple[int, ...], int], list[int]]
) -> None:
    rng = np.random.default_rng(alphabet)
    for density in (0.1, 1):
        values = rng.integers(0, alphabet, shape) * (rng.random(shape) < density)
        payload = encode(values, alphabet)
        assert printed_decoder(payload, b"", shape, alphabet) == values.reshape(-1).tolist()


@pytest.mark.parametrize(
    "shape",
    [
        (100, 200),
        pytest.param((3, 70_000), marks=pytest.mark.slow),  # more columns than are remembered
        pytest.param((600, 500), marks=pytest.mark.slow),  # until the weights learn most slowly
    ],
)
def test_printed_decoder_on_longer_streams(
    shape: tuple[int, ...], printed_decoder: Callable[[bytes, bytes, tuple[int, ...], int], list[int]]
) -> None:
    rng = np.random.default_rng(0)
    values = (rng.random(shape) < rng.random(shape[-1])).astype(np.uint8)
    assert printed_decoder(encode(values, 2), b"", shape, 2) == values.reshape(-1).tolist()


def test_tables_are_the_same_whatever_the_logarithm() -> None:
    """The format's tables are rounded numbers; none is so near to a tie that the last bits of a libm could matter."""
    middle = (np.arange(4096, dtype=np.longdouble) + 0.5) / 4096
    stretch = 128 * np.log(middle / (1 - middle))
    squash = 65536 / (1 + np.exp(-np.arange(-1535, 1536, dtype=np.longdouble) / 128))
    for exact, table in ((stretch, STRETCH), (np.clip(squash, 1, 65535), SQUASH)):
        assert (np.abs(exact - np.floor(exact) - 0.5) > 1e-6).all()
        assert (np.rint(exact) == table).all()


def structured(name: str) -> np.ndarray:
    rng = np.random.default_rng(0)
    values = rng.integers(1, 9, (300, 200))
    if name == "rows":
        return values * (rng.random((300, 1)) < 0.3)
    if name == "columns":
        return values * (rng.random(200) < 0.3)
    if name == "drifting density":
        return values * (rng.random((300, 200)) < np.linspace(0, 0.6, 300)[:, None])
    if name == "kernels":
        return (rng.integers(1, 9, (3, 3, 40, 50)) * (rng.random((40, 50)) < 0.2)).reshape(3, 3, 40, 50)
    spread = rng.integers(1, 9, 200)  # values: each column has its own range
    return rng.integers(0, spread, (300, 200)) + 1


@pytest.mark.parametrize("name", ["rows", "columns", "drifting density", "kernels", "values"])
def test_smaller_than_the_entropy_where_there_is_structure(name: str) -> None:
    values = structured(name)
    symbols = Symbols(values, 9)
    size = 8 * len(encode(values, 9))
    assert size < 0.95 * symbols.entropy
    if name in ("drifting density", "kernels", "values"):
        assert size < 8 * len(Live().encode(symbols, Live().table(symbols)))


@pytest.mark.parametrize("density", [0.02, 0.3, 1])
def test_near_the_entropy_where_there_is_none(density: float) -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(1, 17, (300, 400)) * (rng.random((300, 400)) < density)
    symbols = Symbols(values, 17)
    assert 8 * len(encode(values, 17)) < 1.04 * symbols.entropy + 100


def test_a_long_run_of_one_symbol_costs_next_to_nothing() -> None:
    assert len(encode(np.zeros((500, 1000), np.uint8), 5)) < 100


def test_cost_is_the_size() -> None:
    values = np.random.default_rng(0).integers(0, 5, (50, 50))
    symbols = Symbols(values, 5)
    assert Adaptive().cost(symbols, b"") == 8 * len(Adaptive().encode(symbols, b""))
