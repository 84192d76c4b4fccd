"""Which channels of which arrays must change together, and what that allows."""

import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from quantree.errors import ConfigError, nearest

Role = Literal["producer", "consumer", "per-channel"]
"""What an array does with the channels: it makes them (the outputs of a kernel), sums over them (its inputs), or has a
number for each (bias, norm, depthwise kernel)."""


@dataclass(frozen=True, eq=False)
class Member:
    """Where the channels of a group lie along one axis of one array.

    path: of a parameter or, if `state`, of an array of the state. places: [channels, m] int64, indices along `axis`; a
    channel lies at m places where a flattened image has it once per pixel. Column j of all channels belongs together:
    a channel that takes another's place takes it in every column.
    """

    path: str
    axis: int
    places: np.ndarray
    role: Role
    state: bool = False


@dataclass(frozen=True, eq=False)
class Group:
    """Channels that may change places with each other, if their members all do it alike.

    name: what first makes the channels, such as `layer1/0/conv1`, or an axis, `w1:1`; with `#1`, `#2` behind it if
    there are several such groups. fixed: why nothing may move (an input, an output, an operation that tells channels
    apart by their place); None if channels may be permuted. tied: why their number may not change either (a shortcut
    that is padded to a fixed width, a mean over channels); None if they may be merged and removed.
    """

    name: str
    members: tuple[Member, ...]
    fixed: str | None = None
    tied: str | None = None

    @property
    def size(self) -> int:
        """Number of channels."""
        return len(self.members[0].places)

    def having(self, role: Role) -> tuple[Member, ...]:
        """Its members of one role, in the order of the tree."""
        return tuple(member for member in self.members if member.role == role)


def named(patterns: Iterable[str], groups: Iterable[Group]) -> list[Group]:
    """Groups whose names fit any of the shell-style patterns, in their order; `ConfigError` if a pattern fits none."""
    known = {group.name: group for group in groups}
    offered = [name for name, group in known.items() if group.fixed is None] or list(known)
    found: set[str] = set()
    for pattern in patterns:
        fits = fnmatch.filter(known, pattern)
        if not fits:
            raise ConfigError(f"pattern {pattern!r} matches no group; {nearest(pattern, offered)}", pattern)
        found.update(fits)
    return [group for name, group in known.items() if name in found]


def allowed(pattern: str, reasons: Mapping[str, str | None], refusal: str) -> set[str]:
    """Which of the groups that fit a pattern (name -> reason against it, or None) a stage takes.

    A pattern stands for those that have no reason against them; a name for the one that it says. So `ConfigError`, with
    the reason, if a group is refused that is named, or if all are.
    """
    free = {name for name, reason in reasons.items() if reason is None}
    refused = next((name for name in reasons if name not in free and (not free or name == pattern)), None)
    if refused is not None:
        raise ConfigError(f"{refused}: {refusal}: {reasons[refused]}", pattern)
    return free
