"""What is wrong with arrays handed in by a caller, said before any jitted code sees them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from quantree.errors import LeafError

Array = jax.Array | np.ndarray


def points(name: str, value: Any) -> jax.Array:
    """`value` as a floating array [n, d] or [b, n, d]; `LeafError` if it has another shape or is empty."""
    array = floating(name, value)
    if array.ndim not in (2, 3):
        raise LeafError(f"{name} has shape {array.shape}; expected [n, d], or [b, n, d] for b independent problems")
    if array.size == 0:
        raise LeafError(f"{name} of shape {array.shape} is empty; there is nothing to cluster")
    return array


def floating(name: str, value: Any) -> jax.Array:
    """`value` as an array of float32, or float64 if it is that already; `LeafError` for complex numbers."""
    array = jnp.asarray(value)
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise LeafError(f"{name} is {array.dtype}; expected real numbers")
    return array if array.dtype == jnp.float64 else array.astype(jnp.float32)


def per_point(name: str, value: Any, x: jax.Array) -> jax.Array:
    """`value` broadcast to one entry per point of x; `LeafError` if it has neither shape [n] nor [b, n]."""
    array = jnp.asarray(value)
    if array.shape not in (x.shape[:-1], x.shape[-2:-1]):
        raise LeafError(f"{name} has shape {array.shape}; expected one entry per point, {x.shape[:-1]}")
    return jnp.broadcast_to(array, x.shape[:-1])


def codebook_size(k: int) -> None:
    """`LeafError` unless k is a whole number above 0."""
    if isinstance(k, bool) or not hasattr(k, "__index__") or k < 1:
        raise LeafError(f"k is {k!r}; expected a whole number of centroids, at least 1")


def finite(mask: Array | None = None, **arrays: Array | None) -> None:
    """`LeafError` if a concrete array holds NaN or infinity; of `x` only what `mask` leaves. Traced arrays pass."""
    for name, array in arrays.items():
        if array is None or isinstance(array, Tracer) or isinstance(mask, Tracer):
            continue
        bad = int(_not_finite(array, mask if name == "x" else None))
        if bad:
            raise LeafError(f"{name} of shape {array.shape} holds {bad} NaN or infinite values; expected only numbers")


def importances(weights: Array) -> None:
    """`LeafError` if concrete weights are negative, NaN or infinite. Traced arrays pass."""
    finite(weights=weights)
    if not isinstance(weights, Tracer) and bool(jnp.any(weights < 0)):
        raise LeafError("weights are negative somewhere; expected an importance of at least 0 per point")


def _not_finite(array: Array, mask: Array | None) -> Array:
    numbers = np if isinstance(array, np.ndarray) else jnp
    bad = ~numbers.isfinite(array)
    return numbers.sum(bad if mask is None else bad & mask[..., None])
