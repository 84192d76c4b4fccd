"""The groups of a network as a table."""

from collections import defaultdict
from collections.abc import Sequence

from quantree.graph.groups import Group, Role

_ROLES: dict[Role, str] = {"producer": "made by", "per-channel": "with", "consumer": "summed by"}


def describe(groups: Sequence[Group]) -> str:
    """Free groups with what makes them, goes along, and sums over them; then what is fixed, by reason."""
    lines = []
    for group in (group for group in groups if group.fixed is None):
        lines.append(f"{group.name}: {group.size} channels, {_may(group)}")
        for role, word in _ROLES.items():
            members = group.having(role)
            if members:
                lines.append(
                    f"    {word:<9} {', '.join(_member(group, m.path, m.axis, m.places.shape[1]) for m in members)}"
                )
    reasons: dict[str, list[str]] = defaultdict(list)
    for group in (group for group in groups if group.fixed is not None):
        assert group.fixed is not None
        reasons[group.fixed] += (f"{member.path}[{member.axis}]" for member in group.members)
    if reasons:
        lines.append("fixed:")
        lines += [f"    {reason}: {', '.join(dict.fromkeys(places))}" for reason, places in reasons.items()]
    return "\n".join(lines)


def _may(group: Group) -> str:
    return "may be permuted, merged, removed" if group.tied is None else f"may be permuted only: {group.tied}"


def _member(group: Group, path: str, axis: int, times: int) -> str:
    return f"{path}[{axis}]" + (f" ({times} places each)" if times > 1 else "")
