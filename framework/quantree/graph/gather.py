"""From a program that has been read to its groups: channels that lie alike in every leaf may change places."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from quantree.graph.groups import Group, Member, Role
from quantree.graph.terms import PADDED, PADDING, Labels, Terms
from quantree.graph.walk import Contraction, Walk

_BOTH = "an array makes them and sums over them along one axis"
LONE = "no other channel has its place in the same arrays"


@dataclass(frozen=True, eq=False)
class Slot:
    """One axis of one leaf, and the terms along it."""

    path: str
    axis: int
    state: bool
    labels: Labels


@dataclass(frozen=True, eq=False)
class Tap:
    """Where activations of a group enter a contraction: operand of a site, its axis, places [channels, m] there."""

    site: int
    operand: int
    axis: int
    places: np.ndarray


@dataclass
class _Draft:
    """A group before it has a name. places: number of the slot -> [channels, m]; roots: the channels."""

    places: dict[int, np.ndarray]
    roots: frozenset[int]
    fixed: str | None
    tied: str | None


def gathered(walk: Walk, slots: Sequence[Slot]) -> tuple[tuple[Group, ...], dict[str, tuple[Tap, ...]]]:
    """The groups of a program whose leaves have these axes, and where the activations of each can be watched."""
    terms = walk.terms
    for slot in slots:
        if slot.path not in walk.first_use:
            terms.fix(slot.labels, "nothing in the network reads it")
        for term in slot.labels.tolist():
            parts = terms.resolve(term)
            if len(set(parts)) < len(parts):
                terms.fix(np.asarray(parts), "an axis holds pairs of the same channels")
    for root in {root for slot in slots for term in slot.labels.tolist() for root in terms.resolve(term)}:
        pads = Counter(mark[0] for mark in terms.marks(root) if mark[1] in (PADDING, PADDED))
        if any(count > 1 for count in pads.values()):
            terms.fix(np.asarray([root]), "channels of an axis meet what it is padded with")
    roles = _Roles(walk.contractions, terms)
    order = _program_order(walk)
    groups = []
    for draft in (*_moving(terms, slots), *_fixed(terms, slots)):
        members = [
            (Member(slot.path, slot.axis, places, role, slot.state), both)
            for slot, places in ((slots[number], places) for number, places in draft.places.items())
            for role, both in (roles.of(slot, draft.roots),)
        ]
        tied = draft.tied or (_BOTH if any(both for _, both in members) else None)
        along = sorted((member for member, _ in members), key=lambda member: _rank(member, order))
        groups.append((Group("", tuple(along), draft.fixed, tied), draft.roots))
    groups.sort(key=lambda pair: (_rank(pair[0].members[0], order), int(pair[0].members[0].places.min())))
    named = _named([group for group, _ in groups])
    taps = {group.name: roles.taps(roots) for group, (_, roots) in zip(named, groups, strict=True) if roots}
    return tuple(named), taps


def _moving(terms: Terms, slots: Sequence[Slot]) -> list[_Draft]:
    """Channels with the same places: in the same axes, beside the same others, with the same marks."""
    found = _where(terms, [slot.labels for slot in slots])
    alike: dict[Any, list[int]] = defaultdict(list)
    for root, places in found.items():
        alike[tuple((number, rest) for number, rest, _ in places), terms.marks(root)].append(root)
    drafts = []
    for (signature, _), roots in alike.items():
        roots.sort(key=lambda root: found[root][0][2])
        places = {
            number: np.asarray([[place for i, _, place in found[root] if i == number] for root in roots])
            for number in dict.fromkeys(number for number, _ in signature)
        }
        tied = next((reason for root in roots if (reason := terms.tied(root))), None)
        drafts.append(_Draft(places, frozenset(roots), LONE if len(roots) == 1 else None, tied))
    return drafts


def _where(terms: Terms, axes: Sequence[Labels]) -> dict[int, list[tuple[int, tuple[int, ...], int]]]:
    """Channel -> where it lies: (number of the axis, what else lies at that index, index), sorted."""
    found: dict[int, list[tuple[int, tuple[int, ...], int]]] = defaultdict(list)
    for number, labels in enumerate(axes):
        for place, term in enumerate(labels.tolist()):
            parts = terms.resolve(term)
            for i, root in enumerate(parts):
                found[root].append((number, (*parts[:i], -1, *parts[i + 1 :]), place))
    return {root: sorted(places) for root, places in found.items()}


def _fixed(terms: Terms, slots: Sequence[Slot]) -> list[_Draft]:
    found: dict[int, tuple[str, dict[int, list[int]]]] = {}
    for number, slot in enumerate(slots):
        for place, term in enumerate(slot.labels.tolist()):
            why = terms.reason(term)
            if why is not None:
                found.setdefault(why[0], (why[1], defaultdict(list)))[1][number].append(place)
    return [
        _Draft({number: np.asarray(along)[:, None] for number, along in places.items()}, frozenset(), reason, reason)
        for reason, places in found.values()
    ]


class _Roles:
    """What leaves do with channels, from the contractions in which they took part."""

    def __init__(self, contractions: Sequence[Contraction], terms: Terms) -> None:
        self._terms, self._contractions = terms, contractions
        self._named = [tuple(self._names(axes) for axes in (each.summed, each.free)) for each in contractions]
        self._roots = [tuple(self._channels(axes) for axes in (each.summed, each.free)) for each in contractions]

    def of(self, slot: Slot, roots: frozenset[int]) -> tuple[Role, bool]:
        """What the leaf does with these channels along this axis; True if it both makes them and sums over them."""
        mine = set(slot.labels.tolist())
        # The leaf's own names tell its axes apart, even where they hold the same channels (a recurrent kernel).
        for known, wanted in ((self._named, mine), (self._roots, roots)):
            found = {
                place
                for each, names in zip(self._contractions, known, strict=True)
                if slot.path in each.weights
                for place in (0, 1)
                if not names[place].isdisjoint(wanted)
            }
            if found:
                return ("producer" if 1 in found else "consumer"), len(found) > 1
        return "per-channel", False

    def taps(self, roots: frozenset[int]) -> tuple[Tap, ...]:
        """Where the activations of these channels enter contractions."""
        taps = []
        for each, (summed, _) in zip(self._contractions, self._roots, strict=True):
            if each.site is None or not roots <= summed:
                continue
            for axis, labels in enumerate(each.activations.axes):
                where = _where(self._terms, [labels])
                if roots <= where.keys():
                    order = sorted(roots, key=lambda root: where[root][0][2])
                    places = [[place for _, _, place in where[root]] for root in order]
                    if len({len(row) for row in places}) == 1:
                        taps.append(Tap(each.site, each.operand, axis, np.asarray(places)))
                        break
        return tuple(taps)

    def _names(self, axes: Iterable[Labels]) -> set[int]:
        return {term for labels in axes for term in self._terms.origins(labels)}

    def _channels(self, axes: Iterable[Labels]) -> set[int]:
        return {root for labels in axes for term in labels.tolist() for root in self._terms.resolve(term)}


def _program_order(walk: Walk) -> dict[str, int]:
    """Path -> rank: contracted weights in the order of the program, then whatever else it uses."""
    contracted = [path for each in walk.contractions for path in sorted(each.weights)]
    others = sorted(walk.first_use, key=walk.first_use.__getitem__)
    return {path: rank for rank, path in enumerate(dict.fromkeys([*contracted, *others]))}


def _rank(member: Member, order: dict[str, int]) -> tuple[int, int, str, int]:
    roles: dict[Role, int] = {"producer": 0, "per-channel": 1, "consumer": 2}
    return roles[member.role], order.get(member.path, len(order)), member.path, member.axis


def _named(groups: Sequence[Group]) -> list[Group]:
    """Groups under the names of what first makes their channels; numbered where it makes several."""
    made = {_name(group) for group in groups if group.fixed is None}
    names = [_place(group) if group.fixed and _name(group) in made else _name(group) for group in groups]
    count, seen = Counter(names), Counter[str]()
    found = []
    for group, name in zip(groups, names, strict=True):
        seen[name] += 1
        found.append(replace(group, name=f"{name}#{seen[name]}" if count[name] > 1 else name))
    return found


def _name(group: Group) -> str:
    first = group.members[0]
    is_kernel = first.role == "producer" and "/" in first.path
    return first.path.rpartition("/")[0] if is_kernel else _place(group)


def _place(group: Group) -> str:
    return f"{group.members[0].path}:{group.members[0].axis}"
