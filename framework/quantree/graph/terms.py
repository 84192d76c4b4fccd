"""Identities of channels: terms that are unified, as in a logic program.

Every index of every axis has a term. A *channel* is a term without parts; the index of a flattened axis is a term with
parts, such as (head, feature); what can't move is a *fixed* term, which all indices of an axis may share. Two terms
that meet in an operation are unified, after which they are one.
"""

from collections.abc import Iterable, Iterator

import numpy as np

ALONE = 0  # the term of an axis of size 1, which says nothing
PADDING, PADDED = "padding", "padded"  # marks of channels that a program adds to an axis, and of those it adds them to
Labels = np.ndarray
"""Terms along one axis: int64 [n]."""
Mark = tuple[object, object]
"""What tells channels apart that the leaves don't: an operation, and what it does to them."""


def here() -> Mark:
    """A mark of one operation, unlike any other."""
    return object(), None


class Terms:
    """All terms of one program."""

    def __init__(self) -> None:
        self._parent = np.zeros(1024, np.int64)
        self._count = 0
        self._parts: dict[int, tuple[int, ...]] = {}
        self._made: dict[tuple[int, ...], int] = {}
        self._reasons: dict[int, str] = {}
        self._tied: dict[int, str] = {}
        self._marks: dict[int, frozenset[Mark]] = {}
        self.fixed("it has one channel")

    def fresh(self, n: int, mark: Mark | None = None) -> Labels:
        """New channels. mark: what tells them from those that were made elsewhere."""
        first = self._count
        self._count += n
        if self._count > len(self._parent):
            self._parent = np.resize(self._parent, 2 * self._count)
        labels = np.arange(first, self._count)
        self._parent[first : self._count] = labels
        if mark is not None:
            self.mark(labels, mark)
        return labels

    def fixed(self, reason: str) -> int:
        """A new term that can't move."""
        term = int(self.fresh(1)[0])
        self._reasons[term] = reason
        return term

    def find(self, labels: Labels) -> Labels:
        """What stands for each term by now."""
        roots = self._parent[labels]
        while not np.array_equal(higher := self._parent[roots], roots):
            roots = higher
        return roots

    def resolve(self, term: int) -> tuple[int, ...]:
        """The channels that a term consists of, without those that are fixed."""
        root = self._root(term)
        if root in self._reasons:
            return ()
        parts = self._parts.get(root)
        return (root,) if parts is None else tuple(each for part in parts for each in self.resolve(part))

    def origins(self, labels: Labels) -> Iterator[int]:
        """The terms as they were first named, before any was unified; in place of those with parts, the parts."""
        for term in labels.tolist():
            parts = self._parts.get(term)
            yield from (term,) if parts is None else self.origins(np.asarray(parts))

    def reason(self, term: int) -> tuple[int, str] | None:
        """The fixed term that this one has become, and why; None if something in it may move."""
        root = self._root(term)
        while root in self._parts:
            if self.resolve(root):
                return None
            root = self._root(self._parts[root][0])
        return None if root not in self._reasons else (root, self._reasons[root])

    def tied(self, root: int) -> str | None:
        """Why the number of channels can't change, if it can't."""
        return self._tied.get(root)

    def marks(self, root: int) -> frozenset[Mark]:
        """What tells this channel from others."""
        return self._marks.get(root, frozenset())

    def is_fixed(self, labels: Labels) -> bool:
        """True if nothing along the axis can move."""
        return all(not self.resolve(term) for term in np.unique(self.find(labels)).tolist())

    def unify(self, one: Labels, other: Labels) -> None:
        """Index i of one axis is index i of the other; both are fixed if that can't be."""
        for a, b in zip(one.tolist(), other.tolist(), strict=True):
            if a != b and self._root(a) != self._root(b) and not self._unify(a, b):
                self.fix(np.concatenate([one, other]), "two axes that meet are flattened in different ways")
                return

    def fix(self, labels: Labels, reason: str) -> None:
        """Nothing along this axis may move."""
        self._fix(labels, self.fixed(reason))

    def tie(self, labels: Labels, reason: str) -> None:
        """The number of these channels can't change."""
        for root in self._channels(labels):
            self._tied.setdefault(root, reason)

    def mark(self, labels: Labels, mark: Mark) -> None:
        """Tells these channels from all others."""
        for root in self._channels(labels):
            self._marks[root] = self._marks.get(root, frozenset()) | {mark}

    def product(self, axes: Iterable[Labels]) -> Labels:
        """The axis that several become when they are flattened, the last running fastest."""
        axes = list(axes)
        moving = [not self.is_fixed(labels) for labels in axes]
        grids = np.meshgrid(*axes, indexing="ij")
        if sum(moving) <= 1:
            return grids[moving.index(True) if any(moving) else 0].reshape(-1)
        rows = np.stack([grid.reshape(-1) for grid in grids], axis=1)
        return np.asarray([self._pair(tuple(row)) for row in rows.tolist()])

    def factors(self, labels: Labels, sizes: tuple[int, ...]) -> list[Labels] | None:
        """The inverse of `product`: an axis as several of these sizes. None if its channels are mixed up otherwise."""
        found = [self.resolve(term) for term in labels.tolist()]
        unbound = len(set(found)) == len(found) and all(len(each) == 1 for each in found)
        axes: list[list[Labels]] = [[] for _ in sizes]
        arity = {len(each) for each in found}
        if len(arity) != 1:
            return None
        for part in range(arity.pop()):
            grid = np.asarray([each[part] for each in found]).reshape(sizes)
            for axis in range(len(sizes)):
                along = np.moveaxis(grid, axis, 0).reshape(sizes[axis], -1)
                if (along == along[:, :1]).all():
                    axes[axis].append(along[:, 0])
                    break
            else:
                if not unbound:
                    return None
                own = [self.fresh(size) for size in sizes]
                self.unify(labels, self.product(own))
                self.tie(labels, "they are split into axes of fixed sizes")
                return own
        still = self.fixed("the program splits an axis here")
        return [
            np.full(size, still)
            if not parts
            else parts[0]
            if len(parts) == 1
            else np.asarray([self._pair(row) for row in zip(*(part.tolist() for part in parts), strict=True)])
            for size, parts in zip(sizes, axes, strict=True)
        ]

    def _pair(self, terms: tuple[int, ...]) -> int:
        """The term of an index that lies at these along several axes."""
        moving = tuple(term for term in terms if self.resolve(term))
        if len(moving) <= 1:
            return moving[0] if moving else terms[0]
        if moving not in self._made:
            self._made[moving] = int(self.fresh(1)[0])
            self._parts[self._made[moving]] = moving
        return self._made[moving]

    def _root(self, term: int) -> int:
        parent = self._parent
        while (higher := int(parent[term])) != term:
            parent[term] = parent[higher]
            term = higher
        return term

    def _channels(self, labels: Labels) -> Iterator[int]:
        for term in np.unique(labels).tolist():
            yield from self.resolve(term)

    def _unify(self, one: int, other: int) -> bool:
        """Makes two terms one; False if their parts don't fit."""
        parts = self.resolve(one), self.resolve(other)
        if not all(parts):
            found = self.reason(other if parts[0] else one)
            assert found is not None
            self._fix(np.asarray(parts[0] + parts[1], np.int64), found[0])
        elif len(parts[0]) == len(parts[1]):
            for a, b in zip(*parts, strict=True):
                self._join(a, b)
        else:
            (single, *rest), many = sorted(parts, key=len)
            if rest or single in many:
                return False
            self._join(single, self._pair(many))
        return True

    def _join(self, channel: int, other: int) -> None:
        """A channel becomes another, or what has several parts."""
        channel, other = self._root(channel), self._root(other)
        if channel == other:
            return
        self._parent[channel] = other
        tied, marks = self._tied.pop(channel, None), self._marks.pop(channel, frozenset())
        if tied is not None:
            self.tie(np.asarray([other]), tied)
        for mark in marks:
            self.mark(np.asarray([other]), mark)

    def _fix(self, labels: Labels, term: int) -> None:
        for root in list(self._channels(labels)):
            if root != self._root(term):
                self._join(root, term)
