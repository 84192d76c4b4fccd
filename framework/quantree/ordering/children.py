"""Leaves whose sub-vectors run along the channels of a group, and the blocks that its channels share."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from quantree.errors import LeafError

LARGEST = 8192
"""Numbers along the axis, at most, of the blocks that hold channels of a group: a table of all their products is made,
256 MiB of float32.
"""


@dataclass(frozen=True, eq=False)
class Child:
    """A leaf read as rows, which are cut into sub-vectors of neighbouring channels.

    x: [rows, channels on the axis, w], floats; w weights of a channel lie side by side in a row: 1 for dense kernels
    and 1 x 1 convolutions, kh kw for others. places: [G, m], where the G channels of the group lie on the axis: each at
    m places, and column j of all channels moves together; what lies elsewhere stays. d: weights of a sub-vector. As in
    `SubVectors`, a row's last piece is filled up with zeros, and a row that is shorter than d is one piece.
    name: for errors. `LeafError` if these don't fit, for NaN and infinity, and if d cuts channels in two.
    """

    x: np.ndarray
    places: np.ndarray
    d: int
    name: str = "child"

    def __post_init__(self) -> None:
        x, places = np.asarray(self.x), np.asarray(self.places)
        if x.ndim != 3 or not x.size:
            raise LeafError(f"{self.name}: x has shape {x.shape}; expected [rows, channels, w], not empty")
        if places.ndim != 2 or not places.size or places.dtype.kind not in "iu":
            raise LeafError(f"{self.name}: places of shape {places.shape} and {places.dtype}; expected whole [G, m]")
        if places.min() < 0 or places.max() >= x.shape[1] or np.unique(places).size != places.size:
            raise LeafError(f"{self.name}: places are no different ones among {x.shape[1]} channels")
        if self.d < 1 or (self.d % x.shape[2] and x.shape[2] % self.d):
            raise LeafError(
                f"{self.name}: sub-vectors of {self.d} weights cut the {x.shape[2]} weights of a channel in two; "
                "expected a multiple or a divisor"
            )
        bad = x.size - np.count_nonzero(np.isfinite(x))
        if bad:
            raise LeafError(f"{self.name}: {bad} of {x.size} weights are NaN or infinite")

    @property
    def per_block(self) -> int:
        """Channels of one sub-vector."""
        return min(max(1, self.d // self.x.shape[2]), self.x.shape[1])

    @property
    def matters(self) -> bool:
        """Whether the order of channels changes which of them share a sub-vector."""
        return 1 < self.per_block < self.x.shape[1] and len(self.places) > 1

    def moved(self, order: np.ndarray) -> np.ndarray:
        """The leaf with channel order[i] of the group in the place of channel i."""
        source = np.arange(self.x.shape[1])
        source[self.places] = self.places[order]
        return self.x[:, source]

    def vectors(self, order: np.ndarray | None = None) -> np.ndarray:
        """All sub-vectors, [rows, pieces, d]."""
        x = self.x if order is None else self.moved(order)
        flat = x.reshape(len(x), -1)
        d = min(self.d, flat.shape[1])
        pieces = -(-flat.shape[1] // d)
        return np.pad(flat, ((0, 0), (0, pieces * d - flat.shape[1]))).reshape(len(x), pieces, d)


@dataclass(frozen=True, eq=False)
class Blocks:
    """The blocks of one child that hold channels of the group, centred and in units of its deviation.

    x: [rows, T b, w] float32; slot s is position s % b of block s // b. slots: [G, m], where the channels lie. others:
    [vectors, d] float32, the sub-vectors of all other blocks. scale: that unit. weights: how many the child has.
    """

    x: np.ndarray
    slots: np.ndarray
    others: np.ndarray
    b: int
    scale: float
    weights: int

    @property
    def count(self) -> int:
        """Sub-vectors of the child."""
        rows, slots, _ = self.x.shape
        return rows * (slots // self.b) + len(self.others)


def blocks_of(children: Sequence[Child]) -> list[Blocks]:
    """Of each child in which the order of channels matters. `LeafError` if children differ in the number of channels,
    or one is too large.
    """
    if not children:
        raise LeafError("no children to order the channels for")
    sizes = {len(child.places) for child in children}
    if len(sizes) > 1:
        raise LeafError(f"children have {sorted(sizes)} channels of the group; expected the same number")
    return [_blocks(child) for child in children if child.matters]


def _blocks(child: Child) -> Blocks:
    w = child.x.shape[2]
    b = child.per_block
    pieces = child.vectors().astype(np.float64)
    # Zeros that fill up the last block are data like all others: the codebook has to code them.
    mean = pieces.mean()
    scale = float(np.sqrt(np.mean(np.square(pieces - mean)))) or 1.0
    pieces = ((pieces - mean) / scale).astype(np.float32)
    of, position = np.divmod(child.places, b)
    columns = _columns(of, position)
    if columns is None:
        used = np.unique(of)
        slots = np.searchsorted(used, of) * b + position
        x = pieces[:, used]
    else:  # all columns are cut alike, so each is one more set of rows
        used, labels = columns
        slots = (labels * b + position[:, 0])[:, None]
        x = pieces[:, used].transpose(0, 2, 1, 3).reshape(-1, used.shape[0], b * w)
    if x.shape[1] * b * w > LARGEST:
        raise LeafError(
            f"{child.name}: {x.shape[1]} blocks of {b * w} weights hold channels of the group; their order can be "
            f"searched up to {LARGEST} weights; leave the group or the leaf out"
        )
    rest = np.delete(pieces, used.reshape(-1), axis=1).reshape(-1, b * w)
    return Blocks(x.reshape(len(x), -1, w), slots, rest, b, scale, child.x.size)


def _columns(of: np.ndarray, position: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Blocks [T, m] of each column, in one order, and which of these each channel is in, [G]; None if columns are cut
    at different places or share a block.
    """
    used, labels = [], []
    for column in of.T:
        blocks, first, label = np.unique(column, return_index=True, return_inverse=True)
        by_first = np.argsort(first)
        used.append(blocks[by_first])
        labels.append(np.argsort(by_first)[label])
    alike = all(np.array_equal(label, labels[0]) for label in labels) and (position == position[:, :1]).all()
    if not alike or np.unique(np.concatenate(used)).size != sum(map(len, used)):
        return None
    return np.stack(used, axis=1), labels[0]
