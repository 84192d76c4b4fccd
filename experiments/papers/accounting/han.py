"""Sizes as Han, Mao and Dally count them in "Deep Compression" (ICLR 2016, arXiv 1510.00149, sections 2, 3 and 5)."""

import numpy as np
from pydantic import Field

from experiments.papers.accounting.huffman import coded_bits
from experiments.papers.accounting.kernels import Kernel, by_codebook, counts_of, levels
from experiments.papers.accounting.rule import FLOAT, PaperRule
from quantree.coding.relative import Gaps
from quantree.registry import register


@register("han2016")
class Han2016(PaperRule):
    """Codes and gaps of what pruning left, fillers where a gap is too long, and 32 k for a codebook.

    A kernel is read in the order in which it lies in memory. Each weight that is kept costs its code and its distance
    to the one before, in 1 .. 2^gap_bits; where the distance is longer, a filler stands for a weight of zero, and zero
    is then an entry of the codebook, as in the decoder that the authors released. Tables of Huffman codes are not
    counted: the paper's rates leave no room for them. Kernels that are not coded: a pruned one is counted with gaps
    and 32-bit values, an untouched one at 32 bits a weight.
    """

    gap_bits: int = Field(
        default=5, ge=1, le=16, description="bits of a distance: 5 in the paper's tables, 4 for AlexNet"
    )
    huffman: bool = Field(default=True, description="codes and distances have a Huffman code each")

    def stored(self, kernels: list[Kernel]) -> int:
        """See `PaperRule.stored`."""
        coded = [kernel for kernel in kernels if kernel.form == "coded"]
        bits = sum(FLOAT * kernel.values.size for kernel in kernels if kernel.form == "raw")
        for kernel in (kernel for kernel in kernels if kernel.form == "pruned"):
            distances = gaps(kernel.values, self.gap_bits)
            bits += FLOAT * int(distances.sum()) + self._cost(distances, self.gap_bits)
        return bits + sum(self._shared(group) for group in by_codebook(coded))

    def _shared(self, kernels: list[Kernel]) -> int:
        """Bits of kernels that share a codebook."""
        distances = [gaps(kernel.values, self.gap_bits) for kernel in kernels]
        fillers = [int(one.sum()) - kernel.kept for one, kernel in zip(distances, kernels, strict=True)]
        kept = [kernel.values[kernel.values != 0] for kernel in kernels]
        known = levels([*kept, np.zeros(1 if any(fillers) else 0, np.float32)])
        bits = FLOAT * known.size
        for distance, filler, values in zip(distances, fillers, kept, strict=True):
            codes = counts_of(values, known) + np.where(known == 0, filler, 0)
            bits += self._cost(codes, (known.size - 1).bit_length()) + self._cost(distance, self.gap_bits)
        return bits

    def _cost(self, counts: np.ndarray, width: int) -> int:
        return coded_bits(counts) if self.huffman else int(counts.sum()) * width


def gaps(values: np.ndarray, bits: int) -> np.ndarray:
    """How often each distance 1 .. 2^bits is stored for an array, fillers included: int64 [2^bits].

    The sum is the number of entries: the weights that are not zero, and the fillers.
    """
    return Gaps.of(values).counts(bits)
