"""The one stage that quantizes: grouping x blocking x learner, and the coder for the codes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from quantree.coding import Coder
from quantree.encodings import Blocking, Codebook, Coded, Compressed, Encoding, Pruned, Raw, Scalar, SubVectors, Table
from quantree.encodings.coded import smallest_unsigned
from quantree.encodings.compressed import is_float
from quantree.errors import ConfigError, LeafError, PluginError
from quantree.quantizers.base import Grouping, Learner
from quantree.quantizers.contract import taken
from quantree.quantizers.groupings import PerTensor
from quantree.registry import Choice, Named, register
from quantree.stage import Context, Patterns, Stage, is_float_leaf, select

_MOST = 1.4  # by which `keep_energy` scales: where half of the energy is lost, it would double the error


CoderName = Annotated[
    Annotated[str, Named(Coder, "smallest")] | None, AfterValidator(lambda name: None if name == "smallest" else name)
]
"""The coder that a recipe names; None, or "smallest", stands for the one that takes the fewest bytes."""


@register("quantize")
class Quantize(Stage):
    """Replaces weights by codes into learned codebooks.

    Leaves that an earlier stage has quantized are left alone. On a pruned leaf, scalars keep their zeros as a symbol of
    their own, and vectors keep the mask beside the codes. A codebook never has more centroids than there are distinct
    blocks: a tiny leaf gets a smaller one. `LeafError` names a leaf that holds NaN or infinity, or no float.
    """

    example: ClassVar = {"learner": {"kind": "uniform", "k": 3}}

    match: Patterns | None = Field(
        default=None, description="leaves to take; default: every float leaf with two or more axes"
    )
    grouping: Choice[Grouping] = Field(default=PerTensor(), description="which leaves share a codebook")
    blocking: Choice[Blocking] = Field(
        default=Scalar(), description="how a leaf is cut into the vectors that get one code each"
    )
    learner: Choice[Learner] = Field(description="how codebook and codes are found")
    coder: CoderName = Field(default=None, description="coder of the codes; default: the smallest for each leaf")
    keep_energy: bool = Field(
        default=False,
        description="scale each codebook so that its weights keep their sum of squares, by 1.4 at most: the least "
        "error shrinks them, which norms with stored statistics pass on. For recipes without `batchnorm` or training",
    )
    release_mask: bool = Field(
        default=False, description="let a vector quantizer fill pruned weights again, and store no mask"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> "Quantize":
        per_segment = isinstance(self.blocking, SubVectors) and self.blocking.codebooks == "segment"
        if per_segment and not isinstance(self.grouping, PerTensor):
            reason = (
                "one codebook per segment can't be shared between leaves; use grouping 'tensor' or codebooks 'layer'"
            )
            raise PydanticCustomError("combination", "{reason}", {"reason": reason, "key": "grouping"})
        if self.learner.scalars_only and not isinstance(self.blocking, Scalar):
            reason = f"learner {self.learner.name!r} takes scalars, not {self.blocking.name!r}"
            raise PydanticCustomError("combination", "{reason}", {"reason": reason, "key": "blocking"})
        return self

    def check(self, leaves: Mapping[str, Encoding]) -> None:
        self._free(leaves)

    def foreseen(self, leaves: Mapping[str, Encoding]) -> Mapping[str, Encoding]:
        return {**leaves, **{path: _Foreseen(leaves[path].shape, leaves[path].dtype) for path in self._free(leaves)}}

    def _free(self, leaves: Mapping[str, Encoding]) -> list[str]:
        free = [path for path in select(self.match, leaves) if not leaves[path].uses()]
        if not free:
            raise ConfigError("quantize: every leaf that it matches has been quantized by an earlier stage")
        return free

    def run(self, compressed: Compressed, context: Context) -> Compressed:
        free = self._free(compressed.leaves)
        leaves: dict[str, Encoding] = {}
        books: dict[str, Codebook] = {}
        for index, (name, paths) in enumerate(sorted(self.grouping.groups(free, compressed.leaves).items())):
            name = unused(name, compressed.codebooks)
            parts = [Part(path, compressed.leaves[path], self.blocking, self.release_mask) for path in paths]
            odd = next((part for part in parts if part.blocks.shape[2] != parts[0].blocks.shape[2]), None)
            if odd is not None:
                raise LeafError(
                    f"{odd.path}: blocks of {odd.blocks.shape[2]} weights can't share a codebook with the "
                    f"{parts[0].blocks.shape[2]} of {parts[0].path}; match fewer leaves, or use grouping 'tensor'"
                )
            coded, books[name] = self.learn(name, parts, jax.random.fold_in(context.key, index))
            leaves |= coded
        return compressed.replace(leaves, books)

    def learn(self, name: str, parts: "list[Part]", key: jax.Array) -> tuple[dict[str, Coded], Codebook]:
        """Quantizes leaves that share the codebook `name`: path -> encoding, and the codebook."""
        blocks = jnp.concatenate([part.blocks for part in parts], axis=1)
        alive = np.concatenate([part.alive for part in parts], axis=1)
        # A segment of which nothing survived pruning has nothing to learn from but its zeros.
        taking_part = alive | ~alive.any(axis=1, keepdims=True)
        segments, n, d = blocks.shape
        wide = any(part.dtype == np.float64 for part in parts)
        found = self.learner.learn(blocks, jnp.asarray(taking_part), key)
        try:
            book, codes = taken(found, (segments, n, d), taking_part, wide)
        except PluginError as error:
            raise PluginError(f"{name}: learner {self.learner.name!r} {error}") from error.__cause__
        book, codes = _without_unused(book, codes, alive)
        if self.keep_energy:
            kept = np.concatenate([part.kept for part in parts], axis=1)
            book = _with_energy(book, codes, np.asarray(blocks), kept)
        sizes = np.cumsum([part.blocks.shape[1] for part in parts])[:-1]
        leaves: dict[str, Coded] = {}
        for part, own in zip(parts, np.split(codes, sizes, axis=1), strict=True):
            zero = part.mask is not None and part.blocks.shape[2] == 1
            symbols = np.where(part.alive, own + 1, 0) if zero else np.where(part.alive, own, 0)
            mask = None if zero or part.mask is None else jnp.asarray(part.mask)
            packed = smallest_unsigned(symbols, book.size + zero)
            leaves[part.path] = Coded(packed, mask, name, self.blocking, zero, part.shape, part.dtype, self.coder)
        return leaves, book


@dataclass(frozen=True)
class _Foreseen(Encoding):
    """Stands for a coded leaf before there are codes."""

    name: ClassVar = Coded.name
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def uses(self) -> tuple[str, ...]:
        return ("to be learned",)


class Part:
    """One leaf of a group: its blocks [segments, n, d]; which elements of them are weights that may differ from zero,
    `kept`; and which blocks hold any of those and so take part, `alive` [segments, n].
    """

    def __init__(self, path: str, leaf: Encoding, blocking: Blocking, release_mask: bool) -> None:
        self.path, self.shape, self.dtype = path, leaf.shape, leaf.dtype
        if not isinstance(leaf, Raw | Pruned) or not is_float_leaf(leaf):
            raise LeafError(f"{path}: only plain or pruned float leaves can be quantized, not {leaf.name} {leaf.dtype}")
        if not int(np.prod(leaf.shape, dtype=np.int64)):
            raise LeafError(
                f"{path}: an empty tensor of shape {leaf.shape} has nothing to quantize; leave it out of `match`"
            )
        value = leaf.decode({}).astype(jnp.float32)
        bad = int(np.count_nonzero(~np.isfinite(np.asarray(value))))
        if bad:
            raise LeafError(f"{path}: {bad} of {value.size} weights are NaN or infinite")
        self.blocks = blocking.split(value)
        released = release_mask and self.blocks.shape[2] > 1
        self.mask = np.asarray(leaf.mask) if isinstance(leaf, Pruned) and not released else None
        kept = np.ones(leaf.shape, bool) if self.mask is None else self.mask
        self.kept = np.asarray(blocking.split(jnp.asarray(kept)))
        self.alive = self.kept.any(axis=-1)


def _without_unused(book: Codebook, codes: np.ndarray, alive: np.ndarray) -> tuple[Codebook, np.ndarray]:
    """Drops centroids that no code points to (a leaf may have fewer distinct blocks than k): they would cost bytes."""
    if not isinstance(book, Table) or book.centroids.shape[0] != 1:
        return book, codes
    used = np.unique(codes[alive]) if alive.any() else np.zeros(1, codes.dtype)
    if len(used) == book.size:
        return book, codes
    return Table(jax.device_put(np.asarray(book.centroids)[:, used])), np.where(alive, np.searchsorted(used, codes), 0)


def _with_energy(book: Codebook, codes: np.ndarray, blocks: np.ndarray, kept: np.ndarray) -> Codebook:
    """The codebook times the number that gives the kept weights their sum of squares again."""
    decoded = np.take_along_axis(np.asarray(book.table()), codes[..., None].astype(np.intp), axis=1)[kept]
    have, wanted = (float(np.sum(np.square(each, dtype=np.float64))) for each in (decoded, blocks[kept]))
    factor = min((wanted / have) ** 0.5, _MOST) if have > 0 else 1.0
    scaled = jax.tree.map(lambda field: (field * factor).astype(field.dtype) if is_float(field) else field, book)
    wished = factor * np.asarray(book.table())
    if not np.allclose(scaled.table(), wished, rtol=0, atol=1e-3 * np.abs(wished).max()):
        raise ConfigError(f"keep_energy needs a codebook that is linear in its floats; {book.name!r} is not", True)
    return scaled


def unused(name: str, taken: Mapping[str, Any]) -> str:
    """The codebook's name, numbered if an earlier stage has used it ("net" of two net-wide stages)."""
    names = [name, *(f"{name}#{i}" for i in range(2, len(taken) + 3))]
    return next(candidate for candidate in names if candidate not in taken)
