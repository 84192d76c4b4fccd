"""Shared weights whose optimizer sees every weight: centroids gather what the weights of their clusters would do."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from quantree.encodings import Codebook, Coded, Compressed, Encoding, Table, float_fields


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Shared(Encoding):
    """A coded leaf whose weights may leave their centroids for one step. Lives in training only; no file holds one.

    drift: float of the leaf's shape, what the weights are beside their centroids. kept: None, or bool of the leaf's
    shape: False where a weight is zero and stays so.
    """

    name: ClassVar = "shared"

    coded: Coded
    drift: jax.Array
    kept: jax.Array | None
    shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    dtype: np.dtype[Any] = dataclasses.field(metadata={"static": True})

    @classmethod
    def of(cls, coded: Coded, table: Table) -> "Shared":
        """At rest: every weight is its centroid."""
        zeros = coded.zeros()
        kept = None if zeros is None else jnp.asarray(~zeros)
        return cls(coded, jnp.zeros(coded.shape, table.dtype), kept, coded.shape, coded.dtype)

    def decode(self, codebooks: Mapping[str, Codebook]) -> jax.Array:
        return self.coded.decode(codebooks) + self._moved().astype(self.dtype)

    def uses(self) -> tuple[str, ...]:
        return self.coded.uses()

    def zeros(self) -> np.ndarray | None:
        return self.coded.zeros()

    def sums(self, k: int) -> jax.Array:
        """The drift summed over each cluster, [segments, k, d]."""
        zero = int(self.coded.zero)
        blocks, codes = self.coded.blocking.split(self._moved()), self.coded.codes.astype(jnp.int32)
        empty = jnp.zeros((k + zero, blocks.shape[2]), blocks.dtype)
        return jax.vmap(lambda codes, blocks: empty.at[codes].add(blocks))(codes, blocks)[:, zero:]

    def _moved(self) -> jax.Array:
        return self.drift if self.kept is None else jnp.where(self.kept, self.drift, jnp.zeros_like(self.drift))


def to_shared(compressed: Compressed, trained: Callable[[str], bool]) -> tuple[Compressed, Callable[[str], bool]]:
    """The same with a `Shared` leaf in place of each coded one whose free centroids are `trained`, and what picks the
    fields to train now: drifts in place of those centroids.
    """
    leaves: dict[str, Encoding] = {}
    gathering: set[str] = set()
    for path, leaf in compressed.leaves.items():
        book = compressed.codebooks[leaf.codebook] if isinstance(leaf, Coded) else None
        if isinstance(leaf, Coded) and isinstance(book, Table) and trained(f"codebooks/{leaf.codebook}/centroids"):
            leaves[path] = Shared.of(leaf, book)
            gathering.add(f"codebooks/{leaf.codebook}/centroids")
    others = {name for name in float_fields(compressed) if trained(name)} - gathering
    return compressed.replace(leaves), (others | {f"{path}/drift" for path in leaves}).__contains__


def to_coded(compressed: Compressed) -> Compressed:
    """The inverse of `to_shared`, with the centroids of now."""
    return compressed.replace({path: leaf.coded for path, leaf in shared_leaves(compressed).items()})


def gather(compressed: Compressed, rate: float) -> Compressed:
    """Moves each centroid by `rate` times the sum of what its weights have drifted, and the weights back onto it."""
    leaves = shared_leaves(compressed)
    tables = {name: compressed.codebooks[name] for leaf in leaves.values() for name in leaf.uses()}
    return compressed.replace(*_gathered(leaves, tables, np.float32(rate)))


def shared_leaves(compressed: Compressed) -> dict[str, Shared]:
    """Those that are, by path."""
    return {path: leaf for path, leaf in compressed.leaves.items() if isinstance(leaf, Shared)}


@jax.jit
def _gathered(leaves: dict[str, Shared], tables: dict[str, Any], rate: jax.Array) -> tuple[Any, Any]:
    values = {name: table.centroids for name, table in tables.items()}
    for leaf in leaves.values():
        (name,) = leaf.uses()
        values[name] += rate.astype(values[name].dtype) * leaf.sums(values[name].shape[1])
    at_rest = {path: dataclasses.replace(leaf, drift=jnp.zeros_like(leaf.drift)) for path, leaf in leaves.items()}
    return at_rest, {name: Table(value) for name, value in values.items()}
