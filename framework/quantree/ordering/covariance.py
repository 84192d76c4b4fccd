"""Search for the order of channels under which a Gaussian with the sub-vectors' covariance is distorted least.

The greedy start and the local search by swaps are those of Martinez et al. (CVPR 2021, arXiv 2010.15703, section 3.1,
and the code that comes with it). There a step tries one swap; here it works out thousands at once, takes the best whose
blocks differ, and makes as many of these together as lower the objective most, which is computed anew for 1, 2, 4, ...
of them. So no step raises it.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from quantree.clustering import checks
from quantree.ordering.children import Child, blocks_of
from quantree.ordering.moments import Family, families, gaussian, objective
from quantree.ordering.starts import start
from quantree.ordering.swaps import disjoint, drawn, gains, is_simple, made, touched

CANDIDATES = 8192  # swaps that a step tries
NUMBERS = 1 << 20  # of covariances that are written out in a step
SMALL = 128  # channels up to which all swaps are tried in a step
CHAINS = 8  # of a small group
PATIENCE = 8  # steps that find nothing, one after the other, after which a chain ends
ROUNDING = 1e-6  # nats: less may be no gain at all


class Order(NamedTuple):
    """What a search found.

    order: [G] int64, channel order[i] takes place i; the identity if nothing is gained. before, after: the objective,
    mean log distortion of a weight in nats. tried: swaps whose gain was worked out.
    """

    order: np.ndarray
    before: float
    after: float
    tried: int


def by_covariance(children: Sequence[Child], *, key: jax.Array, steps: int = 300, chains: int | None = None) -> Order:
    """The best order that `steps` steps find for the channels that some children share.

    chains: searches from different starts, side by side, of which the best counts; the first starts with channels of
    like variance at each position (`by_score`), the second from the greedy start of the paper, the third from the order
    as it is, others from random ones. Default: 8 up to 128 channels, else 1. A chain ends early after 8 steps that
    gain less than 1e-6 nats. With at most 128 channels of one weight each a step tries every swap, so such an end is a
    local optimum; a group has fewer candidates the more numbers a covariance has that must be written out (`swaps`).

    Memory: for each child in which the order matters its sub-vectors in float64, and in float32 three times the
    products of all weights along the axis of the blocks that hold channels of the group, a table of 256 MiB at most
    (see `LARGEST`). `LeafError` for what `Child` and `blocks_of` refuse.
    """
    checks.random_key(key)
    checks.whole("steps", steps, 0)
    if chains is not None:
        checks.whole("chains", chains, 1)
    blocks, size = blocks_of(children), len(children[0].places)
    before, identity = gaussian(children), np.arange(size)
    if not blocks:
        return Order(identity, before, before, 0)
    groups = families(blocks)
    first = next(child for child in children if child.matters)
    chains = chains or (CHAINS if size <= SMALL else 1)
    starts = np.stack([start(first, chain) for chain in range(chains)])
    candidates = _candidates(groups, size)
    ends, values, done = _descend(
        groups, jnp.asarray(starts, jnp.int32), jax.random.split(key, chains), jnp.asarray(steps), n=candidates
    )
    order = np.asarray(ends[np.argmin(values)], np.int64)
    after = gaussian(children, order)
    tried = int(np.sum(done)) * min(candidates, size * (size - 1) // 2)
    return Order(order, before, after, tried) if after < before else Order(identity, before, before, tried)


def _candidates(groups: Sequence[Family], size: int) -> int:
    written = sum(len(group.counts) * group.width**2 * group.slots.shape[1] for group in groups if not is_simple(group))
    return max(SMALL, min(CANDIDATES, NUMBERS // max(1, written)))


class _State(NamedTuple):
    order: jax.Array
    value: jax.Array
    step: jax.Array
    stale: jax.Array


@functools.partial(jax.jit, static_argnames=("n",))
def _descend(
    groups: Sequence[Family], starts: jax.Array, keys: jax.Array, steps: jax.Array, *, n: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Orders [chains, G], their objectives, and how many steps each chain took."""
    together = [2**i for i in range(max(1, (starts.shape[1] // 2).bit_length()))]

    def step(key: jax.Array, state: _State) -> _State:
        own = jax.random.fold_in(key, state.step)
        swaps = drawn(own, state.order.size, n)
        worth = gains(groups, state.order, swaps)
        # After a step that found nothing half of them are left out: a gain that is rounding shall not block for ever.
        doubted = (state.stale > 0) & (jax.random.bits(own, worth.shape, jnp.uint8) > 127)
        best = disjoint(touched(groups), swaps, jnp.where(doubted, 0, worth))
        which = jnp.arange(best.one.size)[None] < jnp.asarray(together)[:, None]
        orders = jax.vmap(functools.partial(made, state.order, best))(which)
        values = jax.vmap(functools.partial(objective, groups))(orders)
        i = jnp.argmin(values)
        better = values[i] < state.value - ROUNDING
        order, value = jnp.where(better, orders[i], state.order), jnp.where(better, values[i], state.value)
        return _State(order, value, state.step + 1, jnp.where(better, 0, state.stale + 1))

    def chain(start: jax.Array, key: jax.Array) -> _State:
        zero = jnp.zeros((), jnp.int32)
        state = _State(start, objective(groups, start), zero, zero)
        return jax.lax.while_loop(
            lambda state: (state.step < steps) & (state.stale < PATIENCE), functools.partial(step, key), state
        )

    alone = starts.shape[0] == 1
    end = jax.tree.map(lambda leaf: leaf[None], chain(starts[0], keys[0])) if alone else jax.vmap(chain)(starts, keys)
    return end.order, end.value, end.step
