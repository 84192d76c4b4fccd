"""One coding table for several streams, where that is smaller."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from quantree.coding.base import Coded, Coder, Symbols, every_coder
from quantree.errors import LeafError

_OWN = 8  # bits that a table of its own adds to a file's header, about
_NEARLY = 1.1  # payload in one coder over what another takes in all, beyond which a shared table can't make up for it
_LEAST, _SMALL = 1 / 1000, 1 / 64  # parts of a stream's bytes below which its table is not worth the search for another


@dataclass(frozen=True, eq=False)
class _Cluster:
    """Streams with one table; bits: of it and of all payloads, about."""

    members: tuple[int, ...]
    table: bytes
    bits: float


def share(
    streams: Sequence[Symbols], coded: Sequence[Coded], coders: Sequence[Sequence[Coder] | None] | None = None
) -> list[Coded]:
    """The same streams, each coded by itself so far, with one table for those that are alike.

    coders: those that each stream may have (see `smallest`); default: the one that it has. Streams share a table that
    is made for all of them, if they have one alphabet, or that of one of them, where it is smaller than what each takes
    alone, in whatever coder. The first of them, in the order given, keeps the table; the others hold its number among
    the tables, `shared`.
    """
    if coders is None:
        coders = [[Coder.named(one.coder)()] for one in coded]
    found, owner = list(coded), {i: i for i, one in enumerate(coded) if one.table}
    free = set(range(len(coded)))
    for coder, own in _tables(streams, coded, coders):
        chain = _Chain(coder, streams, coded, {i: table for i, table in own.items() if i in free})
        chain.join_neighbours()
        chain.join_the_small()
        assert sum(len(cluster.members) for cluster in chain.clusters) == len(own.keys() & free), "no stream twice"
        for cluster in chain.clusters:
            together = {
                i: Coded(coder.name, cluster.table, coder.encode(streams[i], cluster.table)) for i in cluster.members
            }
            size = len(cluster.table) + sum(len(one.payload) for one in together.values())
            if len(together) > 1 and size <= sum(coded[i].size for i in together):  # bits were predictions
                free -= set(together)
                owner |= dict.fromkeys(together, min(together))
                for i, one in together.items():
                    found[i] = one
    numbers = {i: number for number, i in enumerate(sorted(set(owner.values())))}
    return [replace(one, shared=None if owner.get(i, i) == i else numbers[owner[i]]) for i, one in enumerate(found)]


def _tables(
    streams: Sequence[Symbols], coded: Sequence[Coded], coders: Sequence[Sequence[Coder] | None]
) -> Iterator[tuple[Coder, dict[int, bytes]]]:
    """Each coder with the tables of the streams that it might take: it has to be nearly as small for one alone, and the
    table no trifle. The coder that the most streams have comes first.
    """
    own: dict[str, dict[int, bytes]] = {}
    by_name: dict[str, Coder] = {}
    for i, (symbols, one) in enumerate(zip(streams, coded, strict=True)):
        for coder in every_coder() if coders[i] is None else coders[i] or ():
            table = one.table if coder.name == one.coder else _table(coder, symbols)
            if len(table) <= _LEAST * one.size:
                continue
            if coder.name == one.coder or coder.cost(symbols, table) < _NEARLY * 8 * one.size:
                own.setdefault(coder.name, {})[i] = table
                by_name[coder.name] = coder
    for name in sorted(own, key=lambda name: (-len(own[name]), name)):
        yield by_name[name], own[name]


def _table(coder: Coder, symbols: Symbols) -> bytes:
    try:
        return coder.table(symbols)
    except LeafError:
        return b""


class _Chain:
    """Streams, by bits per symbol, in clusters that share a table of one coder; alone, a stream has what it had."""

    def __init__(
        self, coder: Coder, streams: Sequence[Symbols], coded: Sequence[Coded], tables: Mapping[int, bytes]
    ) -> None:
        self.coder, self.streams = coder, streams
        order = sorted(tables, key=lambda i: (streams[i].entropy / max(1, streams[i].size), i))
        self.clusters = [_Cluster((i,), tables[i], 8 * coded[i].size + _OWN * bool(coded[i].table)) for i in order]

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
            moved_already = not any(cluster is small for cluster in self.clusters)
            if moved_already or 8 * len(small.table) < _SMALL * small.bits:
                continue
            others = [cluster for cluster in self.clusters if cluster is not small]
            joined = [self.under(other.table, (*other.members, *small.members)) for other in others]
            saved = [small.bits + other.bits - both.bits for other, both in zip(others, joined, strict=True)]
            if saved and max(saved) > 0:
                best = saved.index(max(saved))
                self.clusters = [joined[best], *(other for i, other in enumerate(others) if i != best)]
