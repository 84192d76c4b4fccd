"""Between which of a few ascending cuts many unsorted values lie, without a binary search for each.

The bits of a float, read as an integer, rise with it (negative ones once flipped), so their upper part is a cell on a
grid that is fine where floats are. A table says how many cuts lie below each cell; only values that share their cell
with a cut need the search.
"""

from collections.abc import Callable

import numpy as np

CELLS = 20  # binary digits: 4 MB of table
WORTH_A_TABLE = 1 << 16  # values

Look = Callable[[np.ndarray, np.ndarray], None]
"""Fills an array [m] of int32 with the number of cuts below each of m values."""


def look_up(cuts: np.ndarray, dtype: np.dtype, n: int) -> Look:
    """The function that counts cuts [k - 1], ascending, strictly below values of `dtype`; it will be asked for n."""
    cuts = just_below(cuts, dtype)

    def search(values: np.ndarray, out: np.ndarray) -> None:
        out[:] = np.searchsorted(cuts, values)

    if n < WORTH_A_TABLE or not cuts.size:
        return search
    keys = _keys(cuts)
    # Cells outside of the cuts are as the nearest one, and taken for it.
    first, last = int(keys[0]), int(keys[-1])
    # At least 2, or differences of keys would overflow.
    shift = max(2, (last - first).bit_length() - CELLS)
    cells = (keys >> shift) - (first >> shift) + 1
    size = int(cells[-1]) + 2
    table = np.repeat(np.arange(cuts.size + 1, dtype=np.int32), np.diff(cells, prepend=0, append=size))
    table[cells] = -1

    def look(values: np.ndarray, out: np.ndarray) -> None:
        place = _keys(values)
        place >>= shift
        place -= place.dtype.type((first >> shift) - 1)
        np.take(table, place, out=out, mode="clip")
        unsure = np.flatnonzero(out < 0)
        out[unsure] = np.searchsorted(cuts, values[unsure])

    return look


def just_below(cuts: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The greatest numbers of `dtype` that are not above the cuts: values of `dtype` lie above either or neither."""
    rounded = cuts.astype(dtype)
    with np.errstate(over="ignore"):
        below = np.nextafter(rounded, dtype.type(-np.inf))
    # Minus zero equals zero, but its bits don't.
    return np.where(rounded > cuts, below, rounded) + dtype.type(0)


def _keys(values: np.ndarray) -> np.ndarray:
    """Integers as wide as the values, and in the same order."""
    bits = np.ascontiguousarray(values).view(f"i{values.itemsize}")
    keys = bits >> (8 * values.itemsize - 1)
    keys &= np.iinfo(keys.dtype).max
    keys ^= bits
    return keys
