"""Lengths of codewords."""

import heapq

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from experiments.papers.accounting.huffman import code_lengths, coded_bits


def merged(counts: list[int]) -> int:
    """Bits of a Huffman-coded stream: what merging the two rarest costs, again and again."""
    heap, bits = [count for count in counts if count], 0
    heapq.heapify(heap)
    while len(heap) > 1:
        both = heapq.heappop(heap) + heapq.heappop(heap)
        heapq.heappush(heap, both)
        bits += both
    return bits


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=50))
def test_no_prefix_code_is_shorter(counts: list[int]) -> None:
    lengths = code_lengths(np.array(counts))
    assert [length > 0 for length in lengths] == [count > 0 for count in counts]
    if sum(count > 0 for count in counts) > 1:
        assert sum(2.0**-length for length in lengths if length) == 1
        assert coded_bits(np.array(counts)) == merged(counts)


def test_a_symbol_that_is_alone_takes_a_bit_and_nothing_takes_none() -> None:
    assert coded_bits(np.array([0, 7])) == 7
    assert coded_bits(np.array([0, 0])) == coded_bits(np.array([], np.int64)) == 0
