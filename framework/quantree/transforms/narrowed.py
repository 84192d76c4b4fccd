"""What transforms that merge or remove channels have in common: the groups that they take, and the narrower network."""

import dataclasses
import fnmatch
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Annotated

import jax
import numpy as np
from pydantic import Field

from quantree.encodings import Compressed
from quantree.errors import ConfigError, DataError, QuantreeError
from quantree.graph import Graph, Group, allowed, named, shrink
from quantree.model import unflatten
from quantree.stage import Context, Patterns

Share = Annotated[float, Field(gt=0, le=1)]
Shares = Annotated[dict[str, Share], Field(min_length=1)]
_TRIED = 2  # examples


def asked(match: Patterns | None, keep: float | dict[str, float] | None) -> Sequence[str] | None:
    """The patterns of groups that a stage was given: those of `keep`, if it has any; None: it names none."""
    return tuple(keep) if isinstance(keep, dict) else match


def channels_left(keep: float | dict[str, float], group: Group) -> int:
    """How many channels of a group stay, at least one, by a share or that of the first pattern that fits its name."""
    if isinstance(keep, dict):
        keep = next(value for pattern, value in keep.items() if fnmatch.fnmatchcase(group.name, pattern))
    return max(1, round(keep * group.size))


def shrinkable(graph: Graph, patterns: Sequence[str] | None, done: str) -> list[Group]:
    """Groups that fit the patterns and whose channels may go, or all such; done: what is done to them, like "removed".

    `ConfigError` if a pattern fits none of them, or is the name of another; it says why.
    """
    if patterns is None:
        if not graph.shrinkable:
            raise ConfigError(f"the network has no group whose channels can be {done}; `quantree.graph` tells why")
        return list(graph.shrinkable)
    taken = set[str]()
    for pattern in patterns:
        reasons = {group.name: group.fixed or group.tied for group in named((pattern,), graph.groups)}
        taken |= allowed(pattern, reasons, f"its channels can't be {done}")
    return [group for group in graph.groups if group.name in taken]


def parameters(compressed: Compressed, groups: Sequence[Group], widths: Mapping[str, int]) -> int:
    """Number of parameters, pruned ones too, once these groups have so many channels left (name -> width)."""
    shapes = {path: list(leaf.shape) for path, leaf in compressed.leaves.items()}
    for group in groups:
        for member in group.members:
            if not member.state:
                shapes[member.path][member.axis] -= (group.size - widths[group.name]) * member.places.shape[1]
    return sum(int(np.prod(shape, dtype=np.int64)) for shape in shapes.values())


def without_others(compressed: Compressed, groups: Sequence[Group], kept: Mapping[str, np.ndarray]) -> Compressed:
    """Without the channels that are not kept (group name -> ascending channels). Two groups may lie along one axis, and
    the first takes places away.
    """
    gone: dict[tuple[str, int, bool], np.ndarray] = defaultdict(lambda: np.zeros(0, np.int64))
    for group in groups:
        out = np.setdiff1d(np.arange(group.size), kept[group.name])
        members = []
        for member in group.members:
            before = gone[member.path, member.axis, member.state]
            members.append(dataclasses.replace(member, places=member.places - np.searchsorted(before, member.places)))
            gone[member.path, member.axis, member.state] = np.sort([*before, *member.places[out].ravel()])
        compressed = shrink(compressed, dataclasses.replace(group, members=tuple(members)), kept[group.name])
    return compressed


def assert_runs(compressed: Compressed, context: Context, what: str) -> None:
    """`QuantreeError` if the network's function fails on the shapes that its arrays have now.

    Layers of Flax take the widths of their arrays; a function or layer of anyone's own may have a width written into
    it. what: was done, such as "merge: conv1 has 5 channels in place of 20". Computes nothing, and says nothing where
    there is nothing to run: a bare checkpoint, or no data. `DataError` if the validation split is empty.
    """
    apply = context.model.apply
    if apply is None or context.data is None:
        return
    batch = next(iter(context.data.validation(_TRIED)), None)
    if batch is None:
        raise DataError("there is nothing to try the narrower network on: the validation split is empty")
    try:
        jax.eval_shape(lambda net, inputs: apply(net.decode(), unflatten(net.state), inputs), compressed, batch[0])
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), "")
        raise QuantreeError(
            f"{what}, and the network does not run with that: {type(error).__name__}: {reason}. A width may be "
            "written into it where it could be read off an array; or leave these channels out of `match`"
        ) from error
