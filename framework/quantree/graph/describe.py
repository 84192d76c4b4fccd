"""The groups of a network as a table."""

import textwrap
from collections import defaultdict
from collections.abc import Iterable, Sequence

from quantree.graph.gather import LONE
from quantree.graph.groups import Group, Member, Role

_WIDTH = 110
_MOST = 12  # axes that are fixed for the same reason and named
_ROLES: dict[Role, str] = {"producer": "made by", "per-channel": "with", "consumer": "summed by"}


def describe(groups: Sequence[Group]) -> str:
    """Free groups with what makes them, goes along, and sums over them; then what is fixed, by reason."""
    lines = []
    for group in (group for group in groups if group.fixed is None):
        lines.append(f"{group.name}: {group.size} channels, {_may(group)}")
        for role, word in _ROLES.items():
            lines += _wrapped(f"{word:<10}", _places(group.having(role)))
    reasons: dict[str, list[str]] = defaultdict(list)
    moving = {(member.path, member.axis) for group in groups if group.fixed is None for member in group.members}
    for group in (group for group in groups if group.fixed is not None):
        assert group.fixed is not None
        # Pixels of a flattened axis that holds free channels are told already.
        axes = ((member.path, member.axis) for member in group.members)
        shown = (axis for axis in axes if group.fixed != LONE or axis not in moving)
        reasons[group.fixed] += (f"{path}[{axis}]" for path, axis in shown)
    if any(reasons.values()):
        lines.append("fixed:")
        for reason, places in reasons.items():
            shown = list(dict.fromkeys(places))
            if len(shown) > _MOST:
                shown = [*shown[:_MOST], f"and {len(shown) - _MOST} more"]
            lines += _wrapped(f"{reason}: ", shown)
    return "\n".join(lines)


def _may(group: Group) -> str:
    return "may be permuted, merged, removed" if group.tied is None else f"may be permuted only: {group.tied}"


def _places(members: Iterable[Member]) -> list[str]:
    """`bn1/scale|bias|mean[0]`: arrays of one layer that hold the channels along the same axis, together."""
    together: dict[tuple[str, int, int], list[str]] = defaultdict(list)
    for member in members:
        layer, _, name = member.path.rpartition("/")
        together[layer, member.axis, member.places.shape[1]].append(name)
    return [
        f"{layer}/{'|'.join(names)}[{axis}]".removeprefix("/") + (f" ({times} places each)" if times > 1 else "")
        for (layer, axis, times), names in together.items()
    ]


def _wrapped(label: str, words: Iterable[str]) -> list[str]:
    text = ", ".join(words)
    return textwrap.wrap(label + text, _WIDTH, initial_indent="    ", subsequent_indent=" " * 14) if text else []
