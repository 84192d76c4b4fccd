"""Symbols <-> bits. Knows no models."""

from quantree.coding.ans import Ans
from quantree.coding.base import Coded, Coder, Symbols, smallest
from quantree.coding.fixed import Fixed
from quantree.coding.live import Live

__all__ = ["Ans", "Coded", "Coder", "Fixed", "Live", "Symbols", "smallest"]
