"""Removing filters and neurons: whole channels go, with all that belongs to them."""

import itertools
from collections.abc import Callable, Mapping
from typing import ClassVar, Literal

import jax
import numpy as np
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from quantree.encodings import Compressed
from quantree.errors import DataError, LeafError
from quantree.graph import Graph, Group, coupled, shrink
from quantree.model import unflatten
from quantree.registry import register
from quantree.stage import Context, Patterns, Transform
from quantree.task import prefetch
from quantree.transforms.constant_parts import fold_constants
from quantree.transforms.narrowed import Share, Shares, asked, assert_runs, channels_left, shrinkable, without_others
from quantree.transforms.scores import Norm, Score, least, score

_ROWS = 1 << 16  # of activations that one batch gives to the regression


@register("remove")
class Remove(Transform):
    """Takes away the channels that count least, where the network allows it: a smaller dense network is left.

    Which arrays a channel belongs to is read off the network (`quantree.graph`); names are those of its groups. A group
    keeps at least one channel. Groups follow each other in the order of the network, and each sees what the removals
    before it have left, but for `parameters`, which looks at all of them first.

    compensate: `least_squares` regresses the activations of removed channels on those that stay, over some training
    examples, and gives the weights that looked at them to these. For dense layers and 1x1 kernels no other weights come
    nearer to their old outputs (the second step of He et al. 2017, arXiv 1707.06168); in larger kernels every place is
    treated alike. It writes into zeros of pruned kernels. `data_free` moves what a removed channel gives when nothing
    comes in, such as relu(bias), into the bias of the next layers or the running mean of the norm behind them; if that
    takes the outputs further away, as it may where images are so small that a kernel sees their border everywhere, it
    is left out. Channels that a training with `filters` has made small have little more than that to lose.

    `ConfigError` if a pattern matches no group, or one whose channels can't go, and says why; `LeafError` if an array
    is quantized already or a weight is not finite.
    """

    rearranges: ClassVar[bool] = True
    example: ClassVar = {"keep": 0.5}

    match: Patterns | None = Field(
        default=None, description="groups to take, such as layer1/*/conv1; default: all whose channels may go"
    )
    score: Score = Field(
        default="magnitude",
        description="what is compared: the weights that lead to a channel, its scale in the norm behind, or how far "
        "its weights are from those of the others",
    )
    norm: Norm = Field(default="l2", description="norm of weights or scales, and of the distance between weights")
    keep: Share | Shares | None = Field(
        default=None,
        description="share of channels kept in each group: one number, or pattern -> number (first match wins)",
    )
    threshold: float | None = Field(
        default=None, ge=0, lt=1, description="channels up to this share of the group's largest score go, such as 0.01"
    )
    parameters: Share | None = Field(
        default=None, description="share of the model's parameters kept, divided over the groups by score"
    )
    compensate: Literal["none", "data_free", "least_squares"] = Field(
        default="none", description="how the next layers make up for what is gone"
    )
    batches: int = Field(default=4, ge=1, description="training batches for least_squares, if there are so many")
    batch_size: int = Field(default=128, ge=1, description="examples in one of these batches")
    ridge: float = Field(
        default=1e-4, gt=0, description="ridge of least_squares, times the mean square of the kept activations"
    )

    @model_validator(mode="after")
    def _one_rule(self) -> "Remove":
        key = reason = None
        if [self.keep, self.threshold, self.parameters].count(None) != 2:
            key, reason = "keep", "give one of keep, threshold and parameters"
        elif self.threshold is not None and self.score == "geometric_median":
            key, reason = "threshold", "a filter of no weights is not the nearest to the others; use keep or parameters"
        elif isinstance(self.keep, dict) and self.match is not None:
            key, reason = "match", "the patterns of `keep` say which groups to take"
        if reason is not None:
            raise PydanticCustomError("combination", "{reason}", {"reason": reason, "key": key})
        return self

    def check_channels(self, graph: Callable[[], Graph]) -> None:
        patterns = asked(self.match, self.keep)
        if patterns is not None:
            shrinkable(graph(), patterns, "removed")

    def run(self, compressed: Compressed, context: Context) -> Compressed:
        graph = coupled(compressed, context, self.name)
        groups = shrinkable(graph, asked(self.match, self.keep), "removed")
        planned: Mapping[str, np.ndarray] = {}
        if self.parameters is not None:
            scores = {group.name: score(compressed, group, self.score, self.norm) for group in groups}
            planned = least(compressed, groups, scores, self.parameters)
        # Until all is decided channels are only cut off from what sums over them: the graph stays true.
        whole, kept = compressed, dict[str, np.ndarray]()
        for group in groups:
            stays = planned[group.name] if group.name in planned else self._chosen(whole, group)
            if len(stays) < group.size:
                whole = self._cut_off(whole, graph, group, stays, context)
                kept[group.name] = stays
        after = without_others(whole, [group for group in groups if group.name in kept], kept)
        changes = ", ".join(
            f"{group.name} {len(kept[group.name])} of {group.size}" for group in groups if group.name in kept
        )
        assert_runs(after, context, f"remove: channels that are left: {changes}")
        return after

    def _chosen(self, compressed: Compressed, group: Group) -> np.ndarray:
        """The channels of one group that stay, ascending."""
        scores = score(compressed, group, self.score, self.norm)
        if self.threshold is not None:
            stays = scores > self.threshold * scores.max()
            return np.flatnonzero(stays) if stays.any() else np.zeros(1, np.int64)
        assert self.keep is not None
        count = channels_left(self.keep, group)
        return np.sort(np.argsort(-scores, kind="stable")[:count])

    def _cut_off(
        self, compressed: Compressed, graph: Graph, group: Group, kept: np.ndarray, context: Context
    ) -> Compressed:
        """The model in which nothing sums over the other channels any more, and what does so makes up for them."""
        outgoing = np.zeros((group.size, group.size))
        outgoing[kept, kept] = 1
        if self.compensate == "least_squares":
            gone = np.setdiff1d(np.arange(group.size), kept)
            outgoing[np.ix_(kept, gone)] = self._regression(compressed, graph, group, kept, gone, context)
        after = shrink(compressed, group, np.arange(group.size), outgoing=outgoing)
        if self.compensate == "data_free":
            return fold_constants(compressed, after, graph, group, kept, context)
        return after

    def _regression(
        self, compressed: Compressed, graph: Graph, group: Group, kept: np.ndarray, gone: np.ndarray, context: Context
    ) -> np.ndarray:
        """Removed activations as sums of those kept, [kept, gone] float64."""
        data, params, state = context.need_data(self.name), compressed.decode(), unflatten(compressed.state)
        seed = int(jax.random.randint(context.key, (), 0, 2**31 - 1))
        products = np.zeros((group.size, group.size))
        count = 0
        for inputs, _ in prefetch(itertools.islice(data.train(seed, 0, self.batch_size), self.batches)):
            rows = np.asarray(graph.activations(params, state, inputs, group))
            if len(rows) > _ROWS:
                rows = rows[np.random.default_rng(seed + count).choice(len(rows), _ROWS, replace=False)]
            wide = rows.astype(np.float64)
            products += wide.T @ wide
            count += 1
        if not count:
            raise DataError(f"there is no batch of {self.batch_size} training examples to regress activations on")
        if not np.isfinite(products).all():
            raise LeafError(f"{group.name}: activations are NaN or infinite; look at weights and data")
        gram = products[np.ix_(kept, kept)]
        if not gram.any():
            return np.zeros((len(kept), len(gone)))
        ridge = self.ridge * np.trace(gram) / len(kept)
        return np.linalg.solve(gram + ridge * np.eye(len(kept)), products[np.ix_(kept, gone)])
