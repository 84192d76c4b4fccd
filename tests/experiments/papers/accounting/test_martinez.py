"""The counting of Permute, Quantize, and Fine-tune, by hand."""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.papers.accounting import Martinez2021
from experiments.papers.accounting.martinez import code_bits
from quantree.encodings import Coded, Compressed, Raw, SubVectors, Table

Make = Callable[..., Compressed]


def vectors(k: int, d: int, *kernels: tuple[int, ...], mask: bool = False) -> Compressed:
    """Kernels [inputs, outputs] of sub-vectors along their inputs that share a codebook, and a norm."""
    leaves = {}
    for i, shape in enumerate(kernels):
        blocking = SubVectors(d=d)
        codes = jnp.zeros((1, blocking.count(shape)), jnp.uint8)
        kept = jnp.ones(shape, bool) if mask else None
        leaves[f"fc{i}/kernel"] = Coded(codes, kept, "book", blocking, False, shape, np.dtype(np.float32))
    leaves |= {f"bn/{name}": Raw.of(jnp.ones(7)) for name in ("scale", "bias")}
    return Compressed(leaves, {"book": Table(jnp.ones((1, k, d)))}, {"bn/mean": jnp.ones(7)}, 0)


def test_codes_codebook_and_the_rest() -> None:
    count = Martinez2021().count(vectors(256, 4, (12, 10)))
    assert count.stored == 30 * 8 + 16 * 256 * 4 + 32 * 14, "the statistics of the norm are folded"
    assert count.dense == 32 * (120 + 14)
    assert Martinez2021(part="dense").count(vectors(256, 4, (12, 10))).stored == 30 * 8 + 16 * 256 * 4


def test_a_codebook_counts_once_and_a_row_that_is_too_short_has_a_code_more() -> None:
    one, two = (Martinez2021().count(vectors(16, 4, *kernels)).stored for kernels in ([(8, 5)], [(8, 5), (9, 5)]))
    assert two - one == 3 * 5 * 4


@pytest.mark.parametrize(("symbols", "bits"), [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (128, 7), (256, 8), (2048, 11)])
def test_codes_have_the_width_of_the_largest(symbols: int, bits: int) -> None:
    assert code_bits(100, symbols) == 100 * bits


def test_zeros_are_a_symbol_of_scalars_and_a_mask_of_everything_else(model: Make) -> None:
    kernel = np.tile([0.0, 1.0, 2.0, 3.0, 4.0], (6, 4))
    pruned = model({"fc/kernel": kernel}, pruned=("fc/kernel",))
    assert Martinez2021().count(pruned).stored == 32 * 96 + 120
    scalars = model({"fc/kernel": kernel}, coded={"fc/kernel": "a"})
    assert Martinez2021().count(scalars).stored == 120 * 3 + 16 * 5
    plain, masked = (Martinez2021().count(vectors(256, 4, (12, 10), mask=mask)).stored for mask in (False, True))
    assert masked - plain == 120
    leaf = scalars.leaves["fc/kernel"]
    assert isinstance(leaf, Coded)
    symbol = scalars.replace({"fc/kernel": dataclasses.replace(leaf, zero=True)})
    assert Martinez2021().count(symbol).stored == 120 * 3 + 16 * 5
