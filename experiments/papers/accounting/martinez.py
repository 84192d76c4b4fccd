"""Sizes as Martinez et al. count them in "Permute, Quantize, and Fine-tune" (CVPR 2021, arXiv 2010.15703)."""

from experiments.papers.accounting.kernels import Kernel, by_codebook
from experiments.papers.accounting.rule import FLOAT, PaperRule
from quantree.registry import register

HALF = 16  # bits of a number in a codebook


def code_bits(codes: int, symbols: int) -> int:
    """Codes of fixed width: ceil(log2 symbols) bits each."""
    return codes * (symbols - 1).bit_length()


@register("martinez2021")
class Martinez2021(PaperRule):
    """N log2 k + 16 k d bits for N codes into k centroids of length d, 32 bits for everything else.

    `part: whole` counts every parameter, not kernels alone: biases, and norms as two vectors, scale and shift, into
    which their statistics are folded; before compression too. The paper prunes nothing: here a bit for each weight
    says where the zeros of a pruned kernel are, or, where a code stands for one weight, a symbol of its own.
    """

    def counts(self, path: str, axes: int) -> bool:
        """See `PaperRule.counts`."""
        return self.part == "whole" or super().counts(path, axes)

    def stored(self, kernels: list[Kernel]) -> int:
        """See `PaperRule.stored`."""
        bits = sum(FLOAT * kernel.values.size for kernel in kernels if kernel.form == "raw")
        bits += sum(FLOAT * kernel.kept + kernel.values.size for kernel in kernels if kernel.form == "pruned")
        return bits + sum(map(_shared, by_codebook([kernel for kernel in kernels if kernel.form == "coded"])))


def _shared(kernels: list[Kernel]) -> int:
    """Bits of kernels that share a codebook."""
    segments, k, d = kernels[0].table
    bits = HALF * segments * k * d
    for kernel in kernels:
        symbol = kernel.zeros and d == 1
        bits += code_bits(kernel.codes, k + symbol) + (kernel.values.size if kernel.zeros and not symbol else 0)
    return bits
