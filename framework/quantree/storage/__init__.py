"""Compressed model <-> one file, and the account of its bytes."""

from quantree.storage.file import from_bytes, inspect, load, save, to_bytes
from quantree.storage.ledger import Entry, Ledger

__all__ = ["Entry", "Ledger", "from_bytes", "inspect", "load", "save", "to_bytes"]
