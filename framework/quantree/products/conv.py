"""Convolutions with a coded kernel, as products of its patches with the kernel as a matrix."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from quantree.errors import LeafError
from quantree.products.base import CodedMatrix
from quantree.products.matmul import coded_matmul

Padding = str | Sequence[tuple[int, int]]


def coded_conv(
    x: jax.Array,
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

    As `flax.nnx.Conv` computes it: padding is "SAME", "VALID" or (before, after) for each axis; `dilation` spreads the
    kernel. The patches, [b, h', w', kh kw c], are in memory. `LeafError` if shapes do not fit, or there are several
    groups.
    """
    if groups != 1:
        raise LeafError(f"coded_conv has one group; {groups} are as many convolutions with kernels of their own")
    if x.ndim != 4 or kernel[0] * kernel[1] * x.shape[-1] != matrix.n:
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
