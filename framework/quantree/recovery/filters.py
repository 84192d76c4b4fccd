"""A penalty on whole filters, so that training leaves some of them with nothing in them, ready to be removed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from quantree.encodings import Encoding, Pruned, Raw, match
from quantree.schema import Config
from quantree.stage import Patterns, is_float_leaf

Norm = Literal["l1", "l2"]

_LEAST = 1e-12  # added to the norm of all filters of a kernel, which may be zero


class FilterPenalty(Config):
    """A term of the loss that prefers kernels with few filters.

    A filter is all that leads to one output channel: a kernel without its last axis (Flax's layout; of a depthwise
    kernel [h, w, 1, c] it is what one channel is convolved with). With n_i the norm of filter i, a kernel of N filters
    adds

        ratio: |n|_1 / |n|_2, between 1 (one filter is left) and sqrt(N) (all are alike), whatever the kernel's scale.
            Filters with n_i < |n|_2^2 / |n|_1 shrink, the others grow (after the idea of Berthelier et al., arXiv
            2007.10022).
        lasso: sum_i sqrt(p) n_i for filters of p weights (group lasso, Yuan and Lin 2006, eq. 2.1), which shrinks all
            of them. With `inner: l1` the sum of magnitudes and no factor: the plain lasso.

    Kernels with one output are left alone. Filters become small, seldom exactly zero: stage `remove` takes a threshold.
    `keep: best` looks at the metric alone, and may return an early epoch with many filters; `keep: last` does not.
    There is no default for `match`: only who knows the network can say which outputs may go, and classes may not.
    """

    kind: Literal["ratio", "lasso"] = Field(
        default="ratio", description="ratio: |n|_1 / |n|_2 of the filters' norms n; lasso: sum of the norms"
    )
    inner: Norm = Field(default="l2", description="norm of the weights of one filter")
    weight: float = Field(ge=0, description="this times the penalty is added to the loss")
    match: Patterns = Field(description="kernels whose filters are to become few, such as conv*/kernel")
    scaled: bool = Field(
        default=False,
        description="divide a kernel's ratio by its largest value, sqrt(N), so that wide ones count alike",
    )

    @model_validator(mode="after")
    def _scales_a_ratio(self) -> "FilterPenalty":
        if self.scaled and self.kind != "ratio":
            reason = "`scaled` divides a ratio by its largest value; a sum of norms has none"
            raise PydanticCustomError("combination", "{reason}", {"reason": reason, "key": "scaled"})
        return self

    def over(self, leaves: Mapping[str, Encoding]) -> "Penalty":
        """The penalty on the leaves that match, as long as they are plain (raw or pruned) floats with two or more axes
        and two or more outputs, and are trained: a field that is not is None. `ConfigError` if a pattern matches none.
        """
        kernels = match(self.match, (path for path, leaf in leaves.items() if _has_filters(leaf)), "trained kernel")
        return Penalty(tuple(kernels), self.kind, self.inner, self.scaled)


@dataclass(frozen=True)
class Penalty:
    """A `FilterPenalty` without its weight, on given leaves. Hashable: equal ones share compiled code."""

    paths: tuple[str, ...]
    kind: Literal["ratio", "lasso"]
    inner: Norm
    scaled: bool

    def __call__(self, leaves: Mapping[str, Encoding]) -> jax.Array:
        """Its value, float32 or wider []. Where a filter is zero, its gradient is zero too."""
        terms = [
            self._term(leaf.value) for leaf in map(leaves.__getitem__, self.paths) if isinstance(leaf, Raw | Pruned)
        ]
        return jnp.sum(jnp.stack(terms))

    def _term(self, kernel: jax.Array) -> jax.Array:
        wide = kernel if kernel.dtype.itemsize >= 4 else kernel.astype(jnp.float32)
        filters = wide.reshape(-1, wide.shape[-1])
        size, count = filters.shape
        norms = _root_of_squares(filters) if self.inner == "l2" else _sum_of_magnitudes(filters)
        if self.kind == "lasso":
            return jnp.sum(norms) * (np.sqrt(size).item() if self.inner == "l2" else 1.0)
        ratio = jnp.sum(norms) / (_root_of_squares(norms) + _LEAST)
        return ratio / np.sqrt(count).item() if self.scaled else ratio


def _sum_of_magnitudes(values: jax.Array) -> jax.Array:
    """l1 norm along the first axis. Its gradient is zero at a weight of zero, where that of `jnp.abs` is 1."""
    return jnp.sum(values * jax.lax.stop_gradient(jnp.sign(values)), axis=0)


def _root_of_squares(values: jax.Array) -> jax.Array:
    """l2 norm along the first axis, with gradient zero, not NaN, where it is zero."""
    squares = jnp.sum(jnp.square(values), axis=0)
    some = squares > 0
    return jnp.where(some, jnp.sqrt(jnp.where(some, squares, jnp.ones_like(squares))), jnp.zeros_like(squares))


def _has_filters(leaf: Encoding) -> bool:
    if not isinstance(leaf, Raw | Pruned) or leaf.value is None or not is_float_leaf(leaf):
        return False
    shape: Sequence[int] = leaf.shape
    return len(shape) >= 2 and shape[-1] >= 2 and 0 not in shape
