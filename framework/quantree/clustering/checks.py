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
    array = numbers(name, value)
    array = array if array.dtype == jnp.bfloat16 else floating(name, array)
    if array.ndim not in (2, 3):
        raise LeafError(f"{name} has shape {array.shape}; expected [n, d], or [b, n, d] for b independent problems")
    if array.size == 0:
        raise LeafError(f"{name} of shape {array.shape} is empty; there is nothing to cluster")
    return array


def numbers(name: str, value: Any) -> jax.Array:
    """`value` as an array; integers as float32, whatever their width. `LeafError` if it is not an array of numbers."""
    if isinstance(value, jax.Array):
        return value
    try:
        array = np.asarray(value)
    except ValueError:
        raise LeafError(f"{name} is not an array: its rows differ in length") from None
    if array.dtype.kind in "iu":  # JAX would cut off what 32 bits can't hold
        array = array.astype(np.float32)
    try:
        return jnp.asarray(array)
    except TypeError:
        raise LeafError(f"{name} is an array of {array.dtype}; expected numbers") from None


def floating(name: str, value: Any) -> jax.Array:
    """`value` as an array of float32, or float64 if it is that already; `LeafError` for complex numbers."""
    array = numbers(name, value)
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise LeafError(f"{name} is {array.dtype}; expected real numbers")
    return array if array.dtype == jnp.float64 else array.astype(jnp.float32)


def per_point(name: str, value: Any, x: jax.Array) -> jax.Array:
    """`value` broadcast to one entry per point of x; `LeafError` if it has neither shape [n] nor [b, n]."""
    array = numbers(name, value)
    if array.shape not in (x.shape[:-1], x.shape[-2:-1]):
        raise LeafError(f"{name} has shape {array.shape}; expected one entry per point, {x.shape[:-1]}")
    return array if array.shape == x.shape[:-1] else jnp.broadcast_to(array, x.shape[:-1])


def whole(name: str, value: Any, least: int) -> None:
    """`LeafError` unless `value` is a whole number, at least `least`."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < least:
        raise LeafError(f"{name} is {value!r}; expected a whole number, at least {least}")


def share(name: str, value: Any) -> None:
    """`LeafError` unless `value` is a finite number, at least 0. A traced one passes."""
    if not isinstance(value, Tracer) and not (hasattr(value, "__float__") and 0 <= float(value) < np.inf):
        raise LeafError(f"{name} is {value!r}; expected a number, at least 0 and finite")


def concrete(name: str, value: Any) -> None:
    """`LeafError` if `value` is traced."""
    if isinstance(value, Tracer):
        raise LeafError(f"{name} is traced, but this runs on the host; call it outside of jit, vmap and grad")


def random_key(key: Any) -> None:
    """`LeafError` unless `key` is one random key."""
    new = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    old = not new and isinstance(key, Array) and key.dtype == jnp.uint32
    if not ((new and key.ndim == 0) or (old and key.ndim == 1)):
        what = f"an array of shape {key.shape} and {key.dtype}" if isinstance(key, Array) else repr(key)
        raise LeafError(f"key is {what}; expected one random key, such as jax.random.key(0); a batch splits it itself")


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
