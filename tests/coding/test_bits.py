import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantree.coding.bits import pack, packed_size, read_varint, unpack, varint, width_of
from quantree.errors import FormatError


@given(st.integers(0, 32), st.integers(0, 300), st.integers(0, 2**32 - 1))
def test_fields_are_the_digits_of_one_long_integer(width: int, count: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 1 << width, count)
    packed = pack(values, width)
    assert len(packed) == packed_size(count, width)
    assert int.from_bytes(packed, "little") == sum(int(value) << i * width for i, value in enumerate(values))
    assert (unpack(packed, width, count) == values).all()


@pytest.mark.parametrize("width", [3, 11, 17])
def test_long_arrays_cross_the_blocks_of_packing(width: int) -> None:
    values = np.random.default_rng(0).integers(0, 1 << width, (3, 65_537))
    assert (unpack(pack(values, width), width, values.size) == values.reshape(-1)).all()


def test_wrong_length_or_filling_is_refused() -> None:
    packed = pack(np.arange(5), 3)
    for wrong in (packed[:-1], packed + b"\0", bytes([packed[0], packed[1] | 0x80])):
        with pytest.raises(FormatError):
            unpack(wrong, 3, 5)


def test_width_of() -> None:
    assert [width_of(largest) for largest in (0, 1, 2, 3, 4, 65_535)] == [0, 1, 2, 2, 3, 16]


@given(st.integers(0, 2**63 - 1), st.binary(max_size=3))
def test_varint_round_trip(value: int, rest: bytes) -> None:
    coded = varint(value)
    assert len(coded) == max(1, -(-value.bit_length() // 7))
    assert read_varint(b"?" + coded + rest, 1) == (value, 1 + len(coded))


@pytest.mark.parametrize("data", [b"", b"\x80", b"\xff" * 12])
def test_varint_cut_off_or_endless(data: bytes) -> None:
    with pytest.raises(FormatError):
        read_varint(data)
