"""Leaves of a compressed model as coded matrices."""

from collections.abc import Mapping

import jax
import numpy as np

from quantree.encodings.base import Codebook
from quantree.encodings.blocking import Scalar
from quantree.encodings.coded import Coded
from quantree.errors import LeafError, nearest
from quantree.products.base import CodedMatrix
from quantree.products.huffman import Hac, Shac
from quantree.products.index_map import IndexMap
from quantree.products.sparse import Csc

LAYOUTS: dict[str, type[CodedMatrix]] = {"hac": Hac, "shac": Shac, "csc": Csc, "index_map": IndexMap}


def pack(leaf: Coded, codebooks: Mapping[str, Codebook], layout: str | None = None) -> CodedMatrix:
    """A coded leaf as a matrix for `coded_matmul`: its last axis are the columns, and a vector is one column.

    layout: `hac`, `shac`, `csc` or `index_map`; None: whichever takes least memory. `LeafError` if there is no such
    layout, or the leaf has codes of vectors and not of scalars.
    """
    if not isinstance(leaf, Coded) or not isinstance(leaf.blocking, Scalar):
        raise LeafError("products need a leaf with one code for each weight")
    centroids, zero = codebooks[leaf.codebook].table().reshape(-1), leaf.zero
    symbols = np.asarray(leaf.codes).reshape(leaf.shape).astype(np.int32)
    if leaf.mask is not None:
        symbols, zero = np.where(np.asarray(leaf.mask), symbols + (not zero), 0), True
    return coded_matrix(symbols, centroids, zero=zero, layout=layout)


def coded_matrix(
    symbols: np.ndarray, centroids: jax.Array | np.ndarray, *, zero: bool = False, layout: str | None = None
) -> CodedMatrix:
    """A matrix of symbols [..., m] and what they stand for; see `CodedMatrix` and `pack`. A vector [n] is one column.

    centroids: [k] float. zero: symbol 0 is the value 0, and symbol j > 0 centroid j - 1. `LeafError` if they do not
    fit together.
    """
    if layout is not None and layout not in LAYOUTS:
        raise LeafError(f"no layout is called {layout!r}; {nearest(str(layout), list(LAYOUTS))}")
    chosen = LAYOUTS.values() if layout is None else [LAYOUTS[layout]]
    return min((kind.of(symbols, centroids, zero) for kind in chosen), key=lambda made: made.nbytes)
