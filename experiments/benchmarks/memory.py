"""The most memory that a program takes: of the process on a CPU, of the device's own allocator elsewhere."""

import gc
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

KERNEL = Path("/proc/self")


def peak(program: Callable[[], Any]) -> int:
    """Bytes that running `program` once adds to what there is already.

    Memory that was freed before and is taken up again is not seen, so call it early in a process of its own.
    """
    gc.collect()
    device = jax.devices()[0]
    if device.memory_stats() is not None:
        before = device.memory_stats()["bytes_in_use"]
        program()
        return device.memory_stats()["peak_bytes_in_use"] - before
    try:
        (KERNEL / "clear_refs").write_text("5")  # the highest mark falls back to what is in use
    except OSError:
        before = _highest_ever()
        program()
        return _highest_ever() - before
    before = _status("VmRSS")
    program()
    return max(0, _status("VmHWM") - before)


def _status(entry: str) -> int:
    lines = (KERNEL / "status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(entry))


def _highest_ever() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
