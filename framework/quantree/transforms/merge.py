"""Merging neurons and filters that act alike: one does the work of several, with less lost than by taking them away."""

import bisect
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from quantree.clustering import Agglomeration, agglomerate
from quantree.encodings import Compressed
from quantree.errors import ConfigError, DataError, LeafError
from quantree.graph import Graph, Group, coupled, shrink
from quantree.model import unflatten
from quantree.registry import register
from quantree.stage import Context, Patterns, Transform
from quantree.transforms.effective import filters, means, rows
from quantree.transforms.narrowed import (
    Share,
    Shares,
    asked,
    assert_runs,
    channels_left,
    parameters,
    shrinkable,
    without_others,
)

_COMPARED = 4096  # samples of each channel whose activations are compared
_REGRESSED = 1 << 16  # samples from which `outgoing` learns
_LEAST = 1e-9  # of the mean weight: what a channel weighs that does nothing


@register("merge")
class Merge(Transform):
    """Neuron agglomerative clustering (Wang et al. 2020, Sensors 20, 6033): channels that act alike become one.

    Channels of a group are clustered, and each cluster becomes its mean in all that makes the channels, while what sums
    over them gets the sum of their weights; equal channels merge without a change of what the network computes (but for
    the ridge of `least_squares`). Which arrays a channel belongs to is read off the network (`quantree.graph`); names
    are those of its groups. Groups follow each other in the order of the network, and each sees what the mergers before
    it have left. Iterative merging is merge, finetune, merge, finetune.

    outgoing: `sum` is that of the paper: channels count alike, and a weak one that meets a strong one halves it.
    `scaled` compares directions only, in which each channel weighs what it brings to the layers behind (the square of
    its size times that of the weights that look at it): in clustering, in the mean, and then in the sum, where its
    weights are multiplied by the factor that brings the new channel nearest to the old one, on training examples. So
    a weak channel costs little, and units of ReLU that differ by a factor are one. `least_squares` takes not one
    factor each but regresses all old channels on all new ones. For dense layers and 1x1 kernels no other weights come
    nearer to their old outputs; in larger kernels every place is treated alike. It writes into zeros of pruned kernels.

    The mean is one of kernels and biases as the layers behind see them: a batch norm that alone follows the one kernel
    of a group is worked in (`effective.means`), and the new statistics are those of the mean. They are not those that
    the new kernel gives, because the mean of several filters varies less than they do: let `batchnorm` follow.

    linkage: `average` looks at distances alone, not at what channels weigh. `random` draws which channels come
    together, as many clusters as `ward` would leave; it is there to be compared with.

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
    keep: Share | Shares | None = Field(
        default=None,
        description="share of channels kept in each group: one number, or pattern -> number (first match wins)",
    )
    distance: float | None = Field(
        default=None,
        ge=0,
        description="clusters up to this far apart are merged, in units of the root mean square size of the group's "
        "channels",
    )
    parameters: Share | None = Field(
        default=None, description="share of the model's parameters kept, divided over the groups by what a merger costs"
    )
    outgoing: Literal["sum", "scaled", "least_squares"] = Field(
        default="scaled", description="how what sums over merged channels takes the new one: see above"
    )
    examples: int = Field(
        default=256, ge=2, description="training examples to look at, unless weights and sum are enough"
    )
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

    def check_channels(self, graph: Callable[[], Graph]) -> None:
        patterns = asked(self.match, self.keep)
        if patterns is not None:
            shrinkable(graph(), patterns, "merged")

    def run(self, compressed: Compressed, context: Context) -> Compressed:
        graph = coupled(compressed, context, self.name)
        groups = shrinkable(graph, asked(self.match, self.keep), "merged")
        looks = self.features == "activations" or self.outgoing != "sum"
        seen = _Seen(graph, *self._examples(context)) if looks else None
        widths = {} if self.parameters is None else self._divided(compressed, groups, seen)
        # Until all is decided merged channels are only cut off from what sums over them: the graph stays true.
        whole, kept = compressed, dict[str, np.ndarray]()
        for number, group in enumerate(groups):
            points, weights = self._points(whole, group, seen)
            left = None if self.keep is None else channels_left(self.keep, group)
            width = widths.get(group.name, left)
            codes = self._clusters(points, weights, width, jax.random.fold_in(context.key, number))
            first = np.unique(codes, return_index=True)[1]
            if first.size < group.size:
                whole = self._merged(whole, group, codes, weights, seen)
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

    def _points(self, compressed: Compressed, group: Group, seen: "_Seen | None") -> tuple[np.ndarray, np.ndarray]:
        """Channels as points, float64 [channels, n], and what each weighs, [channels]. In all, weights times squared
        lengths are the number of channels.
        """
        if self.features == "weights":
            features = filters(compressed, group)
        else:
            assert seen is not None
            features = seen.activations(compressed, group, _COMPARED).T
        sizes = np.linalg.norm(features, axis=1)
        if self.outgoing == "sum":
            return features / (np.sqrt(np.mean(sizes**2)) or 1.0), np.ones(group.size)
        effect = sizes**2 * sum(np.sum(rows(compressed, each) ** 2, axis=1) for each in group.having("consumer"))
        weights = effect / effect.mean() if effect.any() else np.ones(group.size)
        return features / np.where(sizes == 0, 1, sizes)[:, None], np.maximum(weights, _LEAST)

    def _tree(self, points: np.ndarray, weights: np.ndarray, k: int | None) -> Agglomeration:
        plain = self.linkage == "average" or self.outgoing == "sum"
        return agglomerate(
            jnp.asarray(points, jnp.float32),
            k=k,
            distance=self.distance if k is None else None,
            method="average" if self.linkage == "average" else "ward",
            weights=None if plain else weights,
        )

    def _divided(self, compressed: Compressed, groups: Sequence[Group], seen: "_Seen | None") -> dict[str, int]:
        """How many channels each group keeps, so that the model keeps its share of parameters.

        A merger costs the inertia that it adds, as a share of the group's energy. Those of all groups are done in the
        order of cost per parameter that goes, until enough are gone. One channel of each group stays.
        """
        total, whole = parameters(compressed, [], {}), {group.name: group.size for group in groups}
        costs = []
        for group in groups:
            merges = self._tree(*self._points(compressed, group, seen), k=1).merges
            saved = total - parameters(compressed, groups, {**whole, group.name: group.size - 1})
            costs.append(merges[:, 2] ** 2 / 2 / group.size / saved)
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

    def _clusters(self, points: np.ndarray, weights: np.ndarray, width: int | None, key: jax.Array) -> np.ndarray:
        """The cluster of each channel, [channels] integers, numbered in the order of their first channels."""
        codes = np.asarray(self._tree(points, weights, width).codes)
        if self.linkage != "random":
            return codes
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        width = int(codes.max()) + 1
        drawn = rng.permutation(np.concatenate([np.arange(width), rng.integers(0, width, codes.size - width)]))
        _, first, codes = np.unique(drawn, return_index=True, return_inverse=True)
        return np.argsort(np.argsort(first))[codes]

    def _merged(
        self, compressed: Compressed, group: Group, codes: np.ndarray, weights: np.ndarray, seen: "_Seen | None"
    ) -> Compressed:
        """The first channel of each cluster stands for all of it, and nothing sums over the others any more."""
        first = np.unique(codes, return_index=True)[1]
        same = (codes[first][:, None] == codes[None]).astype(np.float64)
        mean, total = np.eye(group.size), np.zeros((group.size, group.size))
        mean[first], total[first] = same * weights / (same @ weights)[:, None], same
        after = _averaged(compressed, group, mean, total)
        if self.outgoing == "sum" or seen is None:
            return after
        old, new = (seen.activations(net, group, _REGRESSED) for net in (compressed, after))
        new = new[:, first]
        products, gram = new.T @ old, new.T @ new
        energy = np.diag(gram)[:, None]
        if self.outgoing == "scaled":
            total[first] *= np.divide(products, energy, out=np.ones_like(products), where=energy > 0)
        elif energy.any():
            total[first] = np.linalg.solve(gram + self.ridge * energy.mean() * np.eye(first.size), products)
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
        samples = np.asarray(seen)
        if len(samples) > most:
            samples = samples[np.random.default_rng(self.seed).choice(len(samples), most, replace=False)]
        if not np.isfinite(samples).all():
            raise LeafError(f"{group.name}: activations are NaN or infinite; look at weights and data")
        return samples.astype(np.float64)


def _averaged(compressed: Compressed, group: Group, mean: np.ndarray, total: np.ndarray) -> Compressed:
    """The model of the same shape with means of channels in all that makes them, and `total` in what sums over them."""
    for members, matrix in means(compressed, group, mean):
        part = dataclasses.replace(group, members=members)
        compressed = shrink(compressed, part, np.arange(group.size), matrix, total)
    return compressed
