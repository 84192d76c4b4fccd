"""Running statistics as part of scale and bias: a norm in eval mode is one multiplication and one addition."""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field

from quantree.encodings import Compressed, Encoding, Raw, match
from quantree.errors import ConfigError, LeafError
from quantree.registry import register
from quantree.stage import Context, Patterns, Transform
from quantree.transforms.same_function import assert_same

_ALL: Patterns = ("*",)


@register("fold_statistics")
class FoldStatistics(Transform):
    """Moves the running mean and variance of batch norms into their scale and bias (Jacob et al. 2018, section 3.2).

    scale' = scale / sqrt(var + epsilon), bias' = bias - mean scale'. The statistics become the constants 0 and
    1 - epsilon, and the network computes the same in eval mode; in train mode it does not, so no stage that trains may
    follow. Computed in float64, kept in the dtype that each leaf has. A norm is found by its state `X/mean` and
    `X/var`, beside the parameters `X/scale` and `X/bias`, where a Linen collection such as `batch_stats/` may stand
    before the state's name.

    With data, outputs on one validation batch are compared before and after; a difference is a `QuantreeError`, which
    a wrong epsilon gives (Keras has 0.001, Flax and PyTorch 0.00001). A bare checkpoint, or a run without data, can't
    be checked. `LeafError` if a norm lacks scale or bias, or these are pruned or quantized already.
    """

    needs_eval_mode: ClassVar[bool] = True

    match: Patterns = Field(default=_ALL, description="norms to fold, such as layer1/*/bn1")
    epsilon: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="what these norms add to the variance; default: 1e-3 in a checkpoint of Keras, else 1e-5",
    )
    tolerance: float | None = Field(
        default=None,
        gt=0,
        description="largest change of an output, relative to the largest output; default: 1e-4, or 8 roundings of the "
        "coarsest dtype of norms and outputs",
    )

    def run(self, compressed: Compressed, context: Context) -> Compressed:
        norms = _norms(compressed)
        if not norms:
            raise ConfigError("the model has no norm with running statistics: no `mean` and `var` in its state")
        leaves: dict[str, Encoding] = {}
        state = dict(compressed.state)
        epsilon = self.epsilon or (1e-3 if compressed.layout == "keras" else 1e-5)
        for name in match(self.match, norms, "norm"):
            folded = _fold(norms[name], compressed, epsilon)
            leaves |= folded[0]
            state |= folded[1]
        after = compressed.replace(leaves, state=state)
        hint = f"Is epsilon {epsilon:g} that of the norms? Keras has 0.001, Flax and PyTorch 0.00001"
        assert_same(compressed, after, context, "the folded network", hint=hint, tolerance=self.tolerance)
        return after


class _Norm(NamedTuple):
    """Paths of one norm: parameters share one prefix, state another."""

    params: str
    state: str


def _norms(compressed: Compressed) -> dict[str, _Norm]:
    """Name -> norm, for every pair `mean`, `var` in the state. The name is the parameters' prefix, without a slash."""
    found = {}
    for path in compressed.state:
        prefix, _, last = path.rpartition("/")
        prefix += "/" if prefix else ""
        if last != "mean" or f"{prefix}var" not in compressed.state:
            continue
        inner = prefix.partition("/")[2]  # without the collection of a Linen model
        known = (each for each in (prefix, inner) if {f"{each}scale", f"{each}bias"} & compressed.leaves.keys())
        params = next(known, prefix)
        found[params.removesuffix("/")] = _Norm(params, prefix)
    return found


def _fold(norm: _Norm, compressed: Compressed, epsilon: float) -> tuple[dict[str, Encoding], dict[str, jax.Array]]:
    """The norm's new leaves and state."""
    mean, var = (compressed.state[f"{norm.state}{name}"] for name in ("mean", "var"))
    scale, bias = (_plain(f"{norm.params}{name}", compressed) for name in ("scale", "bias"))
    for path, leaf in ((f"{norm.params}scale", scale), (f"{norm.params}bias", bias), (f"{norm.state}var", var)):
        if leaf.shape != mean.shape:
            raise LeafError(f"{path}: has shape {leaf.shape}, the norm's mean has {mean.shape}")
    old_mean, old_var, old_scale, old_bias = (
        np.asarray(each).astype(np.float64) for each in (mean, var, scale.value, bias.value)
    )
    if not (old_var + epsilon > 0).all():
        raise LeafError(f"{norm.state}var: a variance is NaN or negative")
    new_scale = old_scale / np.sqrt(old_var + epsilon)
    new_bias = old_bias - old_mean * new_scale
    leaves: dict[str, Encoding] = {}
    for name, leaf, value in (("scale", scale, new_scale), ("bias", bias, new_bias)):
        with np.errstate(over="ignore"):
            narrow = value.astype(leaf.value.dtype)
        if not np.isfinite(narrow).all():
            raise LeafError(f"{norm.params}{name}: folded, a value is NaN, infinite, or too large for {narrow.dtype}")
        leaves[f"{norm.params}{name}"] = dataclasses.replace(leaf, value=jnp.asarray(narrow))
    return leaves, {f"{norm.state}mean": jnp.zeros_like(mean), f"{norm.state}var": jnp.full_like(var, 1 - epsilon)}


def _plain(path: str, compressed: Compressed) -> Raw:
    leaf = compressed.leaves.get(path)
    name, _, last = path.rpartition("/")
    if leaf is None:
        raise LeafError(
            f"{path}: this norm has no {last} to take its statistics; leave {name or 'it'} out of `match` "
            "(list the others there)"
        )
    if not isinstance(leaf, Raw):
        raise LeafError(f"{path}: it is {leaf.name} already; put `fold_statistics` before the stage that made it so")
    return leaf
