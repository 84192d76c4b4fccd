"""Which symbols of an alphabet occur, in few bytes: every table begins with that."""

import numpy as np

from quantree.coding.bits import pack, packed_size, read_varint, unpack, varint, width_of
from quantree.errors import FormatError

ALL, BITMAP, GAPS = range(3)


def write_subset(used: np.ndarray, alphabet: int) -> tuple[int, bytes]:
    """The shortest description of ascending symbols below `alphabet` -> (kind, bytes)."""
    if len(used) == alphabet:
        return ALL, b""
    occurs = np.zeros(alphabet, np.uint8)
    occurs[used] = 1
    gaps = np.diff(used, prepend=-1) - 1
    width = width_of(int(gaps.max(initial=0)))
    bitmap, listed = pack(occurs, 1), varint(len(used)) + bytes([width]) + pack(gaps, width)
    return (BITMAP, bitmap) if len(bitmap) <= len(listed) else (GAPS, listed)


def read_subset(kind: int, data: bytes, start: int, alphabet: int) -> tuple[np.ndarray, int]:
    """Inverse of `write_subset`, from `start` -> (symbols ascending, where their description ends). `FormatError`."""
    if kind == ALL:
        return np.arange(alphabet), start
    if kind == BITMAP:
        end = start + packed_size(alphabet, 1)
        return np.flatnonzero(unpack(data[start:end], 1, alphabet)), end
    if kind != GAPS:
        raise FormatError(f"table of unknown kind {kind}")
    count, start = read_varint(data, start)
    width = data[start] if start < len(data) else 255
    if count > alphabet or width > 16:
        raise FormatError("table with an impossible list of symbols")
    end = start + 1 + packed_size(count, width)
    used = np.cumsum(unpack(data[start + 1 : end], width, count).astype(np.int64) + 1) - 1
    if count and used[-1] >= alphabet:
        raise FormatError(f"table with symbol {used[-1]} in an alphabet of {alphabet:,}")
    return used, end
