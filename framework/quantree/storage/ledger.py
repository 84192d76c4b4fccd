"""Where the bytes of a file went."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

Section = Literal["header", "leaf", "codebook", "state", "table", "checksum"]


@dataclass(frozen=True)
class Entry:
    """Some bytes of a file.

    path: of the leaf, codebook or state array; what: the stream ("codes", "mask", "value", "centroids", ...).
    coder: None for numbers stored as they are. count: elements.
    """

    section: Section
    path: str
    what: str
    coder: str | None
    count: int
    bytes: int


@dataclass(frozen=True)
class Ledger:
    """Every byte of one file: the entries add up to its length.

    dense_bytes: the uncompressed baseline's parameters and state in their own dtypes. weights: parameters of the model
    that the file stands for.
    """

    entries: tuple[Entry, ...]
    dense_bytes: int
    weights: int

    @property
    def total(self) -> int:
        """Length of the file in bytes."""
        return sum(entry.bytes for entry in self.entries)

    @property
    def payload(self) -> int:
        """Bytes that hold the model itself."""
        return sum(entry.bytes for entry in self.entries if entry.section in ("leaf", "codebook", "state"))

    @property
    def overhead(self) -> int:
        """Bytes that are not payload: header, coding tables, checksum."""
        return self.total - self.payload

    @property
    def ratio(self) -> float:
        """How many times smaller the file is than the dense model; below 1 it is larger."""
        return self.dense_bytes / self.total

    @property
    def bits_per_weight(self) -> float:
        """Bits of the whole file per parameter; infinite for a model without parameters."""
        return 8 * self.total / self.weights if self.weights else float("inf")

    def __str__(self) -> str:
        console = Console(width=120, color_system=None)
        with console.capture() as capture:
            console.print(self.table())
        return capture.get()

    def to_rows(self) -> list[dict[str, Any]]:
        """The entries as plain data."""
        return [asdict(entry) for entry in self.entries]

    def table(self) -> Table:
        """The entries for a terminal: `rich.print(ledger.table())`."""
        title = f"{self.total:,} bytes, {self.ratio:.2f}x smaller than {self.dense_bytes:,}, "
        table = Table("section", "path", "what", "coder", title=title + f"{self.bits_per_weight:.3f} bits per weight")
        for name in ("count", "bytes", "share"):
            table.add_column(name, justify="right")
        for entry in self.entries:
            words = (Text(word) for word in (entry.section, entry.path, entry.what, entry.coder or ""))
            count = f"{entry.count:,}" if entry.count else ""
            table.add_row(*words, count, f"{entry.bytes:,}", f"{entry.bytes / self.total:.1%}")
        return table
