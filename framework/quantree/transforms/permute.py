"""Channels in the order in which product quantization loses least; the network computes the same."""

import fnmatch
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, ClassVar, Literal, NamedTuple

import jax
import numpy as np
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from quantree.clustering.threads import side_by_side
from quantree.encodings import Compressed, Encoding, KernelSlices, Pruned, Raw, match
from quantree.errors import ConfigError, LeafError
from quantree.graph import Graph, Group, Member, allowed, coupled, named, reorder
from quantree.ordering import Child, by_covariance, by_distortion
from quantree.registry import register
from quantree.stage import Context, Patterns, Transform, is_float_leaf
from quantree.transforms.same_function import assert_same, change

Length = Annotated[int, Field(ge=1)]
_REFUSAL = "there is no better order of its channels"


@register("permute")
class Permute(Transform):
    """Permutation of Martinez et al. (Permute, Quantize, and Fine-tune, CVPR 2021, arXiv 2010.15703, section 3.1).

    A sub-vector holds neighbouring channels, and which are neighbours is free: channels of a group change places in all
    arrays that have them (`quantree.graph` reads off the network which these are), so that sub-vectors of the arrays
    that are cut along them are coded with less loss. `d` and `along` are what `quantize` will be told in its blocking,
    `sub_vectors`. Put it right before that stage; pruned leaves are moved with their zeros.

    objective: `covariance` is that of the paper, the log determinant of the covariance of the sub-vectors, by which
    the distortion of a Gaussian goes. `distortion` goes on from there with what k-means itself loses, k centroids to a
    leaf; it takes far longer for little more. Several leaves that are cut along one group count by their numbers of
    weights (`children: all`), or only the first counts, as in the paper. A group whose objective would not fall keeps
    its order.

    A search ends after `steps` steps, each of up to 8192 swaps, or earlier where 8 steps in a row find nothing;
    `distortion` adds as many steps of its own.

    With data, outputs on one validation batch are compared before and after; a difference is a `QuantreeError` that
    names the group. `ConfigError` if a pattern fits nothing or a group that can't be moved, or if no order changes
    what shares a sub-vector, as with one kernel each. `LeafError` if a leaf is quantized already, holds NaN, or if d
    would cut the weights of one channel (a kernel) in two.
    """

    rearranges: ClassVar[bool] = True
    example: ClassVar = {"d": 4}

    match: Patterns | None = Field(
        default=None,
        description="groups to take, such as layer1/*/conv1; default: all whose channels may be moved, and for which "
        "their order matters",
    )
    d: Length | dict[str, Length] = Field(
        description="length of a sub-vector, in weights: one number for all leaves, or pattern of leaves -> number "
        "(first match wins; other leaves don't count)"
    )
    slices: int | None = Field(
        default=None,
        ge=1,
        description="kernel slices in a sub-vector of kernels larger than 1 x 1, for blocking `kernel_slices`; default:"
        " they have d weights too, as in `sub_vectors`",
    )
    along: Literal["inputs", "outputs"] = Field(default="inputs", description="the axis that a sub-vector runs along")
    objective: Literal["covariance", "distortion"] = Field(
        default="covariance", description="what is made small: that of a Gaussian, or the error of k-means"
    )
    k: int | None = Field(default=None, ge=1, description="centroids of a leaf, for `distortion`")
    children: Literal["all", "first"] = Field(
        default="all", description="whether all leaves that are cut along a group count, or the first"
    )
    steps: int = Field(default=300, ge=1, le=1_000_000, description="steps of a search")
    chains: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="searches of a group from different starts, of which the best counts; default: 8 up to 128 "
        "channels, else 1",
    )

    @model_validator(mode="after")
    def _one_objective(self) -> "Permute":
        key = reason = None
        if (self.k is None) == (self.objective == "distortion"):
            key, reason = "k", "`distortion` needs k" if self.k is None else "only `distortion` has k"
        elif self.slices is not None and self.along == "outputs":
            key, reason = "slices", "kernel slices are side by side along the inputs"
        if reason is not None:
            raise PydanticCustomError("combination", "{reason}", {"reason": reason, "key": key})
        return self

    def check(self, leaves: Mapping[str, Encoding]) -> None:
        if isinstance(self.d, dict):
            match(self.d, leaves)

    def check_channels(self, graph: Callable[[], Graph]) -> None:
        for pattern in self.match or ():
            allowed(pattern, {group.name: group.fixed for group in named((pattern,), graph().groups)}, _REFUSAL)

    def run(self, compressed: Compressed, context: Context) -> Compressed:
        graph = coupled(compressed, context, self.name)
        groups = self._groups(graph, compressed)
        numbers = {group.name: number for number, group in enumerate(graph.groups)}
        after, moves = compressed, list[_Move]()
        for apart in _rounds(groups):
            # What one of them does changes nothing that another looks at.
            tasks = [(self._children(group, after), numbers[group.name]) for group in apart]
            with side_by_side() as run:
                orders = list(run(lambda task: self._order(task[0], jax.random.fold_in(context.key, task[1])), tasks))
            new = [_Move(*each) for each in zip(apart, orders, strict=True) if (np.diff(each[1]) != 1).any()]
            after, moves = _moved(after, new), moves + new
        _assert_same(compressed, after, moves, context)
        return after

    def _groups(self, graph: Graph, compressed: Compressed) -> list[Group]:
        """Groups to take. `ConfigError` says why there are none."""
        if self.match is None:
            taken = [group for group in graph.free if self._children(group, compressed)]
            if not taken:
                reasons = [self._reason(group, compressed) for group in graph.free]
                told = f": {reasons[0]}" if reasons else "; `quantree.graph` tells why none can be moved"
                raise ConfigError(f"the network has no group of channels whose order matters{told}")
            return taken
        found = set[str]()
        for pattern in self.match:
            fits = named((pattern,), graph.groups)
            reasons = {group.name: group.fixed or self._pointless(group, compressed) for group in fits}
            found |= allowed(pattern, reasons, _REFUSAL)
        return [group for group in graph.groups if group.name in found]

    def _pointless(self, group: Group, compressed: Compressed) -> str | None:
        return None if self._children(group, compressed) else self._reason(group, compressed)

    def _children(self, group: Group, compressed: Compressed) -> list[Child]:
        """Leaves that count, in which the order of the group matters."""
        found = [child for child in self._readers(group, compressed) if child.matters]
        return found[:1] if self.children == "first" else found

    def _reason(self, group: Group, compressed: Compressed) -> str:
        """Why no order of the group matters."""
        child = next(iter(self._readers(group, compressed)), None)
        if child is None:
            return f"no leaf that counts is cut along it, along {self.along}"
        if child.per_block == 1:
            return (
                f"{child.name} has sub-vectors of {child.d} weights, and a channel has {child.x.shape[2]} side by "
                "side, so no two channels share one"
            )
        return f"a row of {child.name} is one sub-vector"

    def _readers(self, group: Group, compressed: Compressed) -> list[Child]:
        """Every leaf that is cut along the group, read as `SubVectors` does."""
        role, back = ("consumer", 2) if self.along == "inputs" else ("producer", 1)
        found = []
        for member in group.having(role):
            leaf = compressed.leaves.get(member.path)
            d = None if leaf is None else self._length(member.path, leaf.shape)
            if leaf is None or member.state or d is None or not is_float_leaf(leaf) or len(leaf.shape) < 2:
                continue
            if member.axis == len(leaf.shape) - back:
                found.append(_child(leaf, member, d, self.along))
        return found

    def _length(self, path: str, shape: tuple[int, ...]) -> int | None:
        d = self.d
        if isinstance(d, dict):
            d = next((each for pattern, each in d.items() if fnmatch.fnmatchcase(path, pattern)), None)
        if d is None or self.slices is None:
            return d
        return KernelSlices(d=d, slices=self.slices).length(shape)

    def _order(self, children: Sequence[Child], key: jax.Array) -> np.ndarray:
        first, second = jax.random.split(key)
        found = by_covariance(children, key=first, steps=self.steps, chains=self.chains)
        if self.k is not None:
            found = by_distortion(children, self.k, key=second, steps=self.steps, start=found.order)
        return found.order


class _Move(NamedTuple):
    group: Group
    order: np.ndarray


def _child(leaf: Encoding, member: Member, d: int, along: str) -> Child:
    if not isinstance(leaf, Raw | Pruned):
        raise LeafError(f"{member.path}: it is {leaf.name} already; put `permute` before the stage that made it so")
    x = np.moveaxis(np.asarray(leaf.decode({})).astype(np.float32), (-1, -2), (0, 1))  # [outputs, channels, ..]
    outputs, channels = x.shape[:2]
    x = x.reshape(outputs, channels, -1) if along == "inputs" else x.reshape(outputs, -1).T[..., None]
    return Child(x, member.places, d, member.path)


def _rounds(groups: Sequence[Group]) -> list[list[Group]]:
    """Groups in their order, cut wherever one lies along an axis of an array that has channels of one before it."""
    rounds, axes = [], set[tuple[str, int]]()
    for group in groups:
        own = {(member.path, member.axis) for member in group.members}
        if not rounds or own & axes:
            rounds.append([])
            axes.clear()
        rounds[-1].append(group)
        axes |= own
    return rounds


def _moved(compressed: Compressed, moves: Sequence[_Move]) -> Compressed:
    return functools.reduce(lambda net, move: reorder(net, *move), moves, compressed)


def _assert_same(before: Compressed, after: Compressed, moves: Sequence[_Move], context: Context) -> None:
    """`QuantreeError` that names the group whose move changes what the network computes."""
    found = change(before, after, context)
    if found is None or found.small:
        return
    for move in moves:
        assert_same(before, _moved(before, [move]), context, f"{move.group.name}: the network in another order")
    assert_same(before, after, context, "the network with all its channels in another order")
