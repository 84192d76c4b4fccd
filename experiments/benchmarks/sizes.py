"""What every coder makes of the same quantized weights: `python -m experiments.benchmarks.sizes [MODEL.qtree ...]`.

Bytes, bits per weight, encoding and decoding time, beside the entropy of the codes and what general programs make of
them and of the decoded weights. Without files: matrices of 4096 x 4096 weights in 32 values, of which 5 % and 10 % are
not zero.
"""

import argparse
import datetime
import math
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from rich.console import Console
from rich.table import Table
from safetensors.numpy import save

from experiments.benchmarks import peers
from experiments.benchmarks.machine import description
from quantree import storage
from quantree.coding import Coder, Symbols, share, smallest
from quantree.encodings import Coded, Compressed
from quantree.errors import QuantreeError
from quantree.model import flatten
from quantree.registry import registered
from quantree.storage.file import symbol_shape

ROUNDS = 3
T = TypeVar("T")


@dataclass(frozen=True)
class Subject:
    """Quantized weights. streams: their codes; model: the model that they are of, None for a matrix alone."""

    name: str
    streams: list[Symbols]
    model: Compressed | None = None

    @property
    def weights(self) -> int:
        """How many weights the codes stand for."""
        if self.model is None:
            return sum(symbols.size for symbols in self.streams)
        return sum(math.prod(leaf.shape) for leaf in self.model.leaves.values() if isinstance(leaf, Coded))


@dataclass(frozen=True)
class Row:
    """What one program made of the codes. Times in seconds, NaN where there is none; file: bytes of the whole file."""

    program: str
    bytes: float
    encode: float = math.nan
    decode: float = math.nan
    file: int | None = None


def pruned_matrix(sides: int, density: float) -> Symbols:
    """A square matrix of codes below 32, of which so many are not 0; normal weights in even steps."""
    rng = np.random.default_rng(0)
    levels = np.clip(np.round(rng.standard_normal((sides, sides), np.float32) * 5 + 15), 0, 30).astype(np.uint8) + 1
    kept = rng.random((sides, sides), np.float32) < density
    return Symbols(np.where(kept, levels, 0).astype(np.uint8), 32)


def of_file(path: Path) -> Subject:
    """The codes of all quantized leaves of a file. `QuantreeError` if it has none."""
    model = storage.load(path)
    streams = []
    for leaf in model.leaves.values():
        if isinstance(leaf, Coded):
            codes = np.asarray(leaf.streams()["codes"].data)
            alphabet = leaf.streams()["codes"].alphabet
            assert alphabet is not None
            streams.append(Symbols(codes.reshape(symbol_shape(codes.size, leaf.shape)), alphabet))
    if not streams:
        raise QuantreeError(f"{path}: no leaf is quantized")
    return Subject(str(path), streams, model)


def coded(subject: Subject, coder: Coder) -> Row:
    """All streams in one coder, tables shared."""

    def encode() -> list[tuple[bytes, bytes, int | None]]:
        fresh = [Symbols(symbols.values, symbols.alphabet) for symbols in subject.streams]
        done = share(fresh, [smallest(symbols, [coder]) for symbols in fresh])
        return [(one.table, one.payload, one.shared) for one in done]

    def decode() -> None:
        for (table, payload, _), symbols in zip(found, subject.streams, strict=True):
            coder.decode(payload, table, symbols.values.shape, symbols.alphabet)

    encoding, found = _quickest(encode)
    size = sum(len(payload) + (len(table) if shared is None else 0) for table, payload, shared in found)
    return Row(coder.name, size, encoding, _quickest(decode)[0], _file(subject, coder.name))


def rows(subject: Subject) -> Iterator[Row]:
    """Every registered coder, then the references."""
    yield Row("entropy of the codes", sum(symbols.entropy for symbols in subject.streams) / 8)
    for _, coder in sorted(registered("coder").items()):
        yield coded(subject, coder())
    codes = b"".join(
        symbols.values.astype(np.min_scalar_type(symbols.alphabet - 1)).tobytes() for symbols in subject.streams
    )
    if subject.model is None:
        dense = save({"weights": np.linspace(-1, 1, 32, dtype=np.float32)[subject.streams[0].values]})
    else:
        dense = save({path: np.ascontiguousarray(leaf) for path, leaf in flatten(subject.model.decode()).items()})
    for what, data in (("codes", codes), ("safetensors", dense)):
        whole = len(data) if what == "safetensors" else None
        yield Row(f"{what}, one by one" if whole is None else what, len(data), file=whole)
        for name, compress, expand in general():
            encoding, small = _quickest(lambda data=data, compress=compress: compress(data), 1)
            decoding, _ = _quickest(lambda small=small, expand=expand: expand(small))
            yield Row(f"{what}, {name}", len(small), encoding, decoding, len(small) if whole else None)


def general() -> list[tuple[str, Callable[[bytes], bytes], Callable[[bytes], bytes]]]:
    """General programs at their strongest: name, compress, expand. Those that are not installed are left out."""
    found: list[tuple[str, Callable[[bytes], bytes], Callable[[bytes], bytes]]] = [
        ("zlib -9", lambda data: zlib.compress(data, 9), zlib.decompress)
    ]
    zstandard = peers.module("zstandard")
    if zstandard is not None:
        found.append(("zstd -19", zstandard.ZstdCompressor(level=19).compress, zstandard.ZstdDecompressor().decompress))
    return found


def _file(subject: Subject, coder: str) -> int | None:
    """Bytes of the whole file with this coder for the codes."""
    if subject.model is None:
        return None
    leaves = {
        path: replace(leaf, coder=coder) if isinstance(leaf, Coded) else leaf
        for path, leaf in subject.model.leaves.items()
    }
    return len(storage.to_bytes(replace(subject.model, leaves=leaves)))


def _quickest(program: Callable[[], T], rounds: int = ROUNDS) -> tuple[float, T]:
    result, seconds = program(), []
    for _ in range(rounds):
        started = time.perf_counter()
        result = program()
        seconds.append(time.perf_counter() - started)
    return min(seconds), result


def table(subject: Subject, found: Sequence[Row], markdown: bool) -> Table | str:
    """For a terminal, or in Markdown."""
    headings = ("program", "bytes", "bits per weight", "encode, s", "decode, s", "decode, MB/s", "file, bytes")
    cells = [
        (
            row.program,
            f"{row.bytes:,.0f}",
            f"{8 * row.bytes / subject.weights:.4f}",
            "" if math.isnan(row.encode) else f"{row.encode:.3g}",
            "" if math.isnan(row.decode) else f"{row.decode:.3g}",
            "" if math.isnan(row.decode) else f"{4e-6 * subject.weights / row.decode:,.0f}",
            "" if row.file is None else f"{row.file:,}",
        )
        for row in found
    ]
    if markdown:
        return "\n".join(f"| {' | '.join(line)} |" for line in (headings, ["---"] * len(headings), *cells))
    printed = Table(*headings, title=f"{subject.name}: {subject.weights:,} weights")
    for line in cells:
        printed.add_row(*line)
    return printed


def main(argv: Sequence[str] | None = None) -> int:
    """Prints machine, date and a table for each model -> 1 if a file can't be read."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path, metavar="MODEL.qtree", help="files of quantized models")
    parser.add_argument("--smoke", action="store_true", help="a tiny matrix: whether it runs")
    parser.add_argument("--markdown", action="store_true", help="tables for a document")
    settings = parser.parse_args(argv)
    console = Console(width=120)
    try:
        subjects = [of_file(path) for path in settings.models]
    except (QuantreeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    sides = 256 if settings.smoke else 4096
    for name, value in {**description(), "date": datetime.date.today().isoformat()}.items():
        print(f"- {name}: {value}")
    for subject in subjects or [
        Subject(f"{sides} x {sides}, density {density}", [pruned_matrix(sides, density)]) for density in (0.05, 0.10)
    ]:
        found = list(rows(subject))
        if settings.markdown:
            print(f"\n{subject.name}: {subject.weights:,} weights\n")
        console.print(table(subject, found, settings.markdown), markup=False, soft_wrap=settings.markdown)
    return 0


if __name__ == "__main__":
    sys.exit(main())
