"""Convolutions with a coded kernel, as products of its patches with the kernel as a matrix."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from quantree.errors import LeafError
from quantree.products.base import CodedMatrix, check_coded
from quantree.products.matmul import coded_matmul

Padding = str | Sequence[tuple[int, int]]
PADDINGS = ("SAME", "SAME_LOWER", "VALID")


def coded_conv(
    x: jax.Array | np.ndarray,
    matrix: CodedMatrix,
    kernel: tuple[int, int],
    *,
    strides: tuple[int, int] = (1, 1),
    padding: Padding = "SAME",
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    form: str | None = None,
) -> jax.Array:
    """Convolution of x [b, h, w, c] with a kernel [*kernel, c, out], coded as [kh kw c, out] -> [b, h', w', out].

    As `flax.nnx.Conv` computes it, with a padding of `PADDINGS` or (before, after) for each axis; `dilation` spreads
    the kernel. The patches, [b, h', w', kh kw c], are in memory. `LeafError` if shapes do not fit, the matrix is not
    coded, a setting is none of these, or there are several groups.
    """
    check_coded(matrix)
    x = jnp.asarray(x)
    for name, pair in (("kernel", kernel), ("strides", strides), ("dilation", dilation)):
        if not _is_pair(pair, 1):
            raise LeafError(f"{name}: expected two integers from 1 on, one for each axis, not {pair!r}")
    if not (padding in PADDINGS if isinstance(padding, str) else _is_padding(padding)):
        known = ", ".join(map(repr, PADDINGS))
        raise LeafError(f"padding: expected {known} or ((before, after), (before, after)), not {padding!r}")
    if groups != 1:
        raise LeafError(f"coded_conv has one group; {groups} are as many convolutions with kernels of their own")
    if x.ndim != 4 or not 0 < kernel[0] * kernel[1] * x.shape[-1] == matrix.n:
        raise LeafError(f"a kernel {kernel} on x {x.shape} is not coded as a matrix of {matrix.n} rows")
    patches = jax.lax.conv_general_dilated_patches(
        x,
        filter_shape=kernel,
        window_strides=strides,
        padding=padding,
        rhs_dilation=dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=jax.lax.Precision.HIGHEST,
    )
    # JAX gives channels first, then positions; a kernel has positions first.
    by_channel = patches.reshape(*patches.shape[:-1], x.shape[-1], kernel[0] * kernel[1])
    return coded_matmul(jnp.swapaxes(by_channel, -1, -2).reshape(patches.shape), matrix, form=form)


def _is_padding(axes: object) -> bool:
    """Whether that is (before, after) for each of two axes."""
    return isinstance(axes, Sequence) and len(axes) == 2 and all(_is_pair(axis, 0) for axis in axes)


def _is_pair(pair: object, least: int) -> bool:
    """Whether these are two integers, `least` or more."""
    return (
        isinstance(pair, Sequence)
        and len(pair) == 2
        and all(isinstance(number, int | np.integer) and number >= least for number in pair)
    )
