"""Huffman codes as papers count them."""

import numpy as np

from quantree.coding import prefix


def code_lengths(counts: np.ndarray) -> np.ndarray:
    """Bits of each symbol's codeword, int64 [k]; 0 for a symbol that does not occur.

    counts: how often each symbol occurs, [k]. A symbol that is alone takes a bit, where quantree's own coder knows
    better: no paper's stream costs less than a bit for each symbol.
    """
    lengths, used = np.zeros(counts.size, np.int64), counts > 0
    lengths[used] = np.maximum(1, prefix.code_lengths(counts[used]))
    return lengths


def coded_bits(counts: np.ndarray) -> int:
    """Bits of a stream under its own Huffman code, without the code's table."""
    return int(counts @ code_lengths(counts))
