"""What stands for an array: the two interfaces of this room and the streams that storage writes.

An encoding is a frozen dataclass and a pytree. Its array fields are children (integer codes, float centroids, masks),
everything else is static. A new one is declared with the `encoding("name")` decorator.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self, TypeVar, dataclass_transform

import jax
import numpy as np

from quantree.errors import FormatError
from quantree.registry import declare, register

E = TypeVar("E", bound=type[Any])


@dataclasses.dataclass(frozen=True)
class Stream:
    """One run of numbers to be stored.

    data: flat array. With an `alphabet` a, unsigned integers below a, which a coder turns into bits; without, numbers
    that are stored at the width of their dtype. coder: name of the coder to use; None: whichever is smallest.
    """

    data: np.ndarray
    alphabet: int | None = None
    coder: str | None = None


class Stored:
    """What a file can hold: an object that names its streams and can be rebuilt from them."""

    name: ClassVar[str]
    version: ClassVar[int] = 1

    def streams(self) -> dict[str, Stream]:
        """The streams to store, by field name, in the order in which they are written."""
        raise NotImplementedError

    def meta(self) -> tuple[Any, ...]:
        """Static fields as plain data (numbers, strings, None, and tuples of these)."""
        return ()

    @classmethod
    def restore(
        cls, shape: tuple[int, ...], dtype: np.dtype[Any], meta: tuple[Any, ...], streams: Mapping[str, np.ndarray]
    ) -> Self:
        """The inverse of `streams` and `meta`. Any inconsistency is a `FormatError`; nothing else is raised."""
        raise NotImplementedError


class Encoding(Stored):
    """Stands for one leaf of the model.

    shape, dtype: of the array that `decode` gives.
    """

    family: ClassVar[str]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def decode(self, codebooks: Mapping[str, "Codebook"]) -> jax.Array:
        """The array. Pure, jit-able, and differentiable in every float field and in the codebooks."""
        raise NotImplementedError

    def uses(self) -> tuple[str, ...]:
        """Names of the codebooks that `decode` looks up."""
        return ()

    def zeros(self) -> np.ndarray | None:
        """Boolean array of the leaf's shape: where it is held at exact zero. None: nowhere."""
        return None


class Codebook(Stored):
    """Centroids that one or more leaves share."""

    family: ClassVar[str]

    def table(self) -> jax.Array:
        """The centroids, [segments, k, d] float: `segments` independent codebooks of k vectors of length d."""
        raise NotImplementedError

    @property
    def size(self) -> int:
        """k, the number of centroids in each segment."""
        raise NotImplementedError


def stored(streams: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Stream `name` of a file in its shape; `FormatError` if it is missing or does not fill it."""
    stream = streams.get(name)
    if stream is not None and min(shape, default=0) >= 0:
        with contextlib.suppress(ValueError):  # it has another size, or NumPy can't count that far
            return stream.reshape(shape)
    raise FormatError(f"stream {name!r} does not fill the shape {shape}")


declare("encoding", Encoding)
declare("codebook", Codebook)


def static(**kwargs: Any) -> Any:
    """A dataclass field that is part of the pytree's structure, not one of its arrays."""
    return dataclasses.field(metadata={"static": True}, **kwargs)


@dataclass_transform(frozen_default=True, field_specifiers=(static, dataclasses.field))
def encoding(name: str) -> Callable[[E], E]:
    """Class decorator: frozen dataclass, pytree, and registered under `name` in its family (encoding or codebook)."""

    def declare_class(cls: E) -> E:
        return register(name)(jax.tree_util.register_dataclass(dataclasses.dataclass(frozen=True)(cls)))

    return declare_class
