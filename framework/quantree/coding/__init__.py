"""Symbols <-> bits. Knows no models."""

from quantree.coding.adaptive import Adaptive
from quantree.coding.ans import Ans
from quantree.coding.base import Coded, Coder, Symbols, smallest
from quantree.coding.fixed import Fixed
from quantree.coding.huffman import Hac, Huffman
from quantree.coding.live import Live
from quantree.coding.relative import Relative
from quantree.coding.sharing import share
from quantree.coding.sparse import Csc, Csr, Shac

__all__ = [
    "Adaptive",
    "Ans",
    "Coded",
    "Coder",
    "Csc",
    "Csr",
    "Fixed",
    "Hac",
    "Huffman",
    "Live",
    "Relative",
    "Shac",
    "Symbols",
    "share",
    "smallest",
]
