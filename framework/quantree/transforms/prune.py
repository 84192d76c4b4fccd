"""Magnitude pruning: small weights become exact zeros and stay so in every later stage."""

import fnmatch
from collections.abc import Callable, Mapping
from typing import Annotated, ClassVar, Literal

import jax.numpy as jnp
import numpy as np
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from quantree.encodings import Blocking, Compressed, Encoding, Pruned, Raw, Scalar, match
from quantree.errors import ConfigError, LeafError
from quantree.registry import Choice, register
from quantree.stage import Context, Patterns, Transform, is_float_leaf, select

Density = Annotated[float, Field(gt=0, le=1)]
Quality = Annotated[float, Field(ge=0)]
Rule = float | dict[str, float]


@register("prune")
class Prune(Transform):
    """Keeps the weights of largest magnitude.

    `density` is the share of weights kept: in each layer alike, or by pattern (first match wins) for layers of their
    own, or with `scope: global` by one threshold over all the leaves taken. `quality` keeps |w| >= quality x the
    standard deviation of the leaf (Han et al. 2015). Leaves that no pattern names keep every weight; weights that tie
    with the threshold are kept. A weight that is pruned already, or zero, stays so; otherwise each leaf keeps at least
    one. With `finetune: {gradual: ...}` the density falls along a cubic from 1 (Zhu and Gupta 2017, arXiv
    1710.01878, eq. 1).

    With a `blocking` of vectors, these are kept or pruned whole, by the root of the mean square of their weights: at
    least one of each leaf, so one that is shorter than a vector stays. What an earlier stage pruned of a vector that is
    kept stays zero and still counts for the density. A quantizer that cuts the leaf alike, with `release_mask: true`,
    then has one centroid near zero for all that is pruned, which an entropy coder stores in a fraction of a bit.
    """

    example: ClassVar = {"density": 0.5}

    match: Patterns | None = Field(
        default=None, description="leaves to take; default: every float leaf with two or more axes"
    )
    density: Density | dict[str, Density] | None = Field(
        default=None, description="share of weights kept, 0..1: one number, or pattern -> number"
    )
    quality: Quality | dict[str, Quality] | None = Field(
        default=None, description="threshold in standard deviations of the leaf: one number, or pattern -> number"
    )
    scope: Literal["layer", "global"] = Field(
        default="layer", description="compare magnitudes within a leaf, or over all of them"
    )
    score: Literal["magnitude", "lamp"] = Field(
        default="magnitude",
        description="what is compared: |w|, or |w| relative to the larger weights of its leaf (LAMP, Lee et al. 2021)",
    )
    blocking: Choice[Blocking] = Field(
        default=Scalar(), description="what is kept or pruned as a whole: weights, or vectors of them"
    )

    @model_validator(mode="after")
    def _one_rule(self) -> "Prune":
        key = reason = None
        if (self.density is None) == (self.quality is None):
            key, reason = "density", "give either density or quality"
        elif self.scope == "global" and not isinstance(self.density, float | int):
            key, reason = "scope", "a global threshold needs one number as density"
        if reason is not None:
            raise PydanticCustomError("combination", "{reason}", {"reason": reason, "key": key})
        return self

    def check(self, leaves: Mapping[str, Encoding]) -> None:
        taken = select(self.match, leaves)
        quantized = next((path for path in taken if leaves[path].uses()), None)
        if quantized is not None:
            raise ConfigError(f"{quantized}: an earlier stage quantizes it; prune, then quantize")
        for rule in (self.density, self.quality):
            if isinstance(rule, dict):
                match(rule, taken)

    def at(self, progress: float) -> "Prune":
        rest = (1 - min(max(progress, 0.0), 1.0)) ** 3
        density = _scaled(self.density, lambda final: final + (1 - final) * rest)
        quality = _scaled(self.quality, lambda final: final * (1 - rest))
        return self.model_copy(update={"density": density, "quality": quality})

    def run(self, compressed: Compressed, context: Context) -> Compressed:
        del context
        paths = select(self.match, compressed.leaves)
        values = {path: _weights(path, compressed.leaves[path]) for path in paths}
        scores = {path: self._scores(value) for path, value in values.items()}
        if self.scope == "global":
            together = np.concatenate([score.reshape(-1) for score in scores.values()])
            thresholds = dict.fromkeys(paths, _threshold(together, _rule(self.density, "")))
        elif self.density is not None:
            thresholds = {path: _threshold(scores[path], _rule(self.density, path)) for path in paths}
        else:
            thresholds = {path: _rule(self.quality, path, 0.0) * float(np.std(values[path])) for path in paths}
        pruned: dict[str, Encoding] = {}
        for path in paths:
            score, leaf = scores[path], compressed.leaves[path]
            mask = (score >= min(thresholds[path], float(score.max()))) & (values[path] != 0)
            pruned[path] = Pruned.of(leaf.decode({}), mask)
        return compressed.replace(pruned)

    def _scores(self, value: np.ndarray) -> np.ndarray:
        """What each weight is compared by, [*shape]; alike within a block."""
        # Places in the leaf are cut instead of its values: NumPy's dtypes stay, and what fills up a block is place 0.
        places = np.asarray(self.blocking.split(jnp.arange(1, value.size + 1, dtype=jnp.int32).reshape(value.shape)))
        blocks = np.append(value.dtype.type(0), value)[places]
        magnitudes = _root_mean_square(blocks, np.count_nonzero(places, axis=-1, keepdims=True))
        scores = magnitudes if self.score == "magnitude" else _lamp(magnitudes)
        whole = np.zeros(value.size + 1, scores.dtype)
        whole[places] = scores
        return whole[1:].reshape(value.shape)


def _root_mean_square(blocks: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Of `count` [.., 1] weights, the others being zero, of blocks [.., d]: [.., 1]. Exactly |w| where d is 1."""
    largest = np.max(np.abs(blocks), axis=-1, keepdims=True)
    squares = np.square(blocks / np.where(largest > 0, largest, 1))
    return largest * np.sqrt(squares.sum(axis=-1, keepdims=True) / count).astype(blocks.dtype)


def _lamp(magnitudes: np.ndarray) -> np.ndarray:
    """LAMP (arXiv 2010.07611, eq. 3): w^2 over the sum of squares of all weights of the leaf that are not smaller."""
    flat = np.square(magnitudes, dtype=np.float64).reshape(-1)
    order = np.argsort(flat, kind="stable")
    tail = np.cumsum(flat[order][::-1])[::-1]
    scores = np.zeros_like(flat)
    scores[order] = flat[order] / np.maximum(tail, np.finfo(np.float64).tiny)
    return scores.reshape(magnitudes.shape)


def _weights(path: str, leaf: Encoding) -> np.ndarray:
    if not isinstance(leaf, Raw | Pruned) or not is_float_leaf(leaf):
        raise LeafError(
            f"{path}: only plain float leaves can be pruned, not {leaf.name} {leaf.dtype}; prune, then quantize"
        )
    value = np.asarray(leaf.decode({}))
    value = value.astype(np.promote_types(value.dtype, np.float32))  # NumPy can't compare all 16-bit floats
    if not value.size:
        raise LeafError(f"{path}: an empty tensor of shape {value.shape} has nothing to prune; leave it out of `match`")
    if not np.isfinite(value).all():
        raise LeafError(f"{path}: {np.count_nonzero(~np.isfinite(value))} of {value.size} weights are NaN or infinite")
    return value


def _threshold(scores: np.ndarray, density: float) -> float:
    """The score that a share `density` of all reaches; ties with it are kept."""
    flat = scores.reshape(-1)
    dropped = flat.size - max(1, round(density * flat.size))
    return float(np.partition(flat, dropped)[dropped])


def _rule(rule: Rule | None, path: str, otherwise: float = 1.0) -> float:
    if not isinstance(rule, dict):
        return otherwise if rule is None else float(rule)
    hits = [value for pattern, value in rule.items() if fnmatch.fnmatchcase(path, pattern)]
    return float(hits[0]) if hits else otherwise


def _scaled(rule: Rule | None, function: Callable[[float], float]) -> Rule | None:
    if rule is None:
        return None
    return {key: function(value) for key, value in rule.items()} if isinstance(rule, dict) else function(rule)
