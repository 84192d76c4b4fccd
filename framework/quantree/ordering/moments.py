"""The covariance of sub-vectors under any order of the channels, from products of channels that are made once.

The objective is that of Martinez et al. (CVPR 2021, arXiv 2010.15703, section 3.1): a Gaussian of covariance C that is
coded in d dimensions is distorted in proportion to det(C)^(1/d), whatever the rate. Added up is log det(C) / d of the
children, each by its share of all weights: the mean log distortion of a weight, in nats. So a factor on a child, which
a norm behind it takes out again, has no effect, and what a child loses of its own counts by its size.

C has `RIDGE` times the variance of the child added to its diagonal: directions so far below the others cost no bits at
the rates that codebooks have, and channels that are zero or alike give a finite number.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from quantree.ordering.children import Blocks, Child

RIDGE = 1e-5


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Family:
    """Children, `a` of them, whose channels lie in blocks in the same way. E slots of w weights, b slots to a block.

    products: [E, E, a, w, w], sum over rows of what two slots hold. sums: [E, a, w], the same of one slot. rest:
    [a, d, d] and rest_sums [a, d], those of vectors in other blocks. counts: [a], vectors. shares: [a], of all weights.
    slots: [G, m] int32, where the channels of the group lie.
    """

    products: jax.Array
    sums: jax.Array
    rest: jax.Array
    rest_sums: jax.Array
    counts: jax.Array
    shares: jax.Array
    slots: jax.Array
    b: int = field(metadata={"static": True})

    @property
    def width(self) -> int:
        """d, weights of a sub-vector."""
        return self.b * self.sums.shape[-1]


def families(blocks: Sequence[Blocks]) -> list[Family]:
    """Tables for the search, 4 (E w)^2 bytes for each child, and three times as much while they are made."""
    total = sum(each.weights for each in blocks)

    def kind(each: Blocks) -> tuple[int, int, bytes]:
        return each.b, each.x.shape[2], each.slots.tobytes()

    return [_family(list(alike), total) for _, alike in itertools.groupby(sorted(blocks, key=kind), kind)]


def _family(blocks: list[Blocks], total: int) -> Family:
    _, slots, w = blocks[0].x.shape
    flat = [each.x.reshape(len(each.x), -1) for each in blocks]
    products = [_gram(x).reshape(slots, w, slots, w) for x in flat]
    return Family(
        products=jnp.stack(products).transpose(1, 3, 0, 2, 4),
        sums=jnp.asarray(np.stack([x.sum(0, dtype=np.float64).reshape(slots, w) for x in flat], 1), jnp.float32),
        rest=jnp.stack([_gram(each.others) for each in blocks]),
        rest_sums=jnp.asarray(np.stack([each.others.sum(0, dtype=np.float64) for each in blocks]), jnp.float32),
        counts=jnp.asarray([each.count for each in blocks], jnp.float32),
        shares=jnp.asarray([each.weights / total for each in blocks], jnp.float32),
        slots=jnp.asarray(blocks[0].slots, jnp.int32),
        b=blocks[0].b,
    )


@jax.jit
def _gram(x: jax.Array) -> jax.Array:
    return jnp.matmul(x.T, x, precision=jax.lax.Precision.HIGHEST)


def contents(family: Family, order: jax.Array) -> jax.Array:
    """What each slot holds, [E] int32, named by the slot where it lies before anything moves; order [G]."""
    return jnp.arange(len(family.sums), dtype=jnp.int32).at[family.slots].set(family.slots[order])


def moments(family: Family, held: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean [a, d] and covariance with its ridge [a, d, d] of the sub-vectors, with `held` [E] in the slots."""
    blocks = held.reshape(-1, family.b)
    squares = jnp.sum(family.products[blocks[:, :, None], blocks[:, None, :]], axis=0)  # [b, b, a, w, w]
    sums = jnp.sum(family.sums[blocks], axis=0)  # [b, a, w]
    d = family.width
    second = (squares.transpose(2, 0, 3, 1, 4).reshape(-1, d, d) + family.rest) / family.counts[:, None, None]
    mean = (sums.swapaxes(0, 1).reshape(-1, d) + family.rest_sums) / family.counts[:, None]
    return mean, second - mean[:, :, None] * mean[:, None, :] + RIDGE * jnp.eye(d, dtype=second.dtype)[None]


def objective(groups: Sequence[Family], order: jax.Array) -> jax.Array:
    """Mean log distortion of a weight under an order [G], up to what no order changes."""
    total = jnp.zeros((), jnp.float32)
    for family in groups:
        _, covariance = moments(family, contents(family, order))
        total = total + jnp.sum(family.shares * log_det(jnp.moveaxis(covariance, 0, -1)) / family.width)
    return total


def log_det(matrices: jax.Array) -> jax.Array:
    """Of symmetric [d, d, ..] whose least eigenvalue is `RIDGE`, but for rounding; along the last axes all at once."""

    def scaled(left: jax.Array, i: jax.Array | int) -> tuple[jax.Array, jax.Array]:
        # Rounding never makes a pivot too small to divide by.
        pivot = jnp.maximum(left[i, i], RIDGE)
        return left[i] / pivot[None], pivot

    def eliminate(i: jax.Array, state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        # The scaled row is handed on, so that a CPU divides it once and not for each row that it is taken from.
        left, row, pivot, total = state
        left = left - left[i][:, None] * row[None]
        return left, *scaled(left, jnp.minimum(i + 1, len(left) - 1)), total + jnp.log(pivot)

    nothing = jnp.zeros(matrices.shape[2:], matrices.dtype)
    return jax.lax.fori_loop(0, len(matrices), eliminate, (matrices, *scaled(matrices, 0), nothing))[-1]


def gaussian(children: Sequence[Child], order: np.ndarray | None = None) -> float:
    """The objective of children under an order [G] of their channels, in float64 on the host; None: as they are."""
    total = sum(child.x.size for child in children)
    return sum(child.x.size / total * _log_distortion(child.vectors(order)) for child in children)


def _log_distortion(vectors: np.ndarray) -> float:
    d = vectors.shape[-1]
    x = vectors.reshape(-1, d).astype(np.float64)
    scale = float(np.std(x)) or 1.0
    covariance = np.cov(x / scale, rowvar=False, bias=True).reshape(d, d) + RIDGE * np.eye(d)
    return float(np.linalg.slogdet(covariance)[1]) / d + 2 * float(np.log(scale))
