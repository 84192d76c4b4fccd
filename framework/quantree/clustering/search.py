"""Nearest centroid, in blocks of points against tiles of centroids.

The squared distance is taken as |c|^2 - 2 c.x, the part that differs between centroids. Points lie along the last axis,
so that all arithmetic runs over whole vectors of points. In few dimensions the products and comparisons of a tile are
one loop with nothing in memory between them. A loop of XLA on a CPU has one output, so score and code travel as the two
parts of one complex number. In many dimensions a tile is a matrix product and a tournament. Never more than
`TOURNAMENT` scores per point of one block exist at once.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from numpy.typing import ArrayLike

from quantree.clustering import checks
from quantree.clustering.meshes import mesh_of, place
from quantree.clustering.threads import on_host, side_by_side, wide_jit

TILE = 8  # centroids of one loop on a CPU: their numbers stay in registers
ACCELERATOR_PRODUCTS = 256  # of one loop on GPU and TPU, where fewer passes over the points are worth more
TOURNAMENT = 16  # centroids of one tile in many dimensions
WIDEST = 32  # dimensions up to which a tile is one loop
BLOCK = 2048  # points of all problems together, per step; they stay in the cache of a core
ACCELERATOR_BLOCK = 65536  # the same on GPU and TPU, where a step must be large to be worth its launch
SMALLEST_BLOCK = 64
MIDDLES = 4  # means on the way to where most centroids are
BLOCKS = 8  # that a thread takes at once
ACCELERATOR_BLOCKS = 16


def assign(x: ArrayLike, centroids: ArrayLike) -> jax.Array:
    """Codes of the nearest centroids by Euclidean distance, ties to the lowest index.

    x [n, d] and centroids [k, d] -> [n] int32; x [b, n, d] and centroids [b, k, d] or [k, d] -> [b, n] int32.
    Half precision is computed in float32. Memory beyond x and the result: two copies of x, 16 bytes per point.
    On a CPU the points of one problem are shared among threads, as many as `NPROC` or the machine has; the codes don't
    depend on it. Where x is sharded over its points, each device does its own, and the codes are sharded likewise.
    `LeafError` for wrong shapes, and for NaN or infinity where the arrays are concrete (not traced).
    """
    x, centroids = checks.compact("x", x), checks.points("centroids", centroids)
    if centroids.shape[-1] != x.shape[-1] or centroids.ndim > x.ndim or centroids.shape[:-2] not in ((), x.shape[:-2]):
        raise checks.LeafError(
            f"centroids of shape {centroids.shape} don't fit points of shape {x.shape}; "
            "expected [k, d] or [b, k, d] with the same d and b"
        )
    checks.finite(x=x, centroids=centroids)
    mesh = mesh_of(x)
    if mesh is not None:
        return _assign_sharded(x, centroids, mesh)
    threads = x.ndim == 2 and x.shape[0] > BLOCK and on_host(x, centroids)
    return _assign_in_threads(x, centroids) if threads else _assign(x, centroids)


@wide_jit()
def _assign(x: jax.Array, centroids: jax.Array) -> jax.Array:
    if x.ndim == 2:
        return assign_blocks(to_blocks(x, block_size(1, x.shape[0])), centroids).reshape(-1)[: x.shape[0]]
    size = block_size(*x.shape[:2])
    blocks = jax.vmap(functools.partial(to_blocks, size=size))(x)
    codes = jax.vmap(assign_blocks, in_axes=(0, 0 if centroids.ndim == 3 else None))(blocks, centroids)
    return codes.reshape(x.shape[0], -1)[:, : x.shape[1]]


def _assign_in_threads(x: jax.Array, centroids: jax.Array) -> jax.Array:
    """Pieces of one size, so that nothing is compiled anew for another number of points."""
    host, codes = np.asarray(x), np.empty(x.shape[0], np.int32)
    blocks, size = shape_of_pieces()

    def visit(first: int) -> None:
        rows = codes[first : first + blocks * size]
        piece = jnp.asarray(in_blocks(host[first : first + blocks * size], blocks, size))
        rows[:] = np.asarray(_assign_blocks(piece, centroids)).reshape(-1)[: rows.size]

    with side_by_side() as run:
        list(run(visit, range(0, x.shape[0], blocks * size)))
    return jnp.asarray(codes)


def _assign_sharded(x: jax.Array, centroids: jax.Array, mesh: Mesh) -> jax.Array:
    assert isinstance(x.sharding, NamedSharding)
    split = PartitionSpec(*x.sharding.spec[: x.ndim - 1])
    own = PartitionSpec(*split[: centroids.ndim - 2])
    return _assign_on(place(x, mesh, split), place(centroids, mesh, own), mesh, (split, own))


@functools.partial(jax.jit, static_argnames=("mesh", "splits"))
def _assign_on(x: jax.Array, centroids: jax.Array, mesh: Mesh, splits: tuple[PartitionSpec, PartitionSpec]):
    each = jax.shard_map(_assign.inner, mesh=mesh, in_specs=splits, out_specs=splits[0], check_vma=False)
    return each(x, centroids)


def assign_blocks(blocks: jax.Array, centroids: jax.Array) -> jax.Array:
    """Codes [blocks, size] of points in blocks [blocks, d, size], which may be narrower than the centroids [k, d]."""
    return assign_batch(blocks[None], centroids[None])[0]


def assign_batch(blocks: jax.Array, centroids: jax.Array, used: jax.Array | None = None) -> jax.Array:
    """Codes [b, blocks, size] of b problems [b, blocks, d, size] with centroids [b, k, d], one after the other.

    used []: how many of all blocks hold points; the others get code 0.
    """
    origins, tables = jax.vmap(score_table)(centroids)
    b, each, d, size = blocks.shape
    firsts = jnp.arange(tables.shape[1], dtype=origins.dtype) * tables.shape[2]
    challenge = _one_loop if d <= WIDEST else _tournament
    flat = blocks.reshape(b * each, d, size)

    def visit(i: jax.Array, best: jax.Array) -> jax.Array:
        origin, tiles = origins[i // each], tables[i // each]
        points = flat[i].astype(origin.dtype) - origin[:, None]
        # The winners of all blocks are one buffer that is updated in place. XLA on a CPU would cut any other loop into
        # tasks for its threads, one by one, and each is far too short for that.
        return jax.lax.fori_loop(
            0, tiles.shape[0], lambda j, best: best.at[i].set(challenge(points, best[i], firsts[j], tiles[j])), best
        )

    nobody = jnp.full((b * each, size), jnp.inf, origins.dtype), jnp.zeros((b * each, size), origins.dtype)
    best = jax.lax.fori_loop(0, b * each if used is None else used, visit, jax.lax.complex(*nobody))
    return jnp.imag(best).astype(jnp.int32).reshape(b, each, size)


_assign_blocks = wide_jit()(assign_blocks)


def block_size(problems: int, n: int) -> int:
    """Points of one problem that are treated at once when `problems` run side by side."""
    budget = BLOCK if jax.default_backend() == "cpu" else ACCELERATOR_BLOCK
    return max(1, min(n, max(SMALLEST_BLOCK, budget // problems)))


def shape_of_pieces() -> tuple[int, int]:
    """(blocks, points of a block) of the pieces that the host hands out."""
    return (BLOCKS, BLOCK) if jax.default_backend() == "cpu" else (ACCELERATOR_BLOCKS, ACCELERATOR_BLOCK)


def in_blocks(x: np.ndarray, blocks: int, size: int) -> np.ndarray:
    """As `to_blocks`, on the host: at most blocks x size points [n, d] -> [blocks, d, size]."""
    room = blocks * size - x.shape[0]
    whole = np.pad(x, ((0, room), (0, 0))) if room else x
    return np.ascontiguousarray(whole.reshape(blocks, size, -1).transpose(0, 2, 1))


def to_blocks(x: jax.Array, size: int) -> jax.Array:
    """[n, d] -> [ceil(n / size), d, size], filled up with zeros."""
    blocks = -(-x.shape[0] // size)
    padded = jnp.pad(x, ((0, blocks * size - x.shape[0]), (0, 0)))
    return padded.reshape(blocks, size, x.shape[1]).transpose(0, 2, 1)


def score_table(centroids: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Centroids as (origin [d], rows [tiles, tile, d + 1]): `rows @ [x - origin, 1]` sorts them by distance from x.

    The origin lies among the centroids: far from zero, |c|^2 - 2 c.x would lose all its digits to cancellation. One
    factor of each product is scaled to at most 1, so that nothing under- or overflows.
    """
    k, d = centroids.shape
    most = _tile(d)
    tiles = -(-k // most)
    tile = -(-k // tiles)
    origin = _middle(centroids)
    centred = centroids - origin[None, :]
    unit = centred / jnp.maximum(jnp.max(jnp.abs(centred)), jnp.finfo(centroids.dtype).tiny)
    rows = jnp.concatenate([-2 * unit, jnp.sum(unit * centred, axis=1, keepdims=True)], axis=1)
    never = jnp.zeros((tiles * tile - k, d + 1), rows.dtype).at[:, -1].set(jnp.inf)
    return origin, jnp.concatenate([rows, never]).reshape(tiles, tile, d + 1)


def _middle(centroids: jax.Array) -> jax.Array:
    """Where most centroids are, [d]: their mean, then means by the inverse squared distance from the last one, so that
    a few far ones don't pull it away from the others.
    """
    scale = jnp.maximum(jnp.max(jnp.abs(centroids)), jnp.finfo(centroids.dtype).tiny)
    near = centroids / scale
    middle = jnp.mean(near, axis=0)
    for _ in range(MIDDLES):
        squares = jnp.sum((near - middle[None, :]) ** 2, axis=1)
        shares = 1 / (squares + jnp.min(squares) + jnp.finfo(near.dtype).tiny)
        middle = (shares / jnp.sum(shares)) @ near
    return middle * scale


def _tile(d: int) -> int:
    if d > WIDEST:
        return TOURNAMENT
    return TILE if jax.default_backend() == "cpu" else max(TILE, ACCELERATOR_PRODUCTS // d)


def _one_loop(points: jax.Array, best: jax.Array, first: jax.Array, rows: jax.Array) -> jax.Array:
    """The winners [size], score and code, after a tile of centroids [tile, d + 1] whose first is number `first`."""
    score, code = jnp.real(best), jnp.imag(best)
    for i in range(rows.shape[0]):
        own = jnp.full_like(score, rows[i, -1])
        for j in range(points.shape[0]):
            own = own + rows[i, j] * points[j]
        better = own < score
        score, code = jnp.where(better, own, score), jnp.where(better, first + i, code)
    return jax.lax.complex(score, code)


def _tournament(points: jax.Array, best: jax.Array, first: jax.Array, rows: jax.Array) -> jax.Array:
    """As `_one_loop`, by a matrix product."""
    scores = jnp.matmul(rows[:, :-1], points, precision=jax.lax.Precision.HIGHEST) + rows[:, -1:]
    # On a CPU XLA's own argmin is a scalar loop.
    players = [(jnp.real(best), jnp.imag(best))]
    players += [(score, first + jnp.full_like(score, i)) for i, score in enumerate(scores)]
    while len(players) > 1:
        pairs = zip(players[::2], players[1::2], strict=False)
        winners = [(jnp.where(b[0] < a[0], b[0], a[0]), jnp.where(b[0] < a[0], b[1], a[1])) for a, b in pairs]
        players = winners + players[len(winners) * 2 :]
    return jax.lax.complex(*players[0])
