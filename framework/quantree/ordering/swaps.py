"""Pairs of channels that may change places, how much each gains, and which of them are made together.

A swap of one channel in each of two blocks changes two rows and columns of the covariance, by differences of products
of channels: `E U' + U E'`, where E [d, 2] picks the rows. With P the inverse before any swap, made once for all,

    det(C + E U' + U E') / det(C) = det [[1 + U' P E, U' P U], [E' P E, 1 + E' P U]],

a determinant of 4 x 4, so a swap costs O(d^2). Pieces of more than one weight, and groups with several columns, have
their new covariance written out and its determinant worked out, O(d^3).
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from quantree.ordering.moments import Family, contents, log_det, moments

NUMBERS = 1 << 16  # of the covariances that are worked on at once
ACCELERATOR_NUMBERS = 1 << 24
SMALLEST = 1e-12  # ratio of determinants: what is less has been rounded


class Swaps(NamedTuple):
    """Places [n] int32 whose channels change with each other."""

    one: jax.Array
    other: jax.Array


def drawn(key: jax.Array, size: int, n: int) -> Swaps:
    """Pairs of `size` places: n at random, or each pair once if there are no more than that."""
    if size * (size - 1) // 2 <= n:
        one, other = jnp.triu_indices(size, 1)
        return Swaps(one.astype(jnp.int32), other.astype(jnp.int32))
    # One draw of bits for both: each call of `jax.random` is a good part of the program, and of its compilation.
    bits = jax.random.bits(key, (2, n), jnp.uint32)
    one, step = bits[0] % size, 1 + bits[1] % (size - 1)
    return Swaps(one.astype(jnp.int32), ((one + step) % size).astype(jnp.int32))


def gains(groups: Sequence[Family], order: jax.Array, swaps: Swaps) -> jax.Array:
    """By how much each swap alone, [n], would lower the objective from where `order` [G] is."""
    total = jnp.zeros(swaps.one.shape, jnp.float32)
    for family in groups:
        held = contents(family, order)
        ratios = (_by_lemma if is_simple(family) else _in_pieces)(family, held, swaps)
        total = total - jnp.sum(family.shares[:, None] * ratios, axis=0) / family.width
    return total


def is_simple(family: Family) -> bool:
    """Whether a swap changes two rows at most."""
    return family.slots.shape[1] == 1 and family.width == family.b


class _Rows(NamedTuple):
    """What a swap changes in one column: rows q and r of the second moments, [b, w, w, a, n] each, and their means.

    q, r: [n], positions in their blocks. Row q of slots s is to be added at (q, s) and (s, q); its own entry, (q, q),
    is half of what it changes by.
    shift: [w, a, n], by how much the sum at q grows, and that at r falls.
    """

    q: jax.Array
    r: jax.Array
    row_q: jax.Array
    row_r: jax.Array
    shift: jax.Array


def _rows(family: Family, held: jax.Array, swaps: Swaps, column: jax.Array | int) -> _Rows:
    b = family.b
    slots = family.slots[:, column]
    slot, there = slots[swaps.one], slots[swaps.other]
    q, r = slot % b, there % b
    mine, its = held[slot], held[there]
    blocks = held.reshape(-1, b)
    near, far = blocks[slot // b].T, blocks[there // b].T  # [b, n]

    def product(left: jax.Array, right: jax.Array) -> jax.Array:
        return family.products[left, right]  # [.., n, a, w, w]

    places = jnp.arange(b, dtype=q.dtype)[:, None]
    at_q, at_r = (each[..., None, None, None] for each in (places == q[None], places == r[None]))
    together = (slot // b == there // b)[None, :, None, None, None]
    grown = (product(its, its) - product(mine, mine))[None] / 2
    exchanged = (product(its, mine) - product(mine, its))[None]
    row_q = product(its[None], near) - product(mine[None], near)
    row_r = product(mine[None], far) - product(its[None], far)
    # Two channels of one block trade places: between them nothing changes but which comes first.
    row_q = jnp.where(at_q, grown, jnp.where(together & at_r, exchanged, row_q))
    row_r = jnp.where(at_r, -grown, jnp.where(together & at_q, 0, row_r))
    to_last = (0, 3, 4, 2, 1)
    shift = (family.sums[its] - family.sums[mine]).transpose(2, 1, 0)
    # Else XLA looks all products up again for each of their uses.
    return jax.lax.optimization_barrier(_Rows(q, r, row_q.transpose(to_last), row_r.transpose(to_last), shift))


def _by_lemma(family: Family, held: jax.Array, swaps: Swaps) -> jax.Array:
    """Log of the ratios of determinants, [a, n]; +infinity where rounding leaves none."""
    mean, covariance = moments(family, held)
    inverse = jnp.linalg.inv(covariance)
    rows = _rows(family, held, swaps, 0)
    counts = family.counts[:, None]
    shift = rows.shift[0] / counts
    at_q, at_r = (jax.nn.one_hot(each, family.b, axis=0, dtype=jnp.float32)[None] for each in (rows.q, rows.r))
    # The mean moves by `shift` at q and back at r, so its own square takes part in both rows.
    moved = shift[:, None] * mean[..., None] + shift[:, None] ** 2 / 2 * (at_q - at_r)
    u = rows.row_q[:, 0, 0].swapaxes(0, 1) / counts[:, None] - moved  # [a, b, n]
    v = rows.row_r[:, 0, 0].swapaxes(0, 1) / counts[:, None] + moved
    e, f, u_all, v_all = (jnp.matmul(inverse, each, precision=jax.lax.Precision.HIGHEST) for each in (at_q, at_r, u, v))

    def dot(one: jax.Array, other: jax.Array) -> jax.Array:
        # Written out, because XLA on a CPU hands sums over short axes to a library that takes ten times as long.
        return functools.reduce(jnp.add, (one[:, i] * other[:, i] for i in range(family.b)))

    a11, a12, a21, a22 = 1 + dot(u, e), dot(u, f), dot(v, e), 1 + dot(v, f)
    b11, b12, b22 = dot(u, u_all), dot(u, v_all), dot(v, v_all)
    d11, d12, d22 = dot(at_q, e), dot(at_q, f), dot(at_r, f)
    top = ((a11, a12, b11, b12), (a21, a22, b12, b22))
    bottom = ((d11, d12, a11, a21), (d12, d22, a12, a22))
    ratio = _determinant(top, bottom)
    return jnp.where(ratio > 0, jnp.log(jnp.maximum(ratio, SMALLEST)), jnp.inf)


def _determinant(top: Sequence[Sequence[jax.Array]], bottom: Sequence[Sequence[jax.Array]]) -> jax.Array:
    """Of two rows of four over two others, by Laplace's expansion in minors of two columns."""

    def minor(rows: Sequence[Sequence[jax.Array]], i: int, j: int) -> jax.Array:
        return rows[0][i] * rows[1][j] - rows[0][j] * rows[1][i]

    signs = {(0, 1): 1, (0, 2): -1, (0, 3): 1, (1, 2): 1, (1, 3): -1, (2, 3): 1}
    total = jnp.zeros_like(top[0][0])
    for (i, j), sign in signs.items():
        rest = tuple(each for each in range(4) if each not in (i, j))
        total = total + sign * minor(top, i, j) * minor(bottom, *rest)
    return total


def _in_pieces(family: Family, held: jax.Array, swaps: Swaps) -> jax.Array:
    """`_written_out` of so many swaps at once that their covariances stay in the cache of a core."""
    n = swaps.one.size
    numbers = NUMBERS if jax.default_backend() == "cpu" else ACCELERATOR_NUMBERS
    size = max(1, min(n, numbers // (len(family.counts) * family.width**2)))
    pieces = Swaps(*(jnp.pad(each, (0, -n % size)).reshape(-1, size) for each in swaps))
    ratios = jax.lax.map(functools.partial(_written_out, family, held, moments(family, held)), pieces)
    return jnp.moveaxis(ratios, 0, 1).reshape(len(family.counts), -1)[:, :n]


def _written_out(family: Family, held: jax.Array, before: tuple[jax.Array, jax.Array], swaps: Swaps) -> jax.Array:
    """Log of the ratios of determinants, [a, n].

    Columns are taken one by one. Where two channels of a swap share a block by different columns, what they do
    together is left out; what is made in the end is checked as a whole.
    """
    mean, covariance = before
    b, (a, d), n = family.b, mean.shape, swaps.one.size
    counts = family.counts[:, None]
    places = jnp.arange(b, dtype=jnp.int32)[:, None]

    def add(column: jax.Array | int, sofar: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        second, shifts = sofar
        rows = _rows(family, held, swaps, column)
        at_q, at_r = ((places == each[None]).astype(jnp.float32) for each in (rows.q, rows.r))  # [b, n]
        half = at_q[:, None, None, None, None] * rows.row_q[None] + at_r[:, None, None, None, None] * rows.row_r[None]
        # [q, s, i, j, a, n] -> [a, (q, i), (s, j), n]
        half = half.transpose(4, 0, 2, 1, 3, 5).reshape(a, d, d, n) / counts[:, None, None]
        moved = ((at_q - at_r)[:, None, None] * rows.shift[None]).transpose(2, 0, 1, 3).reshape(a, d, n)
        return second + half + half.swapaxes(1, 2), shifts + moved / counts[..., None]

    nothing = jnp.zeros((a, d, d, n), jnp.float32), jnp.zeros((a, d, n), jnp.float32)
    columns = family.slots.shape[1]
    second, shift = add(0, nothing) if columns == 1 else jax.lax.fori_loop(0, columns, add, nothing)
    # The square of the new mean less that of the old one.
    cross = mean[:, :, None, None] * shift[:, None]
    grown = second - cross - cross.swapaxes(1, 2) - shift[:, :, None] * shift[:, None]
    new = log_det(jnp.moveaxis(covariance[..., None] + grown, 0, 2))
    return new - log_det(jnp.moveaxis(covariance, 0, -1))[:, None]


class Touched(NamedTuple):
    """Blocks that hold the channels of one child or family: of [G, m] int32, below `blocks`."""

    of: jax.Array
    blocks: int


def touched(groups: Sequence[Family]) -> list[Touched]:
    """Of each family."""
    return [Touched(group.slots // group.b, len(group.sums) // group.b) for group in groups]


def disjoint(children: Sequence[Touched], swaps: Swaps, worth: jax.Array) -> Swaps:
    """Those that are worth something, above 0, and more than any other that touches one of their blocks in any child.

    The best come first. G in place of both channels where there are no more; there are G / 2 at most.
    """
    n, size = worth.size, len(children[0].of)
    index = jnp.arange(n, dtype=jnp.int32)
    chosen = worth > 0
    worth = jnp.where(chosen, worth, 0)  # NaN is worth nothing
    blocks = [jnp.concatenate([child.of[each] for each in swaps], axis=1) for child in children]
    for child, here in zip(children, blocks, strict=True):
        most = jnp.zeros(child.blocks, worth.dtype).at[here].max(worth[:, None])
        chosen = chosen & (most[here] == worth[:, None]).all(axis=1)
    for child, here in zip(children, blocks, strict=True):  # of equals the first
        first = jnp.full(child.blocks, n, jnp.int32).at[here].min(jnp.where(chosen, index, n)[:, None])
        chosen = chosen & (first[here] == index[:, None]).all(axis=1)
    # No two have a block in common, so the first child's can stand for them.
    count = children[0].blocks
    at = jnp.full(count, n, jnp.int32).at[jnp.where(chosen, blocks[0][:, 0], count)].set(index, mode="drop")
    found = jnp.where(at < n, worth[jnp.minimum(at, n - 1)], 0)
    best = jnp.argsort(-found)[: max(1, min(count, size) // 2)]
    return Swaps(*(jnp.where(found[best] > 0, each[jnp.minimum(at[best], n - 1)], size) for each in swaps))


def made(order: jax.Array, swaps: Swaps, which: jax.Array) -> jax.Array:
    """The order [G] after those of swaps whose places differ; which: [swaps] bool."""
    one, other = (jnp.where(which, each, order.size) for each in swaps)
    return order.at[one].set(order[swaps.other], mode="drop").at[other].set(order[swaps.one], mode="drop")
