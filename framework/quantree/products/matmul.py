"""Products with a coded matrix. They decode what they need, a tile of columns at a time, and keep none of it.

There are three forms. *sums* takes one column after the other and adds up inputs times values, element by element; it
suits a CPU. *lockstep* maps the same over all columns at once, which suits an accelerator. *tile* decodes a tile of
columns into a dense matrix [n, width], which stays in a cache, and leaves the rest to a matrix product; it suits
matrices that are not sparse. The codebook form, which sums up inputs by centroid before it multiplies, is what `Csc`
does in *sums* and *lockstep*, in groups of rows that hold the same symbol.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from quantree.clustering.threads import cores, on_host, side_by_side, wide_jit
from quantree.errors import LeafError, nearest
from quantree.products.base import CodedMatrix, check_coded

_PRECISION = jax.lax.Precision.HIGHEST


def coded_matmul(x: jax.Array | np.ndarray, matrix: CodedMatrix, *, form: str | None = None) -> jax.Array:
    """X [..., n] times a coded matrix [n, m] -> [..., m] of x's dtype; sums are float32.

    Differentiable in x and in `matrix.centroids`, and jit-able; a transformed product is one program, which a CPU runs
    on one core, while a large one on its own is shared among the cores. form: see above; None: the fastest. Memory, on
    each core, beyond operands and result: the inputs as float32 [n, b], and either a tile [n, matrix.width] of codes
    and one of floats, or two pieces [256, matrix.width] of decoded codes; of the gradient, two tiles of each. Where x
    is not finite the result may be NaN. `LeafError` if x is no such array, the matrix is not coded, or the layout lacks
    this form.
    """
    check_coded(matrix)
    x = jnp.asarray(x)
    n, m = matrix.shape
    if x.ndim < 1 or x.shape[-1] != n or not jnp.issubdtype(x.dtype, jnp.floating):
        raise LeafError(f"x is an array of floats [..., {n}], not {x.dtype} of shape {x.shape}")
    form = matrix.form if form is None else form
    if form not in matrix.forms:
        raise LeafError(f"{type(matrix).__name__} has no form {form!r}; {nearest(str(form), matrix.forms)}")
    if 0 in (x.size, m):
        return jnp.zeros((*x.shape[:-1], m), x.dtype)
    leaves = (x, *jax.tree.leaves(matrix))
    if any(isinstance(leaf, Tracer) for leaf in leaves):
        flat = x.reshape(-1, n).astype(jnp.float32)
        return _product(form, flat, matrix.values(), matrix).reshape(*x.shape[:-1], m).astype(x.dtype)
    count = -(-m // cores())
    if not on_host(*leaves) or not matrix.width <= count < m or x.size * m <= matrix.alone:
        return _share(x, matrix, np.int32(0), m, form)
    starts = [min(first, m - count) for first in range(0, m, count)]
    with side_by_side() as share:
        parts = list(share(lambda first: _share(x, matrix, np.int32(first), count, form), starts))
    # The last one begins early, so that all have one shape.
    parts[-1] = parts[-1][..., len(starts) * count - m :]
    return jnp.concatenate(parts, axis=-1)


@wide_jit(static_argnames=("count", "form"))
def _share(x: jax.Array, matrix: CodedMatrix, first: Any, count: int, form: str) -> jax.Array:
    """As `_part`, all in one program: x [..., n] -> [..., count], of x's dtype."""
    flat = x.reshape(-1, x.shape[-1]).astype(jnp.float32)
    return _part(flat, matrix.values(), matrix, first, count, form).reshape(*x.shape[:-1], count).astype(x.dtype)


@wide_jit(static_argnames=("count", "form"))
def _part(x: jax.Array, values: jax.Array, matrix: CodedMatrix, first: Any, count: int, form: str) -> jax.Array:
    """The product with columns `first`, ..., `first` + count - 1; count >= width: x [b, n] -> [b, count], float32."""
    if form == "lockstep":
        column = jax.vmap(matrix.column, (None, None, 0), 1)
        return column(x.T, values, first + jnp.arange(count, dtype=jnp.int32))
    inputs = x.T

    def tile(place: jax.Array, out: jax.Array) -> jax.Array:
        start = jnp.minimum(place * matrix.width, count - matrix.width)
        if form == "sums":
            part = matrix.sums(inputs, values, first + start)
            return jax.lax.dynamic_update_slice(out, part, (start, jnp.int32(0)))
        part = jnp.matmul(x, values[matrix.tile(first + start)], precision=_PRECISION)
        return jax.lax.dynamic_update_slice(out, part, (jnp.int32(0), start))

    shape = (count, len(x)) if form == "sums" else (len(x), count)
    out = jax.lax.fori_loop(jnp.int32(0), jnp.int32(-(-count // matrix.width)), tile, jnp.zeros(shape, jnp.float32))
    return out.T if form == "sums" else out


def _whole(form: str, x: jax.Array, values: jax.Array, matrix: CodedMatrix) -> jax.Array:
    return _part(x, values, matrix, jnp.int32(0), matrix.m, form)


def _forward(form: str, x: jax.Array, values: jax.Array, matrix: CodedMatrix) -> tuple[jax.Array, Any]:
    return _whole(form, x, values, matrix), (x, values, matrix)


def _backward(form: str, kept: Any, given: jax.Array) -> tuple[jax.Array, jax.Array, None]:
    x, values, matrix = kept
    return (*_gradients(x, values, matrix, given), None)


@wide_jit()
def _gradients(x: jax.Array, values: jax.Array, matrix: CodedMatrix, given: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Of x [b, n] and of the values by symbol, from that of the product [b, m]; tiles are decoded anew."""
    width = matrix.width

    def tile(place: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        of_x, of_values = carry
        start = jnp.minimum(place * width, matrix.m - width)
        symbols = matrix.tile(start)
        here = jax.lax.dynamic_slice(given, (jnp.int32(0), start), (len(given), width))
        # The last tile begins early; its first columns had their turn.
        here = jnp.where((start + jnp.arange(width, dtype=jnp.int32) >= place * width)[None], here, jnp.float32(0))
        of_x = of_x + jnp.matmul(here, values[symbols].T, precision=_PRECISION)
        of_weights = jnp.matmul(x.T, here, precision=_PRECISION)
        return of_x, of_values.at[symbols.reshape(-1)].add(of_weights.reshape(-1))

    start = jnp.zeros_like(x), jnp.zeros_like(values)
    return jax.lax.fori_loop(jnp.int32(0), jnp.int32(-(-matrix.m // width)), tile, start)


_product: Any = jax.custom_vjp(_whole, nondiff_argnums=(0,))
_product.defvjp(_forward, _backward)
