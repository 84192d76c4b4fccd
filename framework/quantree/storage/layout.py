"""What a file holds and where: items, each a row of the header and the runs of bytes that belong to it.

Everything that a header claims is checked here, before anything is read or allocated on its word.
"""

import itertools
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import jax.numpy as jnp
import numpy as np

from quantree.encodings.compressed import Layout as Names
from quantree.errors import FormatError, nearest
from quantree.model import DEEPEST
from quantree.storage import header

MAGIC = b"\x93qt"
VERSION = 1
Section = Literal["leaf", "codebook", "state"]
SECTIONS: tuple[Section, ...] = ("leaf", "codebook", "state")
DTYPES = {
    name: jnp.dtype(name)
    for name in (
        *("float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e5m2", "bool"),
        *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    )
}
_RANK = 32  # axes of an array, at most
_LENGTH = 1 << 62  # of anything


@dataclass(frozen=True)
class Run:
    """One stream as it lies in the file.

    count, dtype: of the array. Coded runs have an alphabet and a coder; `table` is the length of a table of their own,
    `shared` the number of the earlier table that they use instead. payload: bytes.
    """

    name: str
    count: int
    dtype: np.dtype[Any]
    payload: int
    alphabet: int | None = None
    coder: str | None = None
    table: int = 0
    shared: int | None = None

    @property
    def size(self) -> int:
        return self.table + self.payload


@dataclass(frozen=True)
class Item:
    """A leaf, a codebook or an array of the state; kind and version are those of the class that restores it."""

    section: Section
    path: str
    kind: str
    version: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    meta: tuple[Any, ...]
    runs: tuple[Run, ...]

    @property
    def where(self) -> str:
        return self.path if self.section == "leaf" else f"{self.section} {self.path}"

    @property
    def decoded(self) -> int:
        """A bound on the bytes of its arrays, as stored and as decoded; symbols pass through int32."""
        runs = sum(run.count * max(4, run.dtype.itemsize) for run in self.runs)
        # One number may stand for all, and is then spread at its own width before it is cast.
        widest = max(self.dtype.itemsize, *(run.dtype.itemsize for run in self.runs), 0)
        return runs + math.prod(max(1, size) for size in self.shape) * widest


@dataclass(frozen=True)
class Layout:
    """The whole file but for the bytes of its runs, which follow the header in the order of the items."""

    dense_bytes: int
    items: tuple[Item, ...]
    names: Names | None = None  # whose names and axes the checkpoint had

    def runs(self) -> Iterator[tuple[Item, Run]]:
        """Every run with its item, in the order of the file."""
        return ((item, run) for item in self.items for run in item.runs)

    def pack(self) -> bytes:
        """Magic, version and header."""
        sections = [[_write_item(item) for item in self.items if item.section == name] for name in SECTIONS]
        dense = None if self.dense_bytes == _dense(self.items) else self.dense_bytes
        front = dense if self.names is None else [dense, self.names]
        return MAGIC + bytes([VERSION]) + header.pack([front, *sections])


def read(data: bytes) -> tuple[Layout, int]:
    """Checks a whole file, but for the insides of its runs -> (layout, where the runs begin). `FormatError`."""
    if data[: len(MAGIC)] != MAGIC:
        raise FormatError("not a .qtree file")
    if len(data) < len(MAGIC) + 6:
        raise FormatError("the file is cut off")
    if data[len(MAGIC)] != VERSION:
        raise FormatError(f"format version {data[len(MAGIC)]}; this quantree reads version {VERSION}: update it")
    if zlib.crc32(data[:-4]) != int.from_bytes(data[-4:], "little"):
        raise FormatError("the checksum is wrong: the file is damaged or cut off")
    plain, start = header.unpack(data[:-4], len(MAGIC) + 1)
    if not isinstance(plain, list) or len(plain) != 1 + len(SECTIONS):
        raise FormatError("the header is malformed")
    front, *sections = plain
    dense, names = front if isinstance(front, list) and len(front) == 2 else (front, None)
    known = get_args(Names)
    if isinstance(front, list) and names not in known:
        raise FormatError(f"the header names no layout that is known: {names!r:.40}; known: {', '.join(known)}")
    named = zip(SECTIONS, sections, strict=True)
    items = tuple(_read_item(section, row) for section, rows in named for row in _list(rows, section))
    layout = Layout(_dense(items) if dense is None else _size(dense, "dense bytes"), items, cast("Names | None", names))
    _check(layout, len(data) - 4 - start)
    return layout, start


def _check(layout: Layout, room: int) -> None:
    claimed = sum(run.size for _, run in layout.runs())
    if claimed != room:
        raise FormatError(f"the header claims {claimed:,} bytes of data, the file has {room:,}")
    for section in SECTIONS:
        paths = sorted(f"{item.path}/" for item in layout.items if item.section == section)
        for one, other in itertools.pairwise(paths):
            if one == other:
                raise FormatError(f"{section} {one[:-1]} is there twice")
            if section != "codebook" and other.startswith(one):
                raise FormatError(f"{section} {other[:-1]} lies inside {section} {one[:-1]}")
    tables = 0
    for item, run in layout.runs():
        if run.shared is not None and run.shared >= tables:
            raise FormatError(f"{item.where}: {run.name} uses a table that is not there")
        tables += run.table > 0


def _dense(items: tuple[Item, ...]) -> int:
    return sum(math.prod(item.shape) * item.dtype.itemsize for item in items if item.section != "codebook")


def _write_item(item: Item) -> list[Any]:
    kind = item.kind if item.version == 1 else [item.kind, item.version]
    runs = [_write_run(item, run) for run in item.runs]
    return [item.path, kind, list(item.shape), item.dtype.name, list(item.meta), *runs]


def _write_run(item: Item, run: Run) -> str | list[Any]:
    """Positional, without what is as expected at the end."""
    count = None if run.count == math.prod(item.shape) else run.count
    if run.alphabet is None:
        fields, expected = [run.name, run.dtype.name, count], item.dtype
    else:
        table = run.table if run.shared is None else [run.shared]
        fields = [run.name, run.alphabet, run.coder, table, run.payload, count, run.dtype.name]
        expected = narrowest(run.alphabet)
    place = 1 if run.alphabet is None else 6
    if run.dtype == expected:
        fields[place] = None
    while fields[-1] is None:
        fields.pop()
    return fields[0] if len(fields) == 1 else fields


def _read_item(section: Section, row: Any) -> Item:
    row = _list(row, section)
    if len(row) < 5:
        raise FormatError(f"a {section} of {len(row)} fields")
    path = _name(row[0], section)
    if "" in path.split("/") or path.count("/") >= DEEPEST:
        raise FormatError(f"{path!r:.80} is no path")
    kind, version = row[1] if isinstance(row[1], list) and len(row[1]) == 2 else (row[1], 1)
    shape = tuple(_size(size, f"{path}: shape") for size in _list(row[2], path))
    if len(shape) > _RANK or math.prod(max(1, size) for size in shape) > _LENGTH:
        raise FormatError(f"{path}: no array has shape {shape}")
    dtype = _dtype(row[3], path)
    runs = tuple(_read_run(path, shape, dtype, run) for run in row[5:])
    if len({run.name for run in runs}) < len(runs):
        raise FormatError(f"{path}: a stream is there twice")
    version = _size(version, f"{path}: version")
    return Item(section, path, _name(kind, path), version, shape, dtype, _frozen(_list(row[4], path)), runs)


def _read_run(path: str, shape: tuple[int, ...], dtype: np.dtype[Any], fields: Any) -> Run:
    fields = [fields] if isinstance(fields, str) else _list(fields, path)
    name = _name(fields[0] if fields else None, path)
    where = f"{path}: {name}"
    coded = len(fields) > 1 and isinstance(fields[1], int)
    if len(fields) > (7 if coded else 3) or (coded and len(fields) < 5):
        raise FormatError(f"{where} has {len(fields)} fields")
    if not coded:
        width, count = [*fields[1:], None, None][:2]
        dtype = dtype if width is None else _dtype(width, where)
        number = math.prod(shape) if count is None else _size(count, where)
        return Run(name, number, dtype, number * dtype.itemsize)
    alphabet, coder, table, payload, count, width = [*fields[1:], None, None][:6]
    number = math.prod(shape) if count is None else _size(count, where)
    if not 1 <= _size(alphabet, where) <= 1 << 31:
        raise FormatError(f"{where}: an alphabet of {alphabet} symbols")
    dtype = narrowest(alphabet) if width is None else _dtype(width, where)
    if dtype.kind != "u" or dtype.itemsize < narrowest(alphabet).itemsize:
        raise FormatError(f"{where}: {alphabet:,} symbols as {dtype.name}")
    shared = None
    if isinstance(table, list):
        shared, table = (_size(table[0], where) if len(table) == 1 else _size(None, where)), 0
    own = _size(table, where)
    return Run(name, number, dtype, _size(payload, where), alphabet, _name(coder, where), own, shared)


def narrowest(alphabet: int) -> np.dtype[Any]:
    """The smallest unsigned dtype that holds every symbol."""
    return np.min_scalar_type(alphabet - 1)


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise FormatError(f"{where}: a list is expected, not {value!r:.40}")
    return value


def _name(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.isprintable():  # names get printed: no escape sequences
        raise FormatError(f"{where}: a name is expected, not {value!r:.40}")
    return value


def _size(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _LENGTH:
        raise FormatError(f"{where}: a size is expected, not {value!r:.40}")
    return value


def _dtype(value: Any, where: str) -> np.dtype[Any]:
    if not isinstance(value, str) or value not in DTYPES:
        raise FormatError(f"{where}: no dtype is called {value!r:.40}; {nearest(str(value), list(DTYPES))}")
    return DTYPES[value]


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value
