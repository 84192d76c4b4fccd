"""Plain data <-> the few bytes of a file's header.

Positional msgpack, in which a string that was there before, or that every file uses, is one small negative number;
then raw deflate, if that makes it shorter.
"""

import zlib
from typing import Any, cast

import msgpack

from quantree.coding.bits import read_varint, varint
from quantree.errors import FormatError

Plain = Any  # None, bool, int, float, str, and lists of these

LARGEST = 1 << 20  # bytes of a header, inflated or not: room for 50,000 leaves
_DEPTH = 6

# Part of the format, both: a word may be added at the end, up to 32 of them; none may be moved. Number -1 is the first.
WORDS = (
    *("raw", "value", "float32", "bias", "kernel", "coded", "codes", "table", "centroids", "scalar", "ans", "fixed"),
    *("float16", "bfloat16", "pruned", "mask", "affine", "scale", "offset", "sub_vectors", "inputs", "outputs"),
    *("segment", "layer", "float64", "int32", "uint8", "live", "constant", "adaptive"),
)
_FIRST = 32  # the number of a file's own first string
_DICTIONARY = b"layers/0/conv1/kernel\xff\xfafc1/bias\xff\x91\xcd\xfd\x90\xfe"


def pack(header: Plain) -> bytes:
    """The header with its length in front."""
    numbers = {word: -1 - place for place, word in enumerate(WORDS)}
    body = cast(bytes, msgpack.packb(_shorten(header, numbers)))
    if len(body) > LARGEST:
        raise FormatError(f"a header of {len(body):,} bytes is over the limit of {LARGEST:,}: too many leaves")
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_DEFAULT_STRATEGY, _DICTIONARY)
    deflated = deflater.compress(body) + deflater.flush()
    if len(deflated) < len(body):
        return varint(len(deflated) << 1 | 1) + deflated
    return varint(len(body) << 1) + body


def unpack(data: bytes, start: int) -> tuple[Plain, int]:
    """Inverse of `pack`, from `start` -> (header, where it ends). `FormatError` on anything else."""
    length, start = read_varint(data, start)
    end = start + (length >> 1)
    if end > len(data) or length >> 1 > LARGEST:
        raise FormatError(f"the header claims {length >> 1:,} bytes")
    body = data[start:end]
    try:
        if length & 1:
            inflater = zlib.decompressobj(-15, _DICTIONARY)
            body = inflater.decompress(body, LARGEST)
            if not inflater.eof or inflater.unused_data:
                raise FormatError("the header does not inflate to its end")
        return _lengthen(msgpack.unpackb(body), [], _DEPTH), end
    except (ValueError, zlib.error, msgpack.UnpackException) as error:
        raise FormatError(f"the header is malformed: {error}") from None


def _shorten(value: Plain, numbers: dict[str, int]) -> Any:
    if isinstance(value, str):
        if value in numbers:
            return numbers[value]
        numbers[value] = -1 - _FIRST - (len(numbers) - len(WORDS))
    elif isinstance(value, list | tuple):
        return [_shorten(item, numbers) for item in value]
    elif isinstance(value, int) and value < 0:  # negative numbers stand for strings
        return value.to_bytes(8, "little", signed=True)
    return value


def _lengthen(value: Any, strings: list[str], depth: int) -> Plain:
    if isinstance(value, list) and depth:
        return [_lengthen(item, strings, depth - 1) for item in value]
    if isinstance(value, str):
        strings.append(value)
    elif isinstance(value, bytes) and len(value) == 8:
        return int.from_bytes(value, "little", signed=True)
    elif isinstance(value, int) and value < 0:
        number = -1 - value
        known, place = (WORDS, number) if number < _FIRST else (strings, number - _FIRST)
        if place >= len(known):
            raise FormatError(f"the header refers to string {number}, which it has not given")
        return known[place]
    elif value is not None and not isinstance(value, int | float):
        raise FormatError(f"the header holds a {type(value).__name__}")
    return value
