"""Files from anyone: valid checksums, lying headers. The answer is `FormatError` or a consistent model, quickly."""

import functools
import random
import time
import zlib
from typing import Any

import jax
import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantree import storage
from quantree.errors import FormatError, PluginError
from quantree.registry import temporarily
from quantree.storage import header
from quantree.storage.layout import MAGIC, VERSION, read
from tests.storage.models import coded_net, every_kind

LIMIT = 1 << 22
MODELS = [every_kind(), coded_net({"fc1": (20, 10), "fc2": (10, 4)}, density=0.5)]
NASTY = [
    *(None, True, False, -1, 0, 1, 2, 3, 255, 256, 65_537, 2**31, 2**32, 2**60, 2**63 - 1, 0.5, float("nan"), "", "/"),
    *("a", "a/b", "../../etc/passwd", "x\x1b[31m", "fc1/kernel", "raw", "coded", "affine", "pruned", "table", "ans"),
    *("float64", "uint8", "uint32", "bool", "complex64", "codes", "scalar", "sub_vectors", "\u202e", [], [0], [2**60]),
]


def sealed(body: bytes) -> bytes:
    return body + zlib.crc32(body).to_bytes(4, "little")


@functools.cache
def stored(index: int) -> bytes:
    """The file of one of the models."""
    return storage.to_bytes(MODELS[index])


def parts(data: bytes) -> tuple[Any, bytes]:
    plain, end = header.unpack(data[:-4], len(MAGIC) + 1)
    return plain, data[end:-4]


def forged(plain: Any, runs: bytes) -> bytes:
    return sealed(MAGIC + bytes([VERSION]) + header.pack(plain) + runs)


def open_safely(data: bytes) -> bool:
    """True if the file is accepted; then everything in it must work."""
    try:
        model = storage.from_bytes(data, LIMIT)
    except FormatError:
        return False
    for leaf in jax.tree.leaves(model.decode()):
        assert leaf.nbytes <= LIMIT
    try:
        again = storage.from_bytes(storage.to_bytes(model), LIMIT)
    except PluginError:
        return True  # a leaf that wishes for a coder that nobody has
    assert jax.tree.structure(again) == jax.tree.structure(model)
    return True


def mutate(plain: Any, rng: random.Random) -> Any:
    """Changes one thing somewhere inside nested lists."""
    if not isinstance(plain, list) or not plain or rng.random() < 0.15:
        return rng.choice(NASTY)
    place, copy = rng.randrange(len(plain)), list(plain)
    what = rng.random()
    if what < 0.05:
        del copy[place]
    elif what < 0.1:
        copy.insert(place, rng.choice([*NASTY, copy[place]]))
    elif what < 0.15:
        other = rng.randrange(len(plain))
        copy[place], copy[other] = copy[other], copy[place]
    else:
        copy[place] = mutate(copy[place], rng)
    return copy


def fuzz(seed: int) -> bool:
    rng = random.Random(seed)
    plain, runs = parts(stored(rng.randrange(2)))
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        plain = mutate(plain, rng)
    if rng.random() < 0.2:
        runs = bytearray(runs)
        runs[rng.randrange(len(runs))] ^= rng.randrange(1, 256)
    return open_safely(forged(plain, bytes(runs)))


@given(st.integers(0, 2**64))
def test_headers_that_lie(seed: int) -> None:
    fuzz(seed)


@pytest.mark.slow
def test_many_headers_that_lie() -> None:
    accepted = sum(fuzz(seed) for seed in range(600))
    assert 10 < accepted < 300  # the mutations reach deep: some are harmless, most are noticed


@given(st.binary(max_size=60), st.booleans(), st.binary(max_size=20))
def test_headers_of_noise(body: bytes, deflated: bool, runs: bytes) -> None:
    open_safely(sealed(MAGIC + bytes([VERSION, len(body) << 1 & 127 | deflated]) + body + runs))


@given(st.integers(0, 2**64))
def test_runs_of_noise(seed: int) -> None:
    plain, runs = parts(stored(seed % 2))
    open_safely(forged(plain, np.random.default_rng(seed).bytes(len(runs))))


def test_declared_sizes_are_checked_before_anything_is_allocated() -> None:
    one_symbol = bytes([0x20, 1, 0])  # ans: only symbol 0 occurs, so that any count needs no payload
    for shape in ([2**60], [2**30, 2**30], [0, 2**60], [2**61, 2**61, 2**61], [1] * 33, [2**40, 0]):
        row = ["w", "coded", shape, "float32", ["b", False, None, "scalar"], ["codes", 2, "ans", 3, 0]]
        book = ["b", "table", [1, 2, 1], "float32", [], "centroids"]
        start = time.perf_counter()
        with pytest.raises(FormatError):
            storage.from_bytes(forged([None, [row], [book], []], one_symbol + bytes(8)))
        assert time.perf_counter() - start < 1


def test_runs_fill_the_file() -> None:
    plain, runs = parts(storage.to_bytes(MODELS[0]))
    for wrong in (runs + b"\0", runs[:-1]):
        with pytest.raises(FormatError, match="the header claims"):
            storage.from_bytes(forged(plain, wrong))


def test_tables_come_before_they_are_shared() -> None:
    streams = ["codes", 2, "ans", [0], 0], ["codes", 2, "ans", 3, 0]
    rows = [[path, "pruned", [0], "float32", [], stream] for path, stream in zip("ab", streams, strict=True)]
    with pytest.raises(FormatError, match="a: codes uses a table that is not there"):
        storage.from_bytes(forged([None, rows, [], []], b"\x20\1\0"))


def test_limit() -> None:
    data = storage.to_bytes(MODELS[0])
    with pytest.raises(FormatError, match="give load a higher one"):
        storage.from_bytes(data, 1000)
    vast = ["w", "raw", [0, 2**40], "float32", [], "value"]  # no elements, but axes that no array has
    with pytest.raises(FormatError, match="give load a higher one"):
        storage.from_bytes(forged([None, [vast], [], []], b""))


def test_inflation_is_bounded() -> None:
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = deflater.compress(bytes(1 << 28)) + deflater.flush()
    length = len(bomb) << 1 | 1
    front = bytes([length & 127 | 128, length >> 7 & 127 | 128, length >> 14])
    with pytest.raises(FormatError, match="inflate"):
        storage.from_bytes(sealed(MAGIC + bytes([VERSION]) + front + bomb))


@pytest.mark.parametrize("depth", [7, 500, 100_000])
def test_nesting_is_bounded(depth: int) -> None:
    body = b"\x91" * depth + b"\xc0"
    front = bytes([(2 * len(body)) & 127 | 128, (2 * len(body)) >> 7 & 127 | 128, (2 * len(body)) >> 14])
    with pytest.raises(FormatError):
        storage.from_bytes(sealed(MAGIC + bytes([VERSION]) + front + body))


@pytest.mark.parametrize(
    "value", [msgpack.Timestamp(1, 2), msgpack.ExtType(5, b"x"), {"a": 1}, {1: 2}, b"abc"], ids=str
)
def test_only_plain_data(value: Any) -> None:
    body = msgpack.packb([None, [], [], value])
    assert isinstance(body, bytes)
    with pytest.raises(FormatError):
        storage.from_bytes(sealed(MAGIC + bytes([VERSION, 2 * len(body)]) + body))


def test_paths() -> None:
    def file(*paths: str) -> bytes:
        return forged([0, [[path, "raw", [], "uint8", [], "value"] for path in paths], [], []], bytes(len(paths)))

    assert open_safely(file("../../etc/passwd", "a.b", "a/b", "C:\\x", "ü", "[bold]"))
    twice, inside = file("a", "b", "a"), file("a/b", "a-b", "a")
    book = ["a", "table", [1, 1, 1], "uint8", [], "centroids"]
    assert not open_safely(forged([0, [], [book, book], []], b"\0\0"))
    for wrong in (twice, inside, file(""), file("/"), file("a//b"), file("a/"), file("\x1b[2J"), file("a/" * 70 + "a")):
        assert not open_safely(wrong)


def test_newer_files_and_missing_plugins_are_told() -> None:
    data = storage.to_bytes(MODELS[1], "ans")
    with pytest.raises(FormatError, match=r"version 2.*reads version 1.*update"):
        storage.from_bytes(sealed(MAGIC + b"\x02" + data[4:-4]))

    def swapped(old: Any, new: Any) -> bytes:
        plain, runs = parts(data)
        return forged(_replace(plain, old, new), runs)

    with pytest.raises(FormatError, match="encoding 'trellis' version 1 is not known here, install the plug-in"):
        storage.from_bytes(swapped("coded", "trellis"))
    with pytest.raises(FormatError, match="encoding 'coded' version 3 is needed, this is version 1"):
        storage.from_bytes(swapped("coded", ["coded", 3]))
    with pytest.raises(FormatError, match="coder 'ens' is not known here; did you mean 'ans'"):
        storage.from_bytes(swapped("ans", "ens"))
    with temporarily():
        assert read(swapped("coded", "trellis"))[0].items[1].kind == "trellis"  # the ledger needs no plug-in


def _replace(plain: Any, old: Any, new: Any) -> Any:
    return [_replace(item, old, new) for item in plain] if isinstance(plain, list) else new if plain == old else plain
