"""What a learner gives, held against what its family promises."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from quantree.encodings import Codebook
from quantree.errors import PluginError

_EXPECTED = "(Codebook, codes [segments, n])"


def taken(found: Any, blocks: tuple[int, int, int], taking_part: np.ndarray, wide: bool) -> tuple[Codebook, np.ndarray]:
    """Codebook and codes of what `Learner.learn` returned, in JAX's and NumPy's own arrays.

    blocks: (segments, n, d). taking_part: [segments, n] bool. A codebook in float64, as NumPy makes it, becomes float32
    unless `wide`. `PluginError` if it does not decode to finite blocks of the right shape; it says what was given.
    """
    if not isinstance(found, tuple) or len(found) != 2 or not isinstance(found[0], Codebook):
        raise PluginError(f"gave {_described(found)}; expected {_EXPECTED}")
    segments, n, d = blocks
    try:
        book: Codebook = jax.tree.map(lambda field: _in_jax(field, wide), found[0])
        table, size = np.asarray(book.table()), book.size
    except Exception as error:  # whatever a codebook that is badly filled trips over
        raise PluginError(f"gave a {type(found[0]).__name__} that has no table of centroids: {error}") from error
    codes = np.asarray(found[1])
    if table.shape != (segments, size, d):
        wrong = f"a codebook {table.shape} that is not {(segments, size, d)}"
    elif not jnp.issubdtype(table.dtype, jnp.floating):
        wrong = f"a codebook of {table.dtype}, not of floats"
    elif not np.isfinite(table).all():
        bad = int(np.count_nonzero(~np.isfinite(table)))
        wrong = f"a codebook that is not finite: {bad} of its {table.size} numbers are NaN or infinite"
    elif codes.shape != (segments, n) or codes.dtype.kind not in "iu":
        wrong = f"codes {codes.dtype} {codes.shape} that are not integers {(segments, n)}"
    elif codes[taking_part].min() < 0 or codes[taking_part].max() >= size:
        wrong = f"codes outside of its codebook of {size}"
    else:
        return book, codes
    raise PluginError(f"gave {wrong}")


def _in_jax(field: Any, wide: bool) -> jax.Array:
    double = np.asarray(field).dtype == np.float64
    return jnp.asarray(field, jnp.float32 if double and not wide else None)


def _described(found: Any) -> str:
    if isinstance(found, tuple):
        return f"({', '.join(type(each).__name__ for each in found)})"
    shape = getattr(found, "shape", None)
    if isinstance(found, Codebook) or shape is None:
        return "None" if found is None else f"a {type(found).__name__} alone"
    return f"an array {tuple(shape)} alone"
