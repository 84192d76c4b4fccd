"""Integers <-> bytes: fixed-width fields and varints. All orders are little-endian, down to the bit."""

import numpy as np

from quantree.errors import FormatError

_BLOCK = 1 << 16  # values per step; a multiple of 8, so that each step ends on a whole byte


def width_of(largest: int) -> int:
    """Bits of a field that holds 0..largest; 0 if there is nothing to tell apart."""
    return int(largest).bit_length()


def packed_size(count: int, width: int) -> int:
    """Bytes that `count` fields of `width` bits take."""
    return (count * width + 7) // 8


def pack(values: np.ndarray, width: int) -> bytes:
    """Integers in 0..2**width-1, width 0..32, any shape -> fields back to back; zeros fill the last byte."""
    values, cell = values.reshape(-1), _cell(width)
    if width == 8 * cell.itemsize:
        return values.astype(cell).tobytes()
    out = bytearray()
    for start in range(0, values.size, _BLOCK):
        cells = np.ascontiguousarray(values[start : start + _BLOCK], cell)
        bits = np.unpackbits(cells.view(np.uint8).reshape(-1, cell.itemsize), axis=1, count=width, bitorder="little")
        out += np.packbits(bits, bitorder="little").tobytes()
    return bytes(out)


def unpack(data: bytes, width: int, count: int) -> np.ndarray:
    """Inverse of `pack` -> [count], unsigned. `FormatError` if `data` has another length or its filling is not zero."""
    cell = _cell(width)
    if len(data) != packed_size(count, width):
        raise FormatError(
            f"{count:,} fields of {width} bits take {packed_size(count, width):,} bytes, not {len(data):,}"
        )
    if width == 8 * cell.itemsize:
        return np.frombuffer(data, cell).copy()
    filling = 8 * len(data) - count * width
    if filling and data[-1] >> (8 - filling):
        raise FormatError("the last byte of packed integers is not filled with zeros")
    raw, out = np.frombuffer(data, np.uint8), np.zeros(count, cell)
    for start in range(0, count if width else 0, _BLOCK):
        size = min(_BLOCK, count - start)
        piece = raw[start * width // 8 :]
        bits = np.unpackbits(piece[: packed_size(size, width)], count=size * width, bitorder="little")
        cells = np.zeros((size, 8 * cell.itemsize), np.uint8)
        cells[:, :width] = bits.reshape(size, width)
        out[start : start + size] = np.packbits(cells, axis=1, bitorder="little").view(cell)[:, 0]
    return out


def _cell(width: int) -> np.dtype:
    if not 0 <= width <= 32:
        raise ValueError(f"fields have 0 to 32 bits, not {width}")
    return np.dtype("<u1" if width <= 8 else "<u2" if width <= 16 else "<u4")


def varint(value: int) -> bytes:
    """A non-negative integer in groups of 7 bits, lowest first; the top bit of a byte says that more follow: LEB128."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def read_varint(data: bytes, start: int = 0) -> tuple[int, int]:
    """Inverse of `varint`, from `start` -> (value, where it ends). `FormatError` if it is cut off or over 63 bits."""
    value = 0
    for place, byte in enumerate(data[start : start + 9]):
        value |= (byte & 127) << 7 * place
        if byte < 128:
            return value, start + place + 1
    raise FormatError("an integer of variable length is cut off or too long")
