"""What is wrong with arrays handed in by a caller, said before any jitted code sees them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from quantree.clustering.threads import on_host
from quantree.errors import LeafError

Array = jax.Array | np.ndarray
LARGEST = 1 << 24  # codes are exact as single-precision numbers up to here


def points(name: str, value: Any) -> jax.Array:
    """`value` as float32 or float64 [n, d] or [b, n, d]; `LeafError` if it has another shape or is empty."""
    return floating(name, compact(name, value))


def compact(name: str, value: Any) -> jax.Array:
    """As `points`, but bfloat16 stays what it is: it takes half the room and scales like float32."""
    array = jnp.asarray(value)
    array = array if array.dtype == jnp.bfloat16 else floating(name, array)
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
    return array if array.shape == x.shape[:-1] else jnp.broadcast_to(array, x.shape[:-1])


def whole(name: str, value: Any, least: int) -> None:
    """`LeafError` unless `value` is a whole number, at least `least`."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < least:
        raise LeafError(f"{name} is {value!r}; expected a whole number, at least {least}")


def codebook_size(k: int) -> None:
    """`LeafError` unless k is a whole number above 0."""
    if isinstance(k, bool) or not hasattr(k, "__index__") or not 1 <= k <= LARGEST:
        raise LeafError(f"k is {k!r}; expected a whole number of centroids, at least 1 and at most {LARGEST}")


def finite(mask: Array | None = None, **arrays: Array | None) -> None:
    """`LeafError` if a concrete array holds NaN or infinity; of `x` only what `mask` leaves. Traced arrays pass."""
    for name, array in arrays.items():
        if array is None or isinstance(array, Tracer) or isinstance(mask, Tracer):
            continue
        of = mask if name == "x" else None
        if on_host(array, of):
            array, of = np.asarray(array), None if of is None else np.asarray(of)  # where nothing is compiled for it
        bad = int(_not_finite(array, of))
        if bad:
            raise LeafError(f"{name} of shape {array.shape} holds {bad} NaN or infinite values; expected only numbers")


def importances(weights: Array) -> None:
    """`LeafError` if concrete weights are negative, NaN or infinite. Traced arrays pass."""
    finite(weights=weights)
    if not isinstance(weights, Tracer) and bool((weights < 0).any()):
        raise LeafError("weights are negative somewhere; expected an importance of at least 0 per point")


def _not_finite(array: Array, mask: Array | None) -> Any:
    numbers = np if isinstance(array, np.ndarray) else jnp
    good = numbers.isfinite(array)
    if mask is not None:
        good = good | ~mask[..., None]
    return good.size - numbers.count_nonzero(good)
