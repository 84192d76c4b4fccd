"""Nearest centroid, in blocks of points against tiles of centroids.

The squared distance is taken as |c|^2 - 2 c.x, the part that differs between centroids: one matrix product in which
|c|^2 is one more coordinate. Points lie along the last axis, so that the comparisons run over whole vectors of points;
inside a tile they are a knock-out tournament. Never more than `TILE` scores per point of one block exist at once.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from numpy.typing import ArrayLike

from quantree.clustering import checks
from quantree.clustering.threads import cores, side_by_side, worth_it

TILE = 16  # centroids scored at once
BLOCK = 1024  # points of all problems together, per step; their scores stay in the cache of a core
ACCELERATOR_BLOCK = 65536  # the same on GPU and TPU, where a step must be large to be worth its launch
SMALLEST_BLOCK = 64
WORTH_A_THREAD = 8192  # points


def assign(x: ArrayLike, centroids: ArrayLike) -> jax.Array:
    """Codes of the nearest centroids by Euclidean distance, ties to the lowest index.

    x [n, d] and centroids [k, d] -> [n] int32; x [b, n, d] and centroids [b, k, d] or [k, d] -> [b, n] int32.
    Half precision is computed in float32. Memory beyond x and the result: two copies of x, 64 bytes per block point.
    XLA runs one loop on one core, so on a CPU the points of one problem are shared among threads, as many as `NPROC`
    or the machine has; the codes don't depend on it.
    `LeafError` for wrong shapes, and for NaN or infinity where the arrays are concrete (not traced).
    """
    x, centroids = checks.points("x", x), checks.points("centroids", centroids)
    if centroids.shape[-1] != x.shape[-1] or centroids.ndim > x.ndim or centroids.shape[:-2] not in ((), x.shape[:-2]):
        raise checks.LeafError(
            f"centroids of shape {centroids.shape} don't fit points of shape {x.shape}; "
            "expected [k, d] or [b, k, d] with the same d and b"
        )
    checks.finite(x=x, centroids=centroids)
    if isinstance(centroids, Tracer) or not worth_it(x, WORTH_A_THREAD * cores()) or cores() == 1:
        return _assign(x, centroids)
    size = BLOCK * -(-x.shape[0] // (BLOCK * cores()))
    starts = [min(i * size, x.shape[0] - size) for i in range(cores())]
    codes = np.empty(x.shape[0], np.int32)
    with side_by_side() as run:
        parts = run(lambda start: np.asarray(_assign_piece(x, np.int32(start), centroids, size)), starts)
    for start, part in zip(starts, parts, strict=True):
        codes[start : start + size] = part
    return jnp.asarray(codes)


@jax.jit
def _assign(x: jax.Array, centroids: jax.Array) -> jax.Array:
    if x.ndim == 2:
        return assign_blocks(to_blocks(x, block_size(1, x.shape[0])), centroids).reshape(-1)[: x.shape[0]]
    size = block_size(*x.shape[:2])
    blocks = jax.vmap(functools.partial(to_blocks, size=size))(x)
    codes = jax.vmap(assign_blocks, in_axes=(0, 0 if centroids.ndim == 3 else None))(blocks, centroids)
    return codes.reshape(x.shape[0], -1)[:, : x.shape[1]]


@functools.partial(jax.jit, static_argnames="size")
def _assign_piece(x: jax.Array, start: jax.Array, centroids: jax.Array, size: int) -> jax.Array:
    piece = jax.lax.dynamic_slice_in_dim(x, start, size)
    return assign_blocks(to_blocks(piece, block_size(1, size)), centroids).reshape(-1)


def assign_blocks(blocks: jax.Array, centroids: jax.Array) -> jax.Array:
    """Codes [blocks, size] of points in blocks [blocks, d, size]."""
    table = score_table(centroids)
    return jax.lax.map(lambda block: nearest(block, table), blocks)


def block_size(problems: int, n: int) -> int:
    """Points of one problem that are treated at once when `problems` run side by side."""
    budget = BLOCK if jax.default_backend() == "cpu" else ACCELERATOR_BLOCK
    return max(1, min(n, max(SMALLEST_BLOCK, budget // problems)))


def to_blocks(x: jax.Array, size: int) -> jax.Array:
    """[n, d] -> [ceil(n / size), d, size], filled up with zeros."""
    blocks = -(-x.shape[0] // size)
    padded = jnp.pad(x, ((0, blocks * size - x.shape[0]), (0, 0)))
    return padded.reshape(blocks, size, x.shape[1]).transpose(0, 2, 1)


def score_table(centroids: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Centroids as (origin [d], rows [tiles, tile, d + 1]): `rows @ [x - origin, 1]` sorts them by distance from x.

    The origin is the mean of the centroids: far from zero, |c|^2 - 2 c.x would lose all its digits to cancellation. One
    factor of each product is scaled to at most 1, so that nothing under- or overflows.
    """
    k, d = centroids.shape
    tiles = -(-k // TILE)
    tile = -(-k // tiles)
    origin = jnp.mean(centroids, axis=0)
    centred = centroids - origin[None, :]
    unit = centred / jnp.maximum(jnp.max(jnp.abs(centred)), jnp.finfo(centroids.dtype).tiny)
    rows = jnp.concatenate([-2 * unit, jnp.sum(unit * centred, axis=1, keepdims=True)], axis=1)
    never = jnp.zeros((tiles * tile - k, d + 1), rows.dtype).at[:, -1].set(jnp.inf)
    return origin, jnp.concatenate([rows, never]).reshape(tiles, tile, d + 1)


def nearest(block: jax.Array, table: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Codes [size] of the points in one block [d, size]."""
    origin, tiles = table
    size = block.shape[1]
    lifted = jnp.concatenate([block - origin[:, None], jnp.ones((1, size), block.dtype)])

    def challenge(best: tuple[jax.Array, jax.Array], tile: tuple[jax.Array, jax.Array]):
        first, rows = tile
        scores = jnp.matmul(rows, lifted, precision=jax.lax.Precision.HIGHEST)
        score, code = _tournament(scores)
        better = score < best[0]
        return (jnp.where(better, score, best[0]), jnp.where(better, code + first, best[1])), None

    start = jnp.full((size,), jnp.inf, block.dtype), jnp.zeros((size,), jnp.int32)
    firsts = jnp.arange(tiles.shape[0], dtype=jnp.int32) * tiles.shape[1]
    return jax.lax.scan(challenge, start, (firsts, tiles))[0][1]


def _tournament(scores: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Smallest score and its row for each column of [rows, size]. On CPU, XLA's own argmin is a scalar loop."""
    players = [(score, jnp.full(score.shape, i, jnp.int32)) for i, score in enumerate(scores)]
    while len(players) > 1:
        pairs = zip(players[::2], players[1::2], strict=False)
        winners = [(jnp.where(b[0] < a[0], b[0], a[0]), jnp.where(b[0] < a[0], b[1], a[1])) for a, b in pairs]
        players = winners + players[len(winners) * 2 :]
    return players[0]
