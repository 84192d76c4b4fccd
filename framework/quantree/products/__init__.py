"""Products with matrices that stay coded."""

from quantree.products.base import CodedMatrix
from quantree.products.conv import coded_conv
from quantree.products.huffman import Hac, Shac
from quantree.products.index_map import IndexMap
from quantree.products.matmul import coded_matmul
from quantree.products.pack import coded_matrix, pack
from quantree.products.sparse import Csc

__all__ = [
    "CodedMatrix",
    "Csc",
    "Hac",
    "IndexMap",
    "Shac",
    "coded_conv",
    "coded_matmul",
    "coded_matrix",
    "pack",
]
