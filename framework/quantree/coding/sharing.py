"""One coding table for several streams, where that is smaller."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from quantree.coding.base import Coded, Coder, Symbols

_OWN = 8  # bits that a table of its own adds to a file's header, about
_LEAST, _SMALL = 1 / 1000, 1 / 64  # parts of a stream's bytes below which its table is not worth the search for another


@dataclass(frozen=True, eq=False)
class _Cluster:
    """Streams with one table; bits: of it and of all payloads, about."""

    members: tuple[int, ...]
    table: bytes
    bits: float


def share(streams: Sequence[Symbols], coded: Sequence[Coded]) -> list[Coded]:
    """The same streams, each coded by itself so far, with one table for those that are alike.

    Streams may share if they have a coder in common: a table that is made for all of them, if they have one alphabet,
    or that of one of them. The first of them, in the order given, keeps the table; the others hold its number among the
    tables, `shared`.
    """
    groups: dict[str, list[int]] = {}
    for i, one in enumerate(coded):
        if one.table and len(one.table) > _LEAST * one.size:
            groups.setdefault(one.coder, []).append(i)
    found = list(coded)
    owner = {i: i for i, one in enumerate(coded) if one.table}
    for name, members in groups.items():
        coder = Coder.named(name)()
        chain = _Chain(coder, streams, coded, members)
        chain.join_neighbours()
        chain.join_the_small()
        for cluster in chain.clusters:
            together = {
                i: replace(coded[i], table=cluster.table, payload=coder.encode(streams[i], cluster.table))
                for i in cluster.members
            }
            size = len(cluster.table) + sum(len(one.payload) for one in together.values())
            if size <= sum(coded[i].size for i in together):  # bits were predictions
                owner |= dict.fromkeys(together, min(together))
                for i, one in together.items():
                    found[i] = one
    numbers = {i: number for number, i in enumerate(sorted(set(owner.values())))}
    return [replace(one, shared=None if owner.get(i, i) == i else numbers[owner[i]]) for i, one in enumerate(found)]


class _Chain:
    """Streams of one coder, by bits per symbol, in clusters that share a table."""

    def __init__(
        self, coder: Coder, streams: Sequence[Symbols], coded: Sequence[Coded], members: Sequence[int]
    ) -> None:
        self.coder, self.streams = coder, streams
        order = sorted(members, key=lambda i: (streams[i].entropy / max(1, streams[i].size), i))
        self.clusters = [_Cluster((i,), coded[i].table, 8 * coded[i].size + _OWN) for i in order]

    def under(self, table: bytes, members: tuple[int, ...]) -> _Cluster:
        """These streams with this table."""
        bits = sum(self.coder.cost(self.streams[i], table) for i in members)
        return _Cluster(members, table, 8 * len(table) + bits + _OWN)

    def joined(self, one: _Cluster, other: _Cluster) -> _Cluster:
        """Both, with a table made for all of them, or that of one of them."""
        members, tables = (*one.members, *other.members), [one.table, other.table]
        if len({self.streams[i].alphabet for i in members}) == 1:
            tables.append(self.coder.table(*(self.streams[i] for i in members)))
        return min((self.under(table, members) for table in tables), key=lambda cluster: cluster.bits)

    def join_neighbours(self) -> None:
        """The pair that saves most first, until none saves anything."""
        chain = self.clusters
        pairs = [self.joined(*pair) for pair in itertools.pairwise(chain)]
        while pairs:
            apart = itertools.pairwise(chain)
            saved = [one.bits + other.bits - pair.bits for (one, other), pair in zip(apart, pairs, strict=True)]
            best = max(range(len(saved)), key=saved.__getitem__)
            if saved[best] <= 0:
                break
            chain[best : best + 2] = [pairs[best]]
            before = max(best - 1, 0)
            pairs[before : best + 2] = [self.joined(*pair) for pair in itertools.pairwise(chain[before : best + 2])]

    def join_the_small(self) -> None:
        """Clusters whose table counts move to that of any other, where that is smaller."""
        for small in sorted(self.clusters, key=lambda cluster: min(cluster.members)):
            if 8 * len(small.table) < _SMALL * small.bits:
                continue
            others = [cluster for cluster in self.clusters if cluster is not small]
            joined = [self.under(other.table, (*other.members, *small.members)) for other in others]
            saved = [small.bits + other.bits - both.bits for other, both in zip(others, joined, strict=True)]
            if saved and max(saved) > 0:
                best = saved.index(max(saved))
                self.clusters = [joined[best], *(other for i, other in enumerate(others) if i != best)]
