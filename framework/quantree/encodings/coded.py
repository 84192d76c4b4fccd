"""A leaf written as codes into a codebook."""

from collections.abc import Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
import pydantic

from quantree.encodings.base import Codebook, Encoding, Stream, encoding, static, stored
from quantree.encodings.blocking import Blocking
from quantree.errors import FormatError, PluginError


@encoding("coded")
class Coded(Encoding):
    """Each block of the leaf is replaced by one centroid.

    codes: [segments, n] unsigned. If `zero`, symbol 0 stands for a block of exact zeros and symbol j > 0 for centroid
    j - 1; otherwise symbol j stands for centroid j. mask: None, or bool of the leaf's shape: zero where False, whatever
    the codes say (a vector quantizer on a pruned leaf). coder: the coder that the recipe names for the codes, if any.
    """

    codes: jax.Array
    mask: jax.Array | None
    codebook: str = static()
    blocking: Blocking = static()
    zero: bool = static()
    shape: tuple[int, ...] = static()
    dtype: np.dtype[Any] = static()
    coder: str | None = static(default=None)

    def decode(self, codebooks: Mapping[str, Codebook]) -> jax.Array:
        table = codebooks[self.codebook].table()
        if self.zero:
            table = jnp.concatenate([jnp.zeros_like(table[:, :1]), table], axis=1)
        blocks = jax.vmap(lambda centroids, codes: centroids[codes])(table, self.codes.astype(jnp.int32))
        leaf = self.blocking.join(blocks, self.shape)
        if self.mask is not None:
            leaf = jnp.where(self.mask, leaf, jnp.zeros_like(leaf))
        return leaf.astype(self.dtype)

    def uses(self) -> tuple[str, ...]:
        return (self.codebook,)

    def zeros(self) -> np.ndarray | None:
        if self.mask is not None:
            return ~np.asarray(self.mask)
        if not self.zero:
            return None
        blocks = (self.codes == 0)[..., None]
        width = self.blocking.width(self.shape)
        return np.asarray(self.blocking.join(jnp.broadcast_to(blocks, (*self.codes.shape, width)), self.shape))

    def check(self, codebooks: Mapping[str, Codebook]) -> None:
        """`FormatError` if a code points outside the codebook or the shapes don't fit."""
        book = codebooks[self.codebook]
        segments, k, d = book.table().shape
        largest = int(np.asarray(self.codes).max(initial=0))
        if largest >= k + self.zero:
            raise FormatError(f"a code is {largest}, but codebook {self.codebook!r} has {k} centroids")
        if segments != self.blocking.segments(self.shape) or d != self.blocking.width(self.shape):
            raise FormatError(f"codebook {self.codebook!r} does not fit the blocks of a leaf of shape {self.shape}")

    def streams(self) -> dict[str, Stream]:
        codes = np.asarray(self.codes).reshape(-1)
        streams = {"codes": Stream(codes, alphabet=int(codes.max(initial=0)) + 1, coder=self.coder)}
        if self.mask is not None:
            streams["mask"] = Stream(np.asarray(self.mask).reshape(-1).astype(np.uint8), alphabet=2)
        return streams

    def meta(self) -> tuple[Any, ...]:
        return (self.codebook, self.zero, self.coder, self.blocking.name, *self.blocking.model_dump().values())

    @classmethod
    def restore(
        cls, shape: tuple[int, ...], dtype: np.dtype[Any], meta: tuple[Any, ...], streams: Mapping[str, np.ndarray]
    ) -> Self:
        try:
            codebook, zero, coder, kind, *settings = meta
            family = Blocking.named(kind)
            blocking = family.model_validate(dict(zip(family.model_fields, settings, strict=True)))
        except (PluginError, pydantic.ValidationError, ValueError, TypeError) as error:
            raise FormatError(f"a coded leaf names no known blocking: {error}") from None
        if (
            not isinstance(codebook, str)
            or not isinstance(zero, bool)
            or not isinstance(coder, str | None)
            or min(shape, default=1) < 1
        ):
            raise FormatError("a coded leaf's header is malformed")
        codes = stored(streams, "codes", (blocking.segments(shape), blocking.count(shape)))
        if codes.dtype.kind != "u":
            raise FormatError(f"codes are unsigned integers, not {codes.dtype}")
        mask = jnp.asarray(stored(streams, "mask", shape).astype(bool)) if "mask" in streams else None
        return cls(jnp.asarray(codes), mask, codebook, blocking, zero, shape, dtype, coder)


def smallest_unsigned(codes: Any, symbols: int) -> jax.Array:
    """Codes at the smallest unsigned width that holds `symbols` different ones."""
    width = jnp.uint8 if symbols <= 1 << 8 else jnp.uint16 if symbols <= 1 << 16 else jnp.uint32
    return jnp.asarray(codes).astype(width)
