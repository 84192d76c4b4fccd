"""Training through soft assignments: the weights learn where they will be clustered (DKM)."""

import dataclasses
import glob
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field

from quantree.clustering import assign
from quantree.clustering.soft import SoftKMeans, soft_kmeans
from quantree.encodings import Blocking, Codebook, Coded, Compressed, Encoding, Scalar, Table, float_fields
from quantree.encodings.coded import smallest_unsigned
from quantree.quantizers import KMeans, Quantize
from quantree.quantizers.quantize import CoderName
from quantree.recovery.finetune import Finetune, Gradual
from quantree.recovery.loop import Training
from quantree.registry import Choice, register
from quantree.stage import Context, Patterns, Recovery, Transform

_TOLERANCE = 1e-4  # of soft k-means; the next step of the training moves the centroids more


@register("dkm")
class Dkm(Recovery, Training):
    """Differentiable k-means (Cho et al., ICLR 2022, arXiv 2108.12659): trains weights through soft codes, then snaps.

    It starts from scalar or vector k-means, one codebook per leaf. In training each weight is the mean of all centroids
    by its attention to them, and the gradient goes through the clustering to the weights, so that a weight may change
    its cluster. Other than in the paper the distance is squared, and the temperature falls to zero: at `stop` weights
    are what they will be in the file, so no accuracy is lost at the end. Only epochs after `stop` count for `keep` and
    `patience`. Zeros of pruned leaves stay. All else that floats is trained too. What it leaves is what `quantize` with
    learner `kmeans` leaves.
    """

    example: ClassVar = {"k": 3, "epochs": 1, "iterations": 2}

    match: Patterns | None = Field(
        default=None, description="leaves to take; default: every float leaf with two or more axes"
    )
    k: int = Field(ge=1, le=65536, description="number of centroids of each codebook")
    blocking: Choice[Blocking] = Field(
        default=Scalar(), description="how a leaf is cut into the vectors that get one code each"
    )
    coder: CoderName | None = Field(default=None, description="coder of the codes; default: the smallest for each leaf")
    temperature: float = Field(
        default=0.5, gt=0, description="of the attention at the start, in mean squared errors of the leaf's k-means"
    )
    stop: float = Field(default=0.6, gt=0, le=1, description="share of the training at which the temperature is zero")
    every: int = Field(default=10, ge=1, description="steps between two changes of the temperature")
    iterations: int = Field(default=5, ge=1, description="most iterations of soft k-means in one step of the training")
    distill: float = Field(
        default=0.0, ge=0, le=1, description="weight of the uncompressed network's outputs in the loss, as in finetune"
    )

    @property
    def chooses(self) -> str | None:
        return self._training().chooses

    def check(self, leaves: Mapping[str, Encoding]) -> None:
        self._quantize().check(leaves)
        self._training().check(self.foreseen(leaves))

    def foreseen(self, leaves: Mapping[str, Encoding]) -> Mapping[str, Encoding]:
        return self._quantize().foreseen(leaves)

    def run(self, compressed: Compressed, context: Context) -> Compressed:
        coded = self._quantize().run(compressed, context)
        paths = [path for path, leaf in coded.leaves.items() if leaf is not compressed.leaves[path]]
        soft = {path: self._soften(compressed.leaves[path], coded, path) for path in paths}
        begun = compressed.replace(soft)
        trained = [name for name in float_fields(begun) if not name.endswith(Soft.STEERED) or _leaf(name) not in soft]
        tuned = self._training(match=tuple(map(glob.escape, trained))).run(begun, context)
        books, leaves = {}, {}
        for path in paths:
            leaf, old = tuned.leaves[path], coded.leaves[path]
            assert isinstance(leaf, Soft) and isinstance(old, Coded)
            leaves[path], books[old.codebook] = leaf.snapped(old)
        return tuned.replace(leaves, books)

    def _quantize(self) -> Quantize:
        return Quantize(match=self.match, blocking=self.blocking, learner=KMeans(k=self.k), coder=self.coder)

    def _training(self, match: tuple[str, ...] | None = None) -> Finetune:
        settings = {name: getattr(self, name) for name in Training.model_fields}
        cooling = Gradual(stage=_Cool(), stop=self.stop, every=self.every)
        return Finetune(**settings, match=match, distill=self.distill, gradual=cooling)

    def _soften(self, leaf: Encoding, coded: Compressed, path: str) -> "Soft":
        old = coded.leaves[path]
        assert isinstance(old, Coded)
        value = leaf.decode({}).astype(jnp.float32)
        zeros = leaf.zeros()
        kept = None if zeros is None else jnp.asarray(~zeros)
        errors = self.blocking.split(jnp.square(value - old.decode(coded.codebooks).astype(jnp.float32)))
        alive = jnp.ones(errors.shape, bool) if kept is None else self.blocking.split(kept)
        taking_part = jnp.any(alive, axis=2)
        error = jnp.sum(errors, axis=(1, 2)) / jnp.maximum(jnp.sum(taking_part, axis=1), 1).astype(errors.dtype)
        centroids = coded.codebooks[old.codebook].table().astype(jnp.float32)
        hot = self.temperature * error
        return Soft(value, kept, centroids, hot, hot, self.blocking, self.iterations, leaf.shape, leaf.dtype)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Soft(Encoding):
    """A leaf whose weights are softly clustered whenever it is decoded. Lives in training only; no file holds one.

    value: the leaf's shape, float32. mask: None, or bool of the leaf's shape: zero where False. centroids:
    [segments, k, d], where the clustering starts: where it ended when `cooled` last looked. temperature, hottest:
    [segments], now and at the start.
    """

    name: ClassVar = "soft"
    STEERED: ClassVar = ("/centroids", "/temperature", "/hottest")
    """Ends of the names of fields that are not trained."""

    value: jax.Array
    mask: jax.Array | None
    centroids: jax.Array
    temperature: jax.Array
    hottest: jax.Array
    blocking: Blocking = dataclasses.field(metadata={"static": True})
    iterations: int = dataclasses.field(metadata={"static": True})
    shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    dtype: np.dtype[Any] = dataclasses.field(metadata={"static": True})

    def decode(self, codebooks: Mapping[str, Codebook]) -> jax.Array:
        del codebooks
        leaf = self.blocking.join(self._clustered().points, self.shape)
        return self._masked(leaf).astype(self.dtype)

    def zeros(self) -> np.ndarray | None:
        return None if self.mask is None else ~np.asarray(self.mask)

    def cooled(self, progress: float) -> "Soft":
        """With the temperature that it has when this share of the way to zero is done."""
        centroids, heat = self._clustered().centroids, self.hottest * jnp.float32((1 - progress) ** 2)
        return dataclasses.replace(self, centroids=centroids, temperature=heat)

    def snapped(self, old: Coded) -> tuple[Coded, Table]:
        """Codes in place of those of `old`, which are from before the training, and their codebook."""
        table, blocks = self._clustered().centroids, self.blocking.split(self._masked(self.value))
        codes, alive = np.asarray(assign(blocks, table)), np.asarray(self._alive())
        used = np.unique(codes[alive]) if alive.any() else np.zeros(1, codes.dtype)
        if len(table) == 1 and len(used) < table.shape[1]:  # centroids that no code points to would cost bytes
            table, codes = table[:, used], np.searchsorted(used, np.where(alive, codes, used[0]))
        symbols = np.where(alive, codes + old.zero, 0)
        return dataclasses.replace(old, codes=smallest_unsigned(symbols, table.shape[1] + old.zero)), Table(table)

    def _clustered(self) -> SoftKMeans:
        return soft_kmeans(
            self.blocking.split(self._masked(self.value)),
            self.centroids,
            temperature=self.temperature,
            mask=self._alive(),
            iterations=self.iterations,
            tolerance=_TOLERANCE,
        )

    def _masked(self, leaf: jax.Array) -> jax.Array:
        return leaf if self.mask is None else jnp.where(self.mask, leaf, jnp.zeros_like(leaf))

    def _alive(self) -> jax.Array:
        kept = jnp.ones(self.shape, bool) if self.mask is None else self.mask
        return jnp.any(self.blocking.split(kept), axis=2)


class _Cool(Transform):
    """Lowers the temperature of soft leaves, to zero at full strength."""

    progress: float = Field(default=1.0, ge=0, le=1, description="share of the way to zero that is done")

    def at(self, progress: float) -> "_Cool":
        return _Cool(progress=progress)

    def run(self, compressed: Compressed, context: Context) -> Compressed:
        del context
        soft = {path: leaf for path, leaf in compressed.leaves.items() if isinstance(leaf, Soft)}
        return compressed.replace({path: leaf.cooled(self.progress) for path, leaf in soft.items()})


def _leaf(name: str) -> str:
    """Path of the leaf that a field belongs to."""
    return name.rpartition("/")[0]
