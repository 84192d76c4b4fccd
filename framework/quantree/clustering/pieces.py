"""Lloyd's iterations driven by the host, over points that it hands out in pieces.

On a CPU threads take the pieces side by side, where XLA would run one loop on one core; and points that don't fit the
device pass through it piece by piece. Pieces have one shape, so one program serves problems of any size.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from quantree.clustering.annealing import Noise, disturb
from quantree.clustering.lloyd import Far, Points, Sums, farthest, lost, measure, move, relocate
from quantree.clustering.search import in_blocks, shape_of_pieces
from quantree.clustering.threads import cores, side_by_side, wide_jit


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
    blocks, block = shape_of_pieces(n)
    size = blocks * block

    def read(i: int) -> Points:
        x, weights = load(slice(i * size, min(n, (i + 1) * size)))
        return Points(
            jnp.asarray(in_blocks(x, blocks, block)), jnp.asarray(in_blocks(weights[:, None], blocks, block)[:, 0])
        )

    return Pieces(n, size, -(-n // size), read)


def kept(pieces: Pieces) -> Pieces:
    """The same pieces, read once."""
    with side_by_side() as run:
        held = list(run(pieces.read, range(pieces.pieces)))
    return pieces._replace(read=held.__getitem__)


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

    with side_by_side() as run:

        def over_pieces(visit: Callable[[int], Any]) -> Any:
            return (run if pieces.pieces > 1 and cores() > 1 else map)(visit, range(pieces.pieces))

        def fit() -> Sums:
            def visit(i: int) -> Sums:
                rows = codes[i * pieces.size : (i + 1) * pieces.size]
                found, sums = _measure(pieces.read(i), centroids)
                rows[:] = np.asarray(found).reshape(-1)[: rows.size]
                return Sums(*(np.asarray(each) for each in sums))

            total = [np.zeros(shape) for shape in ((len(start),), (len(start),), start.shape)]
            for sums in over_pieces(visit):
                for whole, part in zip(total, sums, strict=True):
                    whole += part
            return Sums(*total)

        def advance(sums: Sums) -> tuple[jax.Array, int]:
            small = Sums(*(jnp.asarray(each, start.dtype) for each in sums))
            moved, empty = _moved(centroids, small, pinned=pinned)
            if not np.any(empty):
                return moved, 0

            def visit(i: int) -> Far:
                rows = codes[i * pieces.size : (i + 1) * pieces.size]
                points = pieces.read(i)
                whole = np.pad(rows, (0, pieces.size - rows.size)).reshape(points.weights.shape)
                return _farthest(points, jnp.asarray(whole), centroids)

            far = Far(np.zeros(len(start)), np.zeros(start.shape))
            for part in over_pieces(visit):
                cost, point = (np.asarray(each) for each in part)
                better = cost > far.cost
                far.cost[better], far.point[better] = cost[better], point[better]
            repaired, count = _relocate(moved, empty, Far(*(jnp.asarray(each, start.dtype) for each in far)))
            return repaired, int(count)

        sums = fit()
        for i in range(int(noise.steps) if noise is not None else 0):
            assert noise is not None
            mass = jnp.asarray(sums.mass, start.dtype)
            centroids = _disturb(noise, np.int32(i), advance(sums)[0], mass, pinned=pinned)
            sums = fit()
        history, repaired, converged = [float(sums.inertia.sum())], 0, False
        while len(history) <= iterations and not converged:
            centroids, moved = advance(sums)
            sums = fit()
            history.append(float(sums.inertia.sum()))
            converged = history[-2] - history[-1] <= tolerance * history[-2] and moved == 0
            repaired += moved
    return Outcome(centroids, codes, len(history) - 1, converged, repaired, np.asarray(history))


_measure = wide_jit()(measure)
_farthest = wide_jit()(farthest)
_relocate = jax.jit(relocate)
_disturb = jax.jit(disturb, static_argnames="pinned")


@jax.jit(static_argnames="pinned")
def _moved(centroids: jax.Array, sums: Sums, pinned: int) -> tuple[jax.Array, jax.Array]:
    return move(centroids, sums, pinned), lost(sums, pinned)
