"""Compressed model <-> one file."""

import math
import os
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from quantree.coding import Coded, Coder, Symbols, share, smallest
from quantree.encodings import Compressed, Raw, Stream
from quantree.encodings.base import Stored
from quantree.errors import FormatError, LeafError, QuantreeError, nearest
from quantree.registry import registered
from quantree.storage.constant import Constant, constant
from quantree.storage.layout import DTYPES, Item, Layout, Run, Section, narrowest, read
from quantree.storage.ledger import Entry, Ledger

LIMIT = 1 << 32  # bytes of decoded arrays that `load` agrees to by default


def save(path: str | Path, compressed: Compressed, coder: str | None = None) -> Ledger:
    """Writes a model to one file and returns the account of its bytes.

    The same model gives the same bytes. The file appears whole or not at all. coder: the name of the coder for all
    integer streams for which the recipe names none; None: the smallest, for each stream by itself. Warns if the file
    is larger than the dense model. `LeafError`: a leaf that a file can't hold; `PluginError`: an unknown coder.
    """
    data = to_bytes(compressed, coder)
    _write(Path(path), data)
    ledger = account(data)
    if ledger.ratio < 1:
        warnings.warn(f"{path} is larger than the dense model's {ledger.dense_bytes:,} bytes\n{ledger}", stacklevel=2)
    return ledger


def load(path: str | Path, limit: int = LIMIT) -> Compressed:
    """Reads a file that `save` wrote.

    `FormatError` if it is damaged, needs a plug-in that is missing, or would take more than `limit` bytes of memory
    once decoded. Whatever is in the file, nothing else is raised, but for `OSError` where there is no file.
    """
    data = Path(path).read_bytes()
    try:
        return from_bytes(data, limit)
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from None


def inspect(path: str | Path) -> Ledger:
    """The account of a file's bytes, without decoding it. `FormatError` as for `load`; plug-ins are not needed."""
    try:
        return account(Path(path).read_bytes())
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from None


def to_bytes(compressed: Compressed, coder: str | None = None) -> bytes:
    """What `save` writes."""
    if not isinstance(compressed, Compressed):
        given = type(compressed).__name__
        raise QuantreeError(f"a file holds what `Recipe.run` returns, a Compressed, not a {given}; run a recipe first")
    compressed.check()
    parts: dict[Section, Mapping[str, Stored]] = {
        "leaf": compressed.leaves,
        "codebook": compressed.codebooks,
        "state": {path: Raw.of(array) for path, array in compressed.state.items()},
    }
    writer = _Writer(coder)
    for section, named in parts.items():
        for path in sorted(named):
            writer.add(section, path, named[path])
    items, runs = writer.finish()
    data = Layout(compressed.dense_bytes, items, compressed.layout).pack() + runs
    data += zlib.crc32(data).to_bytes(4, "little")
    read(data)  # no header is written that could not be read
    return data


class _Writer:
    """Turns streams into runs and gathers their bytes. Tables are shared at the end, when all streams are known."""

    def __init__(self, coder: str | None) -> None:
        self.coder = coder
        self.items: list[tuple[Item, list[tuple[Run, bytes | None]]]] = []
        self.symbols: list[Symbols] = []
        self.coded: list[Coded] = []
        self.coders: list[list[Coder] | None] = []

    def add(self, section: Section, path: str, stored: Any) -> None:
        """Takes a leaf, a codebook or an array of the state. `LeafError` names it."""
        try:
            stored = constant(stored) if isinstance(stored, Raw) else stored
            if stored.name == Constant.name and type(stored) is not Constant:
                raise LeafError(f"a plug-in can't be called {Constant.name!r}: files use that name")
            shape, dtype = tuple(stored.shape), _dtype(stored.dtype)
            runs = [self._run(name, stream, shape) for name, stream in stored.streams().items()]
        except LeafError as error:
            raise LeafError(f"{path}: {error}") from None
        item = Item(section, path, stored.name, stored.version, shape, dtype, stored.meta(), ())
        self.items.append((item, runs))

    def _run(self, name: str, stream: Stream, shape: tuple[int, ...]) -> tuple[Run, bytes | None]:
        """The run and its bytes; of coded ones neither is known before the end."""
        data, alphabet = np.asarray(stream.data), stream.alphabet
        dtype = _dtype(data.dtype)
        if alphabet is None:
            return Run(name, data.size, dtype, data.nbytes), data.tobytes()
        if dtype.kind != "u" or dtype.itemsize < narrowest(alphabet).itemsize:
            raise LeafError(f"stream {name!r}: {dtype.name} is no unsigned dtype that holds {alphabet:,} symbols")
        choice = stream.coder or self.coder
        self.coders.append(None if choice is None else [Coder.named(choice)()])
        self.symbols.append(Symbols(data.reshape(symbol_shape(data.size, shape)), alphabet))
        self.coded.append(smallest(self.symbols[-1], self.coders[-1]))
        return Run(name, data.size, dtype, 0, alphabet), None

    def finish(self) -> tuple[tuple[Item, ...], bytes]:
        """The items, and the bytes of all their runs."""
        coded, items, parts = iter(share(self.symbols, self.coded, self.coders)), [], []
        for item, drafts in self.items:
            runs = []
            for run, data in drafts:
                if data is None:
                    one = next(coded)
                    table = one.table if one.shared is None else b""
                    run = replace(run, payload=len(one.payload), coder=one.coder, table=len(table), shared=one.shared)
                    data = table + one.payload
                runs.append(run)
                parts.append(data)
            items.append(replace(item, runs=tuple(runs)))
        return tuple(items), b"".join(parts)


def from_bytes(data: bytes, limit: int = LIMIT) -> Compressed:
    """The inverse of `to_bytes`; see `load`."""
    layout, start = read(data)
    decoded = sum(item.decoded for item in layout.items)
    if decoded > limit:
        raise FormatError(f"it decodes to {decoded:,} bytes; the limit is {limit:,}: give load a higher one")
    tables: list[tuple[str, bytes]] = []
    found: dict[str, dict[str, Any]] = {"leaf": {}, "codebook": {}, "state": {}}
    for item in layout.items:
        streams: dict[str, np.ndarray] = {}
        try:
            for run in item.runs:
                streams[run.name] = _read_run(run, item.shape, data[start : start + run.size], tables)
                start += run.size
            found[item.section][item.path] = _restore(item, streams)
        except FormatError as error:
            raise FormatError(f"{item.where}: {error}") from None
        except Exception as error:  # a plug-in trips over what anyone may have written
            raise FormatError(f"{item.where}: can't be restored: {error!r}") from error
    state = {path: raw.value for path, raw in found["state"].items()}
    compressed = Compressed(found["leaf"], found["codebook"], state, layout.dense_bytes, layout.names)
    compressed.check()
    return compressed


def _read_run(run: Run, shape: tuple[int, ...], data: bytes, tables: list[tuple[str, bytes]]) -> np.ndarray:
    if run.alphabet is None or run.coder is None:
        if run.dtype.kind == "b" and data.translate(None, b"\0\1"):
            raise FormatError(f"{run.name}: a truth value that is neither 0 nor 1")
        return np.frombuffer(data, run.dtype)
    coder = registered("coder").get(run.coder)
    if coder is None:
        raise FormatError(f"coder {run.coder!r} is not known here; {nearest(run.coder, list(registered('coder')))}")
    name, table = (run.coder, data[: run.table]) if run.shared is None else tables[run.shared]
    if name != run.coder:
        raise FormatError(f"{run.name}: coder {run.coder!r} shares a table of coder {name!r}")
    if run.table:
        tables.append((run.coder, table))
    symbols = coder().decode(data[run.table :], table, symbol_shape(run.count, shape), run.alphabet)
    return symbols.reshape(-1).astype(run.dtype)


def _restore(item: Item, streams: Mapping[str, np.ndarray]) -> Stored:
    family = "codebook" if item.section == "codebook" else "encoding"
    own = item.kind == Constant.name and item.section != "codebook"
    stored = Constant if own else registered(family).get(item.kind)
    wanted = f"{family} {item.kind!r} version {item.version}"
    if stored is None:
        known = nearest(item.kind, list(registered(family)))
        raise FormatError(f"{wanted} is not known here, install the plug-in that it is from; {known}")
    if stored.version != item.version:
        raise FormatError(f"{wanted} is needed, this is version {stored.version}")
    if item.section == "state" and not issubclass(stored, Raw):
        raise FormatError(f"state is stored raw, not as {item.kind!r}")
    for dtype in (item.dtype, *(run.dtype for run in item.runs)):
        if jax.dtypes.canonicalize_dtype(dtype) != dtype:
            raise FormatError(
                f"JAX holds {dtype.name} only if jax_enable_x64 is set: set the environment variable JAX_ENABLE_X64=1"
            )
    return stored.restore(item.shape, item.dtype, item.meta, streams)


def symbol_shape(count: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that a coder is shown: the leaf's if there is a symbol for each element."""
    return shape if count == math.prod(shape) else (count,)


def _dtype(dtype: Any) -> np.dtype[Any]:
    if np.dtype(dtype) not in DTYPES.values():
        raise LeafError(f"a file can't hold {dtype}; it can hold {', '.join(DTYPES)}")
    return np.dtype(dtype)


def account(data: bytes) -> Ledger:
    """The ledger of what `to_bytes` made."""
    layout, start = read(data)
    entries = [Entry("header", "", "header", None, 0, start)]
    for item, run in layout.runs():
        if run.table:
            entries.append(Entry("table", item.path, run.name, run.coder, 0, run.table))
        entries.append(Entry(item.section, item.path, run.name, run.coder, run.count, run.payload))
    entries.append(Entry("checksum", "", "crc32", None, 0, 4))
    weights = sum(math.prod(item.shape) for item in layout.items if item.section == "leaf")
    return Ledger(tuple(entries), layout.dense_bytes, weights)


def _write(path: Path, data: bytes) -> None:
    """The file appears whole or not at all, even if the machine stops: a new file, flushed, takes the name."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with fresh.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
