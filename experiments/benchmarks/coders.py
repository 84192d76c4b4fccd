"""How fast streams are coded: ANS against bare constriction, `python -m experiments.benchmarks.coders`.

What the other coders take, in bytes and in time, is printed by `experiments.benchmarks.sizes`.
"""

import argparse
import functools
import sys
from collections.abc import Callable
from typing import Any

import constriction
import numpy as np

from experiments.benchmarks import command
from experiments.benchmarks.case import Case
from experiments.benchmarks.sizes import pruned_matrix
from quantree.coding import Ans, Symbols

_stream: Any = constriction.stream  # pyright: ignore[reportAttributeAccessIssue]  (it has no stubs)


def cases(settings: argparse.Namespace) -> list[Callable[[], Case]]:
    """All cases of this command."""
    sides = 256 if settings.smoke else 4096
    return [functools.partial(make, sides, density) for density in (0.05, 0.10, 1.0) for make in (encoding, decoding)]


def encoding(sides: int, density: float) -> Case:
    """From symbols to bytes: the table is part of the job for both."""
    symbols = pruned_matrix(sides, density)
    flat = symbols.values.reshape(-1).astype(np.int32)

    def ours() -> bytes:
        fresh = Symbols(symbols.values, symbols.alphabet)  # its counts are not known yet
        table = Ans().table(fresh)
        return table + Ans().encode(fresh, table)

    def theirs() -> bytes:
        coder = _stream.stack.AnsCoder()
        coder.encode_reverse(flat, _model(flat, symbols.alphabet))
        return coder.get_compressed().tobytes()

    return Case(f"encode {sides} x {sides}, density {density}", "constriction", ours, theirs, len)


def decoding(sides: int, density: float) -> Case:
    """From bytes to symbols."""
    symbols = pruned_matrix(sides, density)
    flat = symbols.values.reshape(-1).astype(np.int32)
    table = Ans().table(symbols)
    payload = Ans().encode(symbols, table)
    model = _model(flat, symbols.alphabet)
    coder = _stream.stack.AnsCoder()
    coder.encode_reverse(flat, model)
    words = coder.get_compressed()

    def wrong(found: np.ndarray) -> float:
        return float(np.count_nonzero(found.reshape(-1) != flat))

    return Case(
        f"decode {sides} x {sides}, density {density}",
        "constriction",
        lambda: Ans().decode(payload, table, symbols.values.shape, symbols.alphabet),
        lambda: _stream.stack.AnsCoder(words).decode(model, flat.size),
        wrong,
    )


def _model(flat: np.ndarray, alphabet: int) -> Any:
    shares = np.bincount(flat, minlength=alphabet) / flat.size
    return _stream.model.Categorical(shares.astype(np.float32), perfect=False)


if __name__ == "__main__":
    sys.exit(command.run(__doc__ or "", cases))
