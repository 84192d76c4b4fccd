"""Huffman's codes against constriction's, and what is known of any of them."""

import itertools
from typing import Any

import constriction
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from quantree.coding import Hac, Huffman, Shac, Symbols
from quantree.coding.prefix import LONGEST, PrefixCode, bound, code_lengths
from quantree.errors import FormatError, LeafError

_symbol: Any = constriction.symbol  # pyright: ignore[reportAttributeAccessIssue]  (it has no stubs)


def reference_bits(counts: np.ndarray) -> int:
    """Bits of the stream in constriction's Huffman code."""
    tree = _symbol.huffman.EncoderHuffmanTree(counts.astype(np.float64))
    lengths = []
    for i in range(len(counts)):
        coder = _symbol.StackCoder()
        coder.encode_symbol(i, tree)
        lengths.append(coder.get_compressed()[1])
    return int(counts @ np.array(lengths))


@given(arrays(np.int64, st.integers(2, 40), elements=st.integers(1, 10_000)))
def test_no_code_is_shorter(counts: np.ndarray) -> None:
    lengths = code_lengths(counts)
    assert int(counts @ lengths) == reference_bits(counts)
    assert sum(2.0**-lengths) == 1
    assert int(counts @ lengths) <= bound(counts) < counts.sum() * (1.01 + np.log2(len(counts)))


def test_tiny_codes_are_the_best_of_all() -> None:
    for counts in itertools.product((1, 2, 5, 13), repeat=4):
        best = min(
            int(np.dot(counts, lengths))
            for lengths in itertools.product(range(1, 5), repeat=4)
            if sum(2.0**-length for length in lengths) <= 1
        )
        assert int(np.dot(counts, code_lengths(np.array(counts)))) == best


def test_codewords_have_a_longest() -> None:
    fibonacci = [1, 1]
    while len(fibonacci) < 40:
        fibonacci.append(sum(fibonacci[-2:]))
    counts = np.array(fibonacci)
    lengths = code_lengths(counts)
    assert lengths.max() == LONGEST and sum(2.0**-lengths) == 1
    assert reference_bits(counts) < int(counts @ lengths) < min(1.0001 * reference_bits(counts), bound(counts))


@given(arrays(np.int64, st.integers(1, 300), elements=st.integers(0, 50)))
def test_a_code_survives_its_bytes(counts: np.ndarray) -> None:
    code = PrefixCode.of(counts)
    again, end = PrefixCode.unpack(code.pack(len(counts)), len(counts))
    assert end == len(code.pack(len(counts)))
    np.testing.assert_array_equal(again.symbols, code.symbols)
    np.testing.assert_array_equal(again.words, code.words)


def test_codewords_ascend_and_none_begins_with_another() -> None:
    code = PrefixCode.of(np.array([9, 1, 4, 0, 4, 2]))
    written = [f"{word:0{length}b}" for word, length in zip(code.words, code.lengths, strict=True)]
    assert written == sorted(written) and written[0] == "0" * int(code.lengths[0])
    assert not any(other.startswith(one) for one, other in itertools.permutations(written, 2))


@pytest.mark.parametrize("count", [1, 4095, 4096, 4097, (1 << 20) + 3])
def test_long_streams_go_piece_by_piece(count: int) -> None:
    rng = np.random.default_rng(count)
    # Codewords of every length, also beyond the window of the decoder's table.
    values = np.minimum(rng.geometric(0.45, count), 24) - 1
    values[:: max(1, count // 7)] = 23
    symbols = Symbols(values, 24)
    table = Huffman().table(symbols)
    payload = Huffman().encode(symbols, table)
    np.testing.assert_array_equal(Huffman().decode(payload, table, (count,), 24), values)
    with pytest.raises(FormatError):
        Huffman().decode(payload + b"\0", table, (count,), 24)
    if len(payload) > 1:
        with pytest.raises(FormatError):
            Huffman().decode(payload[:-1], table, (count,), 24)


def test_a_symbol_without_a_codeword_is_an_error() -> None:
    table = Huffman().table(Symbols(np.array([0, 1, 1]), 4))
    with pytest.raises(LeafError, match="lacks a symbol"):
        Huffman().encode(Symbols(np.array([0, 3]), 4), table)


def pruned(k: int, pruning: float, rows: int, columns: int) -> Symbols:
    """A matrix whose weights are normal, in k - 1 levels and zero."""
    rng = np.random.default_rng(k)
    weights = rng.standard_normal((rows, columns))
    levels = np.clip(np.round((weights + 3) / 6 * (k - 2)), 0, k - 2).astype(np.int64) + 1
    return Symbols(np.where(rng.random((rows, columns)) < pruning, 0, levels), k)


@pytest.mark.parametrize("k", [2, 4, 16, 32, 64, 256])
@pytest.mark.parametrize("pruning", [0.0, 0.5, 0.9, 0.99])
def test_sizes_are_those_of_the_theory(k: int, pruning: float) -> None:
    """Within 1 % of what counts predict: a reference's codewords; for sHAC 9 bits for a row, and those of a count."""
    symbols = pruned(k, pruning, 512, 512)
    used = symbols.counts[symbols.counts > 0]
    other = symbols.counts[1:][symbols.counts[1:] > 0]
    hac = reference_bits(used) if len(used) > 1 else 0
    width = int(np.count_nonzero(symbols.values, axis=0).max()).bit_length()
    shac = int(other.sum()) * 9 + 512 * width + (reference_bits(other) if len(other) > 1 else 0)
    for coder, wanted in ((Hac(), hac), (Shac(), shac)):
        table = coder.table(symbols)
        assert abs(8 * len(coder.encode(symbols, table)) - wanted) <= 0.01 * wanted + 16
        assert len(table) <= 3 + 32 + k * 5 / 8


def test_hac_and_shac_cross_where_places_cost_what_zeros_cost() -> None:
    """A density of 1 / (1 + 16) with places of 16 bits (Marino et al.; about 5.9 %)."""
    sizes = {}
    for density in (0.05, 0.055, 0.063, 0.07):
        symbols = pruned(32, 1 - density, 40_000, 8)
        sizes[density] = [len(coder.encode(symbols, coder.table(symbols))) for coder in (Hac(), Shac())]
    assert [hac > shac for hac, shac in sizes.values()] == [True, True, False, False]
