"""Checkpoint files of other programs <-> parameters and state."""

from quantree.checkpoints.files import Checkpoint, read, write
from quantree.checkpoints.layouts import LAYOUTS, Layout, detect, from_layout, to_layout

__all__ = ["LAYOUTS", "Checkpoint", "Layout", "detect", "from_layout", "read", "to_layout", "write"]
