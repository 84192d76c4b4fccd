"""Sharing bytes among leaves: arrays in, indices out.

Each leaf can be stored in several ways, each a number of bytes and a distortion. The sum of distortions is least for a
given sum of bytes where all leaves stand at the same slope of their lower convex hulls (Shoham and Gersho 1988): steps
up the hulls are taken in order of what they bring per byte.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


def lower_hull(sizes: Sequence[float] | np.ndarray, distortions: Sequence[float] | np.ndarray) -> np.ndarray:
    """Indices of the points on the lower convex hull, as far as more bytes mean less distortion.

    sizes, distortions: [n], finite. Of the indices the sizes rise and the distortions fall, both strictly; of equal
    points the first counts, and points within an edge are left out.
    """
    x, y = np.asarray(sizes, np.float64), np.asarray(distortions, np.float64)
    hull: list[int] = []
    for i in np.lexsort((np.arange(x.size), y, x)):
        if hull and y[i] >= y[hull[-1]]:
            continue
        while len(hull) > 1:
            a, b = hull[-2:]
            if (y[a] - y[b]) * (x[i] - x[b]) > (y[b] - y[i]) * (x[b] - x[a]):
                break
            hull.pop()
        hull.append(int(i))
    return np.asarray(hull, np.intp)


@dataclass(frozen=True, eq=False)
class Steps:
    """Every step from one point of a hull to the next, of all leaves together, the most profitable first.

    leaf: [m], whose step; steps of one leaf stand in their order. size: int64 [m], the bytes that it costs. slope:
    float64 [m], the distortion that it saves per byte. leaves: how many there are. start: bytes before the first step.
    """

    leaf: np.ndarray
    size: np.ndarray
    slope: np.ndarray
    leaves: int
    start: int

    @classmethod
    def of(cls, sizes: Sequence[np.ndarray], distortions: Sequence[np.ndarray]) -> "Steps":
        """From one hull for each leaf, as `lower_hull` gives them: sizes in whole bytes."""
        gains = [-np.diff(y) / np.diff(x) for x, y in zip(sizes, distortions, strict=True)]
        # Rounding must not turn a hull's steps around.
        slope = np.concatenate([np.minimum.accumulate(gain) for gain in gains])
        leaf = np.repeat(np.arange(len(sizes)), [gain.size for gain in gains])
        size = np.concatenate([np.diff(x) for x in sizes])
        order = np.argsort(-slope, kind="stable")
        return cls(leaf[order], size[order], slope[order], len(sizes), int(sum(x[0] for x in sizes)))

    def __len__(self) -> int:
        return self.leaf.size

    def first(self, count: int) -> np.ndarray:
        """The point of each leaf, an index into its hull, after the `count` most profitable steps."""
        return np.bincount(self.leaf[:count], minlength=self.leaves)

    def within(self, room: int) -> np.ndarray | None:
        """The point of each leaf when all together take at most `room` bytes; None if not even the first ones fit.

        Steps are taken in order until one does not fit; then whatever still fits of those that remain.
        """
        if room < self.start:
            return None
        count = int(np.searchsorted(np.cumsum(self.size), room - self.start, side="right"))
        points = self.first(count)
        left = room - self.start - int(self.size[:count].sum())
        stuck: set[int] = set()
        for leaf, size in zip(self.leaf[count:].tolist(), self.size[count:].tolist(), strict=True):
            if leaf not in stuck and size <= left:
                points[leaf] += 1
                left -= size
            else:
                stuck.add(leaf)
        return points
