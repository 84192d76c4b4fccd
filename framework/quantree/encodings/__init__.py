"""What stands for a weight tensor, and `Compressed`, the tree of them."""

from quantree.encodings.base import Codebook, Encoding, Stored, Stream, encoding, static
from quantree.encodings.blocking import Blocking, KernelSlices, Scalar, SubVectors
from quantree.encodings.codebooks import Affine, Table
from quantree.encodings.coded import Coded
from quantree.encodings.compressed import Compressed, combine, float_fields, map_floats, match, partition
from quantree.encodings.plain import Pruned, Raw

__all__ = [
    "Affine",
    "Blocking",
    "Codebook",
    "Coded",
    "Compressed",
    "Encoding",
    "KernelSlices",
    "Pruned",
    "Raw",
    "Scalar",
    "Stored",
    "Stream",
    "SubVectors",
    "Table",
    "combine",
    "encoding",
    "float_fields",
    "map_floats",
    "match",
    "partition",
    "static",
]
