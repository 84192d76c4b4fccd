"""Small compressed models that exercise every kind of leaf; what tests and golden files are made of."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from quantree.encodings import Affine, Coded, Compressed, Pruned, Raw, Scalar, SubVectors, Table

FLOAT32 = np.dtype("float32")


def floats(rng: np.random.Generator, *shape: int, dtype: Any = "float32") -> jax.Array:
    return jnp.asarray(rng.normal(size=shape).astype(np.float32)).astype(dtype)


def sparse_codes(rng: np.random.Generator, size: int, symbols: int, density: float) -> np.ndarray:
    return np.where(rng.random(size) < density, rng.integers(0, symbols, size), 0)


def coded_net(layers: dict[str, tuple[int, ...]], k: int = 8, density: float = 0.02, seed: int = 0) -> Compressed:
    """Pruned kernels with a codebook of k per tensor, biases raw."""
    rng = np.random.default_rng(seed)
    leaves, books, dense = {}, {}, 0
    for name, shape in layers.items():
        codes = sparse_codes(rng, int(np.prod(shape)), k + 1, density)[None].astype(np.uint8)
        leaves[f"{name}/bias"] = Raw.of(floats(rng, shape[-1]))
        leaves[f"{name}/kernel"] = Coded(jnp.asarray(codes), None, f"{name}/kernel", Scalar(), True, shape, FLOAT32)
        books[f"{name}/kernel"] = Table(floats(rng, 1, k, 1))
        dense += 4 * (codes.size + shape[-1])
    return Compressed(leaves, books, {}, dense)


LENET300 = {"fc1": (784, 300), "fc2": (300, 100), "fc3": (100, 10)}


def every_kind(seed: int = 0) -> Compressed:
    """One leaf of each kind that the library has, in several dtypes, and a state."""
    rng = np.random.default_rng(seed)
    dense, conv, wide = (12, 5), (3, 3, 2, 4), (6, 8)
    pieces = SubVectors(d=3, along="inputs", codebooks="segment")
    leaves = {
        "a/bias": Raw.of(floats(rng, 5)),
        "a/cast": Raw(floats(rng, 5, dtype="float16"), FLOAT32),
        "a/brain": Raw.of(floats(rng, 2, 3, dtype="bfloat16")),
        "a/count": Raw.of(jnp.asarray(rng.integers(-9, 9, (2, 2), np.int32))),
        "a/flag": Raw.of(jnp.asarray([True, False, True])),
        "a/none": Raw.of(jnp.zeros((0, 3))),
        "a/scalar": Raw.of(jnp.asarray(3, jnp.uint8)),
        "b/pruned": Pruned.of(floats(rng, *dense), jnp.asarray(rng.random(dense) < 0.2)),
        "c/shared": _coded(rng, "book", Scalar(), dense, 1, 60, 5),
        "d/shared": _coded(rng, "book", Scalar(), wide, 1, 48, 5),
        "e/product": _coded(rng, "pieces", pieces, dense, 4, 5, 3, zero=False),
        "e/masked": _coded(rng, "pieces", pieces, dense, 4, 5, 3, zero=False, mask=rng.random(dense) < 0.5),
        "f/kernels": _coded(rng, "slices", SubVectors(d=9), conv, 1, 8, 6, zero=False),
        "h/outputs": _coded(rng, "across", SubVectors(d=3, along="outputs"), (5, 7), 1, 15, 3, zero=False),
        "h/vector": _coded(rng, "line", SubVectors(d=4, codebooks="segment"), (6,), 2, 1, 3),
        "h/short": _coded(rng, "across", SubVectors(d=9), (3, 5), 1, 5, 3),
        "g/uniform": _coded(rng, "levels", Scalar(), wide, 1, 48, 300, zero=False),
    }
    books = {
        "book": Table(floats(rng, 1, 4, 1)),
        "pieces": Table(floats(rng, 4, 3, 3, dtype="float16")),
        "slices": Table(floats(rng, 1, 6, 9)),
        "across": Table(floats(rng, 1, 3, 3)),
        "line": Table(floats(rng, 2, 3, 4)),
        "levels": Affine(jnp.float32(0.25), jnp.float32(-1), 300),
    }
    state = {"norm/mean": floats(rng, 4), "norm/var": jnp.ones(4)}
    return Compressed(leaves, books, state, 12_345)


def _coded(
    rng: np.random.Generator,
    book: str,
    blocking: Any,
    shape: tuple[int, ...],
    segments: int,
    count: int,
    symbols: int,
    zero: bool = True,
    mask: np.ndarray | None = None,
) -> Coded:
    codes = sparse_codes(rng, segments * count, symbols, 0.7).reshape(segments, count)
    width = np.uint8 if symbols <= 256 else np.uint16
    bits = None if mask is None else jnp.asarray(mask)
    return Coded(jnp.asarray(codes.astype(width)), bits, book, blocking, zero, shape, FLOAT32)


def assert_same(one: Compressed, other: Compressed) -> None:
    """Equal to the bit: structure, static fields, shapes, dtypes and every array."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
