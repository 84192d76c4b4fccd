"""What a leaf costs, and what it loses, at each setting that is tried."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np

from quantree.encodings import Codebook, Coded, Compressed, Encoding
from quantree.encodings.compressed import is_float
from quantree.quantizers.base import LADDER, Learner
from quantree.quantizers.planning import lower_hull
from quantree.quantizers.quantize import Part, Quantize
from quantree.storage.file import account, to_bytes

HEADER = 20
"""Bytes by which a coded leaf and its codebook lengthen the header, about."""
_PATIENCE = 4  # settings in a row that others beat before the rest of a ladder is left out


@dataclass(frozen=True, eq=False)
class Point:
    """One way to store a leaf.

    size: bytes of its streams, coding table and codebook, without its part of the header. error: sum over its weights
    of the squared difference to what the leaf was. learner: None for the leaf as it was.
    """

    size: int
    error: float
    leaf: Encoding
    learner: Learner | None = None
    book: Codebook | None = None

    @cached_property
    def decoded(self) -> jax.Array:
        """What `leaf.decode` gives. The look-up runs in NumPy: XLA would compile it for each shape and each k."""
        if self.book is None or not isinstance(self.leaf, Coded):
            return self.leaf.decode({})
        value = self.leaf.blocking.join(jnp.asarray(_look_up(self.leaf, self.book)), self.leaf.shape)
        if self.leaf.mask is not None:
            value = jnp.where(self.leaf.mask, value, jnp.zeros_like(value))
        return value.astype(self.leaf.dtype)


@dataclass(frozen=True, eq=False)
class Curve:
    """The ways to store one leaf that are worth having, from small to exact.

    weights: how many there are, pruned ones too. energy: sum of their squares. as_it_was: the last resort, exact; it is
    among `points` unless something smaller is exact.
    """

    path: str
    weights: int
    energy: float
    as_it_was: Point
    points: tuple[Point, ...]

    def sizes(self, header: int) -> np.ndarray:
        """Bytes of each point in a file, where a coded leaf takes `header` bytes of the file's header: int64."""
        return np.asarray([point.size + header * (point.book is not None) for point in self.points], np.int64)

    def on_hull(self, header: int) -> "Curve":
        """The same without points that are off the lower hull once the header is counted."""
        hull = lower_hull(self.sizes(header), [point.error for point in self.points])
        return dataclasses.replace(self, points=tuple(self.points[i] for i in hull))


def trace(
    path: str, leaf: Encoding, ladders: Sequence[Sequence[Quantize]], name: str, key: jax.Array, narrow: bool
) -> Curve:
    """Learns the settings of each ladder on one leaf, from coarse to fine, and keeps those on the lower hull.

    All settings have the same blocking. name: of the codebook. narrow: try codebooks in 16 bits too. A ladder ends
    early where it is exact, where it needs more bytes than the leaf as it was, or where others have beaten some of its
    settings in a row. Only what is on the hull is held in memory: a byte for each weight and point, as a rule.
    """
    part = Part(path, leaf, ladders[0][0].blocking, release_mask=False)
    blocks = np.asarray(part.blocks)
    original = blocks[part.kept].astype(np.float64)
    as_it_was = Point(_size(path, leaf), 0.0, leaf)
    curve = Curve(path, math.prod(leaf.shape), float(original @ original), as_it_was, (as_it_was,))
    few = _distinct(blocks) <= LADDER[-1]
    for ladder in ladders:
        beaten = 0
        for stage in ladder:
            taken, learned = stage.learn(name, [part], key)
            coded, fresh = taken[path], []
            rest = _size(path, coded, name, learned) - _floats(learned)
            for book in _widths(learned) if narrow else [learned]:
                error = float(np.sum(np.square(_look_up(coded, book)[part.kept] - original)))
                fresh.append(Point(rest + _floats(book), error, coded, stage.learner, book))
            curve = dataclasses.replace(curve, points=(*curve.points, *fresh)).on_hull(HEADER)
            if fresh[0].size + HEADER >= as_it_was.size or fresh[-1].error == 0:
                break
            beaten = 0 if any(point in curve.points for point in fresh) else beaten + 1
            # A leaf of few values may be met exactly by a setting that comes after many bad ones.
            if beaten == _PATIENCE and not few:
                break
    return curve


def _size(path: str, leaf: Encoding, name: str = "", book: Codebook | None = None) -> int:
    """Bytes of a leaf and its codebook in a file, as storage writes and counts them."""
    alone = Compressed({path: leaf}, {} if book is None else {name: book}, {}, 0)
    entries = account(to_bytes(alone)).entries
    return sum(entry.bytes for entry in entries if entry.section in ("leaf", "codebook", "table"))


def _floats(book: Codebook) -> int:
    """Bytes of a codebook that are stored as they are."""
    return sum(stream.data.nbytes for stream in book.streams().values() if stream.alphabet is None)


def _widths(book: Codebook) -> Iterator[Codebook]:
    """The codebook with floats of 16 bits, if they hold it, and as it is."""
    with np.errstate(over="ignore"):
        fields, structure = jax.tree.flatten(book)
        narrow = [np.asarray(field).astype(np.float16) if is_float(field) else field for field in fields]
    if all(np.isfinite(field).all() for field in narrow):
        yield jax.tree.unflatten(structure, map(jax.device_put, narrow))
    yield book


def _look_up(leaf: Coded, book: Codebook) -> np.ndarray:
    """The blocks that the codes stand for, [segments, n, d], in the width of the codebook."""
    table = np.asarray(book.table())
    if leaf.zero:
        table = np.concatenate([np.zeros_like(table[:, :1]), table], axis=1)
    return np.take_along_axis(table, np.asarray(leaf.codes).astype(np.intp)[..., None], axis=1)


def _distinct(blocks: np.ndarray) -> int:
    """How many different blocks there are, [segments, n, d]."""
    # Rows are sorted far more slowly than numbers.
    return max(len(np.unique(segment, axis=0) if blocks.shape[2] > 1 else np.unique(segment)) for segment in blocks)
