"""k-means of points that fit neither the device nor, perhaps, memory: read by rows, a piece at a time."""

from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from quantree.clustering import checks
from quantree.clustering.host import result
from quantree.clustering.pieces import Pieces, farthest_of, fit, in_order, lloyd_by_pieces, pieces_of, relocated
from quantree.clustering.problem import Settings, begin
from quantree.clustering.result import KMeans
from quantree.clustering.rows import Rows, Source, source
from quantree.clustering.starts import SAMPLE, SMALLEST_SAMPLE
from quantree.errors import LeafError

Sampled = Literal["k-means++", "k-means||", "random"]
SAMPLED: tuple[str, ...] = get_args(Sampled)
WINDOW = 16  # points per centroid among which one that takes none counts as lost


class _Begun(NamedTuple):
    """What is to be clustered, and centroids [k, d] in its unit, of which the first `pinned` stay."""

    data: Source
    start: jax.Array
    pinned: int


def kmeans_streamed(
    x: Rows | ArrayLike,
    k: int,
    *,
    key: jax.Array,
    weights: Rows | ArrayLike | None = None,
    init: Sampled = "k-means++",
    initial: ArrayLike | None = None,
    pinned: ArrayLike | None = None,
    iterations: int = 25,
    tolerance: float = 1e-4,
) -> KMeans:
    """`kmeans` of one problem whose points are read anew in every pass, never all at once.

    x: points [n, d], anything with `shape`, `dtype` and slices of rows: an array of NumPy, also one mapped to memory,
        a data set of h5py or zarr.
    weights: importance of each point, at least 0, [n]; read in the same way.
    init: "k-means++" or "k-means||" on max(8192, 32 k) points drawn by weight, as in `kmeans`, or "random". Starts that
        must sort or measure all points are not to be had here.

    All else, and the result, as in `kmeans`: equal up to rounding from the same start. One pass more than iterations
    looks for the largest magnitude and for what isn't a number, and one measures the start; the sample is read in
    another, and so are the far points of an iteration that has to repair.

    Memory: 8 bytes per point for codes. Each thread holds one piece of at most 16,384 points (1,048,576 on an
    accelerator) two times, and up to 5 sums of k (d + 2) numbers. A k-means++ start needs the most where k is large: it
    holds 2 (2 + ln k) distances for each of its points. Of a file that is mapped the system keeps as much as it likes.

    `LeafError` if shapes or k don't fit, for NaN, infinity and negative weights, and inside `jax.jit`.
    """
    checks.whole("iterations", iterations, 0)
    checks.share("tolerance", tolerance)
    checks.random_key(key)
    data, start, fixed = _begin(x, k, key, weights, init, initial, pinned)
    found = lloyd_by_pieces(data.pieces(), start, fixed, int(iterations), float(tolerance))
    return result(found, None, data.unit, data.weight_unit, Settings(int(k), init, 1, None, int(iterations)))


def kmeans_minibatch(
    x: Rows | ArrayLike,
    k: int,
    *,
    key: jax.Array,
    batch: int = 16384,
    steps: int = 100,
    weights: Rows | ArrayLike | None = None,
    init: Sampled = "k-means++",
    initial: ArrayLike | None = None,
    pinned: ArrayLike | None = None,
) -> KMeans:
    """Mini-batch k-means (Sculley, "Web-scale k-means clustering", WWW 2010): centroids move after every few points.

    batch: points of one step, drawn with replacement, each as likely; at most n. Threads share what is above 16,384.
    steps: how many batches are drawn. A centroid moves to the mean of all points that it has taken so far: its learning
        rate is one over their number, or weight.

    A centroid that takes none of 16 k points in succession is moved to a far point of the batch and begins anew. In the
    end all points get the code of the nearest centroid, in one pass that moves nothing. Deterministic for a key.

    Of the result, `steps` are those asked for and `converged` is false; `history` is the inertia that each batch had
    before it moved anything, times n / batch, and at the end that of all points. All else, memory too, as in
    `kmeans_streamed`; three batches are held besides.
    """
    checks.whole("batch", batch, 1)
    checks.whole("steps", steps, 0)
    data, centroids, fixed = _begin(x, k, key, weights, init, initial, pinned)
    n, seed = data.x.shape[0], _seed(jax.random.fold_in(key, 1))
    batch = min(int(batch), n)
    taken, recent, seen, repaired = np.zeros(k), np.zeros(k), 0, 0
    free = np.arange(k) >= fixed
    codes, history = np.empty(batch, np.int32), []

    def read(i: int) -> Pieces:
        points, heavy = data.take(np.sort(np.random.default_rng([*seed, i]).integers(0, n, batch)))
        return pieces_of(batch, lambda rows: (points[rows], heavy[rows]))

    with in_order() as run, in_order(ahead=1) as reading:
        for pieces in reading(read, int(steps)):
            sums = fit(run, pieces, centroids, codes)
            history.append(sums.inertia.sum() * n / batch)
            taken, recent, seen = taken + sums.mass, recent + sums.mass, seen + batch
            shares = np.where(free & (taken > 0), 1 / np.where(taken > 0, taken, 1), 0)
            moved = jnp.asarray(centroids + sums.pull * shares[:, None], centroids.dtype)
            if seen >= WINDOW * k:
                lost = free & (recent == 0)
                if lost.any():
                    moved, count = relocated(moved, lost, farthest_of(run, pieces, centroids, codes))
                    taken, repaired = np.where(lost, 0, taken), repaired + count
                recent, seen = np.zeros(k), 0
            centroids = moved
    found = lloyd_by_pieces(data.pieces(), centroids, fixed, 0, 0.0)
    found = found._replace(steps=int(steps), repaired=repaired, history=np.append(history, found.history))
    whole = result(found, None, data.unit, data.weight_unit, Settings(int(k), init, 1, None, int(steps)))
    return whole._replace(converged=jnp.asarray(False))


def _begin(x: Any, k: int, key: jax.Array, weights: Any, init: Sampled, initial: Any, pinned: Any) -> _Begun:
    """Checks what a caller gave, and starts."""
    checks.codebook_size(k)
    if init not in SAMPLED:
        known = ", ".join(repr(each) for each in SAMPLED)
        raise LeafError(f"init is {init!r}; points that are read by rows start from {known}, or from `initial`")
    data = source(x, weights)
    fixed = _centroids("pinned", jnp.zeros((0, data.x.shape[1])) if pinned is None else pinned, None, data)
    free = k - len(fixed)
    if free < 0:
        raise LeafError(f"{len(fixed)} centroids are pinned, but k is {k}")
    given = None if initial is None else _centroids("initial", initial, free, data)
    points, heavy = _sample(data, free if given is None else 0, key, init)
    settings = Settings(int(k), init, 1, None, 0)
    return _Begun(data, begin(key, jnp.asarray(points), jnp.asarray(heavy), fixed, given, settings), len(fixed))


def _centroids(name: str, value: Any, count: int | None, data: Source) -> jax.Array:
    """`value` as [count, d] in the unit of the points; `LeafError` if it does not fit."""
    array = checks.floating(name, value).astype(data.width)
    if array.ndim != 2 or array.shape[1] != data.x.shape[1] or count not in (None, array.shape[0]):
        wanted = "the number of pinned centroids" if count is None else str(count)
        raise LeafError(f"{name} has shape {array.shape}; expected [{wanted}, {data.x.shape[1]}]")
    checks.finite(**{name: array})
    return array / data.width.type(data.unit)


def _sample(data: Source, k: int, key: jax.Array, init: str) -> tuple[np.ndarray, np.ndarray]:
    """Points and weights from which `begin` starts k centroids; all there are, if they are few."""
    n, count = data.x.shape[0], max(SMALLEST_SAMPLE, SAMPLE * k)
    if n <= count or k == 0 or data.present.sum() == 0:
        return data.load(slice(0, min(n, count)))
    rows = data.draw(np.random.default_rng(_seed(key)), count, by_weight=init != "random")
    points, heavy = data.take(rows)
    real = heavy > 0
    if init == "random":
        real[1:] &= rows[1:] != rows[:-1]  # a point that was drawn twice is one point
    return points, real.astype(data.width)


def _seed(key: jax.Array) -> np.ndarray:
    """Numbers from which NumPy, which knows of rows beyond 2^31, draws."""
    return np.asarray(jax.random.bits(key, (4,)))
