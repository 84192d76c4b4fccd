"""Lloyd's iterations driven by the host, over points that it hands out in pieces.

On a CPU threads take the pieces side by side, where XLA would run one loop on one core; and points that don't fit the
device pass through it piece by piece. Pieces have one shape, so one program serves problems of any size.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from quantree.clustering.annealing import Noise, disturb
from quantree.clustering.lloyd import Far, Points, Sums, farthest, lost, measure_one, move, relocate
from quantree.clustering.search import in_blocks, shape_of_pieces
from quantree.clustering.threads import cores, side_by_side, wide_jit

AHEAD = 4  # results per thread that may wait to be asked for

InOrder = Callable[[Callable[[int], Any], int], Iterator[Any]]
"""Gives `visit(i)` for i from 0 to count - 1."""


class Pieces(NamedTuple):
    """n points, cut into `pieces` of `size` each, the last one filled up; `read(i)` gives piece i."""

    n: int
    size: int
    pieces: int
    read: Callable[[int], Points]


class Outcome(NamedTuple):
    """As `lloyd.State`, of one problem and on the host; codes [n] int32, history [steps + 1]."""

    centroids: jax.Array
    codes: np.ndarray
    steps: int
    converged: bool
    repaired: int
    history: np.ndarray

    @property
    def inertia(self) -> float:
        """That of the centroids and codes."""
        return float(self.history[-1])


def pieces_of(n: int, load: Callable[[slice], tuple[np.ndarray, np.ndarray]]) -> Pieces:
    """Pieces of n points; `load` gives the points [rows, d] and weights [rows] of a range of rows."""
    blocks, block = shape_of_pieces()
    size = blocks * block

    def read(i: int) -> Points:
        x, weights = load(slice(i * size, min(n, (i + 1) * size)))
        return Points(
            jnp.asarray(in_blocks(x, blocks, block)), jnp.asarray(in_blocks(weights[:, None], blocks, block)[:, 0])
        )

    return Pieces(n, size, -(-n // size), read)


def kept(pieces: Pieces) -> Pieces:
    """The same pieces, read once."""
    with in_order() as run:
        held = list(run(pieces.read, pieces.pieces))
    return pieces._replace(read=held.__getitem__)


@contextmanager
def in_order(ahead: int | None = None) -> Iterator[InOrder]:
    """Threads that work ahead of whoever asks for results, by `ahead` results; `AHEAD` per thread if not given."""
    most = AHEAD * cores() if ahead is None else ahead
    with side_by_side() as run:

        def visits(visit: Callable[[int], Any], count: int) -> Iterator[Any]:
            if count == 1 or cores() == 1:
                yield from map(visit, range(count))
                return
            waiting: deque[Iterator[Any]] = deque()
            for i in range(count):
                waiting.append(run(visit, (i,)))
                if len(waiting) > most:
                    yield from waiting.popleft()
            for result in waiting:
                yield from result

        yield visits


def fit(run: InOrder, pieces: Pieces, centroids: jax.Array, codes: np.ndarray) -> Sums:
    """Sums [k], [k] and [k, d] over all points, in float64; their codes are written to `codes` [n]."""

    def visit(i: int) -> Sums:
        rows = codes[i * pieces.size : (i + 1) * pieces.size]
        points = pieces.read(i)
        used: Any = np.int32(-(-rows.size // points.x.shape[-1]))
        found, sums = _measure(points, centroids, used)
        rows[:] = np.asarray(found).reshape(-1)[: rows.size]
        return Sums(*(np.asarray(each) for each in sums))

    total = [np.zeros(shape) for shape in ((len(centroids),), (len(centroids),), centroids.shape)]
    for sums in run(visit, pieces.pieces):
        for whole, part in zip(total, sums, strict=True):
            whole += part
    return Sums(*total)


def farthest_of(run: InOrder, pieces: Pieces, centroids: jax.Array, codes: np.ndarray) -> Far:
    """The costliest point of each cluster, of all points with these codes [n]."""

    def visit(i: int) -> Far:
        rows = codes[i * pieces.size : (i + 1) * pieces.size]
        points = pieces.read(i)
        whole = np.pad(rows, (0, pieces.size - rows.size)).reshape(points.weights.shape)
        return Far(*(np.asarray(each) for each in _farthest(points, jnp.asarray(whole), centroids)))

    far = Far(np.zeros(len(centroids)), np.zeros(centroids.shape))
    for cost, point in run(visit, pieces.pieces):
        better = cost > far.cost
        far.cost[better], far.point[better] = cost[better], point[better]
    return far


def relocated(moved: jax.Array, empty: Any, far: Far) -> tuple[jax.Array, int]:
    """As `relocate`, for what the host has put together."""
    found, count = _relocate(moved, jnp.asarray(empty), Far(*(jnp.asarray(each, moved.dtype) for each in far)))
    return found, int(count)


def lloyd_by_pieces(
    pieces: Pieces,
    start: jax.Array,
    pinned: int,
    iterations: int,
    tolerance: float,
    noise: Noise | None = None,
) -> Outcome:
    """As `lloyd`, for one problem with start [k, d]; `noise` disturbs iterations that come before."""
    codes, centroids = np.empty(pieces.n, np.int32), start

    with in_order() as run:

        def advance(sums: Sums) -> tuple[jax.Array, int]:
            small = Sums(*(each.astype(start.dtype) for each in sums))
            moved, empty = _moved(centroids, small, pinned=pinned)
            if not np.asarray(empty).any():
                return moved, 0
            return relocated(moved, empty, farthest_of(run, pieces, centroids, codes))

        sums = fit(run, pieces, centroids, codes)
        for i in range(int(noise.steps) if noise is not None else 0):
            assert noise is not None
            mass = jnp.asarray(sums.mass, start.dtype)
            centroids = _disturb(noise, np.int32(i), advance(sums)[0], mass, pinned=pinned)
            sums = fit(run, pieces, centroids, codes)
        history, repaired, converged = [float(sums.inertia.sum())], 0, False
        while len(history) <= iterations and not converged:
            centroids, moved = advance(sums)
            sums = fit(run, pieces, centroids, codes)
            history.append(float(sums.inertia.sum()))
            converged = history[-2] - history[-1] <= tolerance * history[-2] and moved == 0
            repaired += moved
    return Outcome(centroids, codes, len(history) - 1, converged, repaired, np.asarray(history))


_measure = wide_jit()(measure_one)
_farthest = wide_jit()(farthest)
_relocate = jax.jit(relocate)
_disturb = jax.jit(disturb, static_argnames="pinned")


@jax.jit(static_argnames="pinned")
def _moved(centroids: jax.Array, sums: Sums, pinned: int) -> tuple[jax.Array, jax.Array]:
    return move(centroids, sums, pinned), lost(sums, pinned)
