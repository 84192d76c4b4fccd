"""Merging neurons and filters that act alike: one does the work of several, with less lost than by taking them away."""

import bisect
import dataclasses
import fnmatch
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from quantree.clustering import agglomerate
from quantree.encodings import Compressed
from quantree.errors import ConfigError, DataError, LeafError
from quantree.graph import Graph, Group, coupled, shrink
from quantree.model import unflatten
from quantree.registry import register
from quantree.stage import Context, Patterns, Transform
from quantree.transforms.effective import filters, means
from quantree.transforms.narrowed import assert_runs, parameters, shrinkable, without_others

Share = Annotated[float, Field(gt=0, le=1)]

_COMPARED = 4096  # samples of each channel whose activations are compared
_REGRESSED = 1 << 16  # samples from which least_squares learns


@register("merge")
class Merge(Transform):
    """Neuron agglomerative clustering (Wang et al. 2020, Sensors 20, 6033): channels that act alike become one.

    Channels of a group are clustered, and each cluster becomes its mean in all that makes the channels, while what sums
    over them gets the sum of their weights; equal channels merge without a change of what the network computes. Which
    arrays a channel belongs to is read off the network (`quantree.graph`); names are those of its groups. Groups follow
    each other in the order of the network, and each sees what the mergers before it have left. Iterative merging is
    merge, finetune, merge, finetune.

    The mean is one of kernels and biases as the layers behind see them: a batch norm that alone follows the one kernel
    of a group is worked in (`effective.means`), and the new statistics are those of the mean. They are not those that
    the new kernel gives, because the mean of several filters varies less than they do: let `batchnorm` follow.

    linkage: `random` draws which channels come together, as many clusters as `ward` would leave. It is there to be
    compared with. compensate: `least_squares` regresses what the old channels gave on what the new ones give, over
    training examples, in place of the sum. For dense layers and 1x1 kernels no other weights come nearer to their old
    outputs; in larger kernels every place is treated alike. It writes into zeros of pruned kernels.

    `ConfigError` if a pattern matches no group, or one whose channels can't be merged, and says why; `LeafError` if an
    array is quantized already or a number is not finite.
    """

    rearranges: ClassVar[bool] = True
    example: ClassVar = {"keep": 0.5}

    match: Patterns | None = Field(
        default=None, description="groups to take, such as layer1/*/conv1; default: all whose channels may be merged"
    )
    features: Literal["activations", "weights"] = Field(
        default="activations",
        description="what makes channels alike: what they give on training examples, or the weights that lead to them",
    )
    linkage: Literal["ward", "average", "random"] = Field(
        default="ward", description="how far two clusters are apart; or clusters drawn at random"
    )
    keep: Share | dict[str, Share] | None = Field(
        default=None, description="share of channels kept in each group: one number, or pattern -> number"
    )
    distance: float | None = Field(
        default=None,
        ge=0,
        description="clusters up to this far apart are merged, in units of the group's spread: the root mean square "
        "distance of its channels from their mean",
    )
    parameters: Share | None = Field(
        default=None, description="share of the model's parameters kept, divided over the groups by what a merger costs"
    )
    compensate: Literal["none", "least_squares"] = Field(
        default="none",
        description="weights that sum over merged channels: the sum, or those nearest to the old outputs",
    )
    examples: int = Field(default=256, ge=2, description="training examples for activations and least_squares")
    ridge: float = Field(
        default=1e-4, gt=0, description="ridge of least_squares, times the mean square of the new activations"
    )

    @model_validator(mode="after")
    def _one_rule(self) -> "Merge":
        key = reason = None
        if [self.keep, self.distance, self.parameters].count(None) != 2:
            key, reason = "keep", "give one of keep, distance and parameters"
        elif isinstance(self.keep, dict) and self.match is not None:
            key, reason = "match", "the patterns of `keep` say which groups to take"
        if reason is not None:
            raise PydanticCustomError("combination", "{reason}", {"reason": reason, "key": key})
        return self

    def run(self, compressed: Compressed, context: Context) -> Compressed:
        graph = coupled(compressed, context, self.name)
        groups = shrinkable(graph, tuple(self.keep) if isinstance(self.keep, dict) else self.match, "merged")
        looks = self.features == "activations" or self.compensate == "least_squares"
        seen = _Seen(graph, *self._examples(context)) if looks else None
        widths = {} if self.parameters is None else self._divided(compressed, groups, seen)
        # Until all is decided merged channels are only cut off from what sums over them: the graph stays true.
        whole, kept = compressed, dict[str, np.ndarray]()
        for number, group in enumerate(groups):
            codes = self._clusters(whole, group, seen, widths.get(group.name), jax.random.fold_in(context.key, number))
            first = np.unique(codes, return_index=True)[1]
            if first.size < group.size:
                whole = self._merged(whole, group, codes, first, seen)
                kept[group.name] = first
        after = without_others(whole, [group for group in groups if group.name in kept], kept)
        changes = ", ".join(
            f"{group.name} {len(kept[group.name])} of {group.size}" for group in groups if group.name in kept
        )
        assert_runs(after, context, f"merge: channels that are left: {changes}")
        return after

    def _examples(self, context: Context) -> tuple[Any, int]:
        """(inputs, seed) of one training batch."""
        seed = int(jax.random.randint(context.key, (), 0, 2**31 - 1))
        batch = next(iter(context.need_data(self.name).train(seed, 0, self.examples)), None)
        if batch is None:
            raise DataError(f"there is no batch of {self.examples} training examples to take activations from")
        return batch[0], seed

    def _features(self, compressed: Compressed, group: Group, seen: "_Seen | None") -> np.ndarray:
        """[channels, n] float64."""
        if self.features == "weights":
            return filters(compressed, group)
        assert seen is not None
        return seen.activations(compressed, group, _COMPARED).T

    def _divided(self, compressed: Compressed, groups: Sequence[Group], seen: "_Seen | None") -> dict[str, int]:
        """How many channels each group keeps, so that the model keeps its share of parameters.

        A merger costs the inertia that it adds, as a share of the group's energy. Those of all groups are done in the
        order of cost per parameter that goes, until enough are gone. One channel of each group stays.
        """
        total, whole = parameters(compressed, [], {}), {group.name: group.size for group in groups}
        costs = []
        for group in groups:
            features = self._features(compressed, group, seen)
            merges = agglomerate(jnp.asarray(features, jnp.float32), k=1, method=self._method).merges
            saved = total - parameters(compressed, groups, {**whole, group.name: group.size - 1})
            costs.append(merges[:, 2] ** 2 / 2 / max(float(np.sum(features**2)), 1e-300) / saved)
        owner = np.repeat(np.arange(len(groups)), [len(cost) for cost in costs])
        owner = owner[np.argsort(np.concatenate(costs), kind="stable")]

        def widths(merged: int) -> dict[str, int]:
            gone = np.bincount(owner[:merged], minlength=len(groups))
            return {group.name: group.size - int(count) for group, count in zip(groups, gone, strict=True)}

        wanted = (self.parameters or 1.0) * total
        merged = bisect.bisect_left(
            range(owner.size), True, key=lambda merged: parameters(compressed, groups, widths(merged)) <= wanted
        )
        left = parameters(compressed, groups, widths(merged))
        if left > wanted:
            raise ConfigError(
                f"with one channel left in each group the model still has {left / total:.4f} of its parameters, more "
                f"than {self.parameters:g}"
            )
        return widths(merged)

    @property
    def _method(self) -> Literal["ward", "average"]:
        return "average" if self.linkage == "average" else "ward"

    def _clusters(
        self, compressed: Compressed, group: Group, seen: "_Seen | None", width: int | None, key: jax.Array
    ) -> np.ndarray:
        """The cluster of each channel, [channels] integers, numbered in the order of their first channels."""
        share = self.keep
        if isinstance(share, dict):
            share = next(value for pattern, value in share.items() if fnmatch.fnmatchcase(group.name, pattern))
        if share is not None:
            width = max(1, round(share * group.size))
        features = self._features(compressed, group, seen)
        if self.distance is not None:
            spread = np.sqrt(np.mean(np.sum((features - features.mean(axis=0)) ** 2, axis=1)))
            features = features / (spread or 1.0)
        points = jnp.asarray(features, jnp.float32)
        codes = np.asarray(agglomerate(points, k=width, distance=self.distance, method=self._method).codes)
        if self.linkage != "random":
            return codes
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        width = int(codes.max()) + 1
        drawn = rng.permutation(np.concatenate([np.arange(width), rng.integers(0, width, group.size - width)]))
        _, first, codes = np.unique(drawn, return_index=True, return_inverse=True)
        return np.argsort(np.argsort(first))[codes]

    def _merged(
        self, compressed: Compressed, group: Group, codes: np.ndarray, first: np.ndarray, seen: "_Seen | None"
    ) -> Compressed:
        """The first channel of each cluster stands for all of it, and nothing sums over the others any more."""
        same = (codes[first][:, None] == codes[None]).astype(np.float64)
        mean, total = np.eye(group.size), np.zeros((group.size, group.size))
        mean[first], total[first] = same / same.sum(axis=1, keepdims=True), same
        after = _averaged(compressed, group, mean, total)
        if self.compensate == "none" or seen is None:
            return after
        old, new = (seen.activations(net, group, _REGRESSED) for net in (compressed, after))
        gram = new[:, first].T @ new[:, first]
        if gram.any():
            ridge = self.ridge * np.trace(gram) / len(first)
            total[first] = np.linalg.solve(gram + ridge * np.eye(len(first)), new[:, first].T @ old)
        return _averaged(compressed, group, mean, total)


@dataclasses.dataclass(frozen=True)
class _Seen:
    """What the consumers of a group see on some training examples."""

    graph: Graph
    inputs: Any
    seed: int

    def activations(self, compressed: Compressed, group: Group, most: int) -> np.ndarray:
        """[samples, channels] float64, the same up to `most` samples each time. `LeafError` if they are not finite."""
        seen = self.graph.activations(compressed.decode(), unflatten(compressed.state), self.inputs, group)
        rows = np.asarray(seen)
        if len(rows) > most:
            rows = rows[np.random.default_rng(self.seed).choice(len(rows), most, replace=False)]
        if not np.isfinite(rows).all():
            raise LeafError(f"{group.name}: activations are NaN or infinite; look at weights and data")
        return rows.astype(np.float64)


def _averaged(compressed: Compressed, group: Group, mean: np.ndarray, total: np.ndarray) -> Compressed:
    """The model of the same shape with means of channels in all that makes them, and `total` in what sums over them."""
    for members, matrix in means(compressed, group, mean):
        part = dataclasses.replace(group, members=members)
        compressed = shrink(compressed, part, np.arange(group.size), matrix, total)
    return compressed
