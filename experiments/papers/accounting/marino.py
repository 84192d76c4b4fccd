"""Sizes as Marino, Petrini, Malchiodi and Frasca count them: in 2021 (arXiv 2108.12704), and in their survey of 2023.

Both keep a dense kernel as HAC (every weight in a Huffman code, column by column) or as sHAC (only what is not zero,
with row indices), which their scripts call HAM and sHAM, and a convolution as an index map: numbers into a list of
values. The smaller of HAC and sHAC counts, for all dense kernels alike. Kernels that are not coded: a pruned one is
counted in the compressed sparse columns of either text, an untouched one at 32 bits a weight.
"""

from abc import abstractmethod
from collections.abc import Iterable

import numpy as np

from experiments.papers.accounting.huffman import code_lengths
from experiments.papers.accounting.kernels import Kernel, by_codebook, counts_of, levels
from experiments.papers.accounting.rule import FLOAT, PaperRule
from quantree.registry import register


class _Marino(PaperRule):
    def stored(self, kernels: list[Kernel]) -> int:
        """See `PaperRule.stored`."""
        coded = [kernel for kernel in kernels if kernel.form == "coded"]
        dense = [kernel for kernel in coded if kernel.dense]
        bits = sum(FLOAT * kernel.values.size for kernel in kernels if kernel.form == "raw")
        bits += sum(self.columns(kernel) for kernel in kernels if kernel.form == "pruned")
        bits += sum(self.index_map(group) for group in by_codebook([kernel for kernel in coded if not kernel.dense]))
        return bits + (min(self.hac(dense), sum(map(self.shac, dense))) if dense else 0)

    @abstractmethod
    def columns(self, kernel: Kernel) -> int:
        """Bits of a pruned matrix in compressed sparse columns."""

    @abstractmethod
    def index_map(self, kernels: list[Kernel]) -> int:
        """Bits of kernels that share a codebook."""

    @abstractmethod
    def hac(self, kernels: list[Kernel]) -> int:
        """Bits of all dense kernels with their zeros in the Huffman code."""

    @abstractmethod
    def shac(self, kernel: Kernel) -> int:
        """Bits of one dense kernel without its zeros."""


@register("marino2021")
class Marino2021(_Marino):
    """As the script of Marino et al. 2021 counts: 64-bit words, a dictionary, bytes for row indices.

    HAC has one code for all dense kernels, sHAC one for each. An entry of the dictionary takes a byte per bit of its
    codeword and 13 more. A row index and a column's count take 1, 2 or 4 bytes by the number of rows. A pruned kernel
    that is not quantized is (2 q + m + 1) words of 32 bits, as in their paper of ICPR 2020.
    """

    def columns(self, kernel: Kernel) -> int:
        """2 q + m + 1 words."""
        return FLOAT * (2 * kernel.kept + kernel.matrix.shape[1] + 1)

    def index_map(self, kernels: list[Kernel]) -> int:
        """32 k + ceil(log2 k) for each weight; k: distinct values, zero included."""
        values = [kernel.values for kernel in kernels]
        k = levels(values).size
        return FLOAT * k + (k - 1).bit_length() * sum(array.size for array in values)

    def hac(self, kernels: list[Kernel]) -> int:
        """One code and one dictionary for all; each kernel begins a new word."""
        return self._streams([kernel.values for kernel in kernels])

    def shac(self, kernel: Kernel) -> int:
        """A code and a dictionary, a row index for each weight that is kept, a count for each column."""
        rows, columns = kernel.matrix.shape
        kept = kernel.values[kernel.values != 0]
        return self._streams([kept]) + _width(rows, (8, 16, 32)) * (kept.size + columns)

    def _streams(self, arrays: list[np.ndarray]) -> int:
        known = levels(arrays)
        counts = [counts_of(array, known) for array in arrays]
        lengths = code_lengths(_summed(counts, known.size))
        return sum(_words(int(one @ lengths), 64) for one in counts) + 8 * int(np.sum(lengths + 13))


@register("marino2023")
class Marino2023(_Marino):
    """As the survey of Marino et al. 2023 counts: canonical Huffman codes, 32-bit words, formulas for each matrix.

    b(x): the least of 8, 16, 32, 64 bits that holds x. A code of k symbols whose longest codeword has l bits takes
    32 k + 2 l b(k) + (l + 1) b(2^l) bits, of which the survey's bound 32 k + 2 (k - 1) b(k) + k b(2^(k-1)) is the worst
    case, l = k - 1.
    """

    def columns(self, kernel: Kernel) -> int:
        """32 + b(n) for each weight that is kept, b(n) for each column."""
        rows, columns = kernel.matrix.shape
        return (FLOAT + _width(rows)) * kernel.kept + _width(rows) * columns

    def index_map(self, kernels: list[Kernel]) -> int:
        """b(k) for each weight, 32 k once."""
        values = [kernel.values for kernel in kernels]
        k = levels(values).size
        return FLOAT * k + _width(k) * sum(array.size for array in values)

    def hac(self, kernels: list[Kernel]) -> int:
        """A code for each kernel."""
        return sum(self._stream(kernel.values) for kernel in kernels)

    def shac(self, kernel: Kernel) -> int:
        """A code, a row index of b(n) for each weight that is kept, and m + 1 starts of columns."""
        rows, columns = kernel.matrix.shape
        kept = kernel.values[kernel.values != 0]
        return self._stream(kept) + _width(rows) * (kept.size + columns + 1)

    def _stream(self, array: np.ndarray) -> int:
        known = levels([array])
        counts = counts_of(array, known)
        lengths, k = code_lengths(counts), known.size
        longest = int(lengths.max(initial=0))
        table = FLOAT * k + 2 * longest * _width(k) + (longest + 1) * _width(1 << longest)
        return _words(int(counts @ lengths), 32) + (table if k else 0)


def _summed(counts: Iterable[np.ndarray], k: int) -> np.ndarray:
    return sum(counts, np.zeros(k, np.int64))


def _words(bits: int, word: int) -> int:
    """Bits filled up to whole words."""
    return -(-bits // word) * word


def _width(x: int, widths: tuple[int, ...] = (8, 16, 32, 64)) -> int:
    """The least of these widths that holds x."""
    return next(width for width in widths if x < 1 << width)
