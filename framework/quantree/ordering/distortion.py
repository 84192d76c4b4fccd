"""Search for the order of channels under which k-means itself loses least.

At fixed centroids the error of a block depends on that block alone. So swaps whose blocks differ add up exactly: many
of them, drawn at random, are tried by one assignment of all sub-vectors, and those that lower the error are made. By
turns with Lloyd's iterations, which lower it for a fixed order, it only falls.

Children add up as in `moments`: the log of the mean squared error of a weight, by their share of all weights. The log
is concave, so whatever lowers the sum of errors, each over its child's own now, lowers that too.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from quantree.clustering import checks, kmeans
from quantree.clustering.lloyd import Points, measure_one, move
from quantree.clustering.search import assign_blocks
from quantree.ordering.children import Child
from quantree.ordering.covariance import Order
from quantree.ordering.moments import RIDGE
from quantree.ordering.swaps import Swaps, Touched, disjoint, drawn, made

ROUNDS = 4  # of swaps at fixed centroids
FIRST_ITERATIONS = 10  # of k-means before the first swap


def by_distortion(
    children: Sequence[Child], k: int, *, key: jax.Array, steps: int = 100, start: np.ndarray | None = None
) -> Order:
    """The best order that `steps` steps find for codebooks of k centroids, one for each child.

    A step is one iteration of Lloyd's and four rounds of swaps. start: the order [G] to begin with; None: as the
    channels are. Centroids that fit one order hold on to it, so begin where `by_covariance` ends, which gains far more;
    this then takes what a Gaussian doesn't know. before and after: what `distortion` says with this key, of the
    channels as they are and of the best of start and end. Deterministic for a key.

    Memory: five copies of the children in which the order matters, 8 bytes per sub-vector. `LeafError` as in
    `by_covariance`.
    """
    checks.random_key(key)
    checks.codebook_size(k)
    checks.whole("steps", steps, 0)
    size = len(children[0].places)
    identity = np.arange(size)
    begin = identity if start is None else np.asarray(start)
    of_start, of_search = jax.random.split(key)
    before = distortion(children, k, key=key)
    moving = [child for child in children if child.matters]
    if not moving:
        return Order(identity, before, before, 0)
    total = sum(child.x.size for child in moving)
    fields = tuple(_field(child, k, begin, of_start, total) for child in moving)
    order, tried = _descend(fields, jnp.asarray(begin, jnp.int32), of_search, jnp.asarray(steps))
    ends = [begin, np.asarray(order, np.int64)]
    losses = [distortion(children, k, key=key, order=end) for end in ends]
    best = int(np.argmin(losses))
    if losses[best] < before:
        return Order(ends[best], before, losses[best], int(tried))
    return Order(identity, before, before, int(tried))


def distortion(children: Sequence[Child], k: int, *, key: jax.Array, order: np.ndarray | None = None) -> float:
    """Mean log squared error of a weight, in nats, that k-means leaves under an order [G]; None: as the channels are.

    A child with fewer vectors than k has as many centroids as vectors. An error below 1e-5 of the child's variance
    counts as that.
    """
    total = sum(child.x.size for child in children)
    found = 0.0
    for child in children:
        x, scale = _scaled(child.vectors(order))
        x = x.reshape(-1, x.shape[-1])
        error = float(kmeans(x, min(k, len(x)), key=key).inertia) / child.x.size
        found += child.x.size / total * (float(np.log(max(error, RIDGE))) + 2 * float(np.log(scale)))
    return found


def _scaled(vectors: np.ndarray) -> tuple[np.ndarray, float]:
    """Centred, in units of their deviation, and that unit."""
    wide = vectors.astype(np.float64)
    wide = wide - wide.mean()
    scale = float(np.sqrt(np.mean(np.square(wide)))) or 1.0
    return (wide / scale).astype(np.float32), scale


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Field:
    """One child. x: [T b, w, rows], what lies in each slot of its T blocks. places: [G, m]. centroids: [k, d].
    share: [], of all weights.
    """

    x: jax.Array
    places: jax.Array
    centroids: jax.Array
    share: jax.Array
    b: int = field(metadata={"static": True})

    def pieces(self, order: jax.Array) -> jax.Array:
        """[T, d, rows] under an order."""
        source = jnp.arange(len(self.x), dtype=jnp.int32).at[self.places].set(self.places[order])
        return self.x[source].reshape(len(self.x) // self.b, -1, self.x.shape[-1])


def _field(child: Child, k: int, order: np.ndarray, key: jax.Array, total: int) -> _Field:
    vectors, _ = _scaled(child.vectors())
    rows, pieces, d = vectors.shape
    b = child.per_block
    begin = _scaled(child.vectors(order))[0].reshape(-1, d)
    fit = kmeans(begin, min(k, len(begin)), key=key, iterations=FIRST_ITERATIONS)
    return _Field(
        x=jnp.asarray(vectors.reshape(rows, pieces * b, -1).transpose(1, 2, 0)),
        places=jnp.asarray(child.places, jnp.int32),
        centroids=fit.centroids,
        share=jnp.asarray(child.x.size / total, jnp.float32),
        b=b,
    )


def _errors(pieces: jax.Array, centroids: jax.Array) -> jax.Array:
    """Squared error of each block, [T]."""
    nearest = centroids[assign_blocks(pieces, centroids)].swapaxes(1, 2)
    return jnp.sum(jnp.square(pieces - nearest), axis=(1, 2))


@jax.jit
def _descend(
    fields: tuple[_Field, ...], start: jax.Array, key: jax.Array, steps: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The order after so many steps, and how many swaps were tried."""
    blocks = [Touched(each.places // each.b, len(each.x) // each.b) for each in fields]
    size = start.size

    def lloyd(each: _Field, centroids: jax.Array, order: jax.Array) -> tuple[jax.Array, jax.Array]:
        pieces = each.pieces(order)
        _, sums = measure_one(Points(pieces, jnp.ones_like(pieces[:, 0])), centroids)
        centroids = move(centroids, sums, 0)
        return centroids, _errors(pieces, centroids)

    def step(i: jax.Array, state: tuple[jax.Array, list[jax.Array], jax.Array]):
        order, centroids, tried = state
        moved = [lloyd(*each, order) for each in zip(fields, centroids, strict=True)]
        centroids = [each[0] for each in moved]
        of_step = jax.random.fold_in(key, i)

        def swap(j: jax.Array, state: tuple[jax.Array, list[jax.Array], jax.Array]):
            order, errors, tried = state
            of_swaps, of_choice = jax.random.split(jax.random.fold_in(of_step, j))
            swaps = drawn(of_swaps, size, 2 * size)
            chosen = disjoint(blocks, swaps, jax.random.uniform(of_choice, swaps.one.shape, minval=0.1))
            real = chosen.one < size
            trial = made(order, chosen, real)
            gain, new, owners = jnp.zeros(real.shape, jnp.float32), [], []
            for each, here, table, old in zip(fields, blocks, centroids, errors, strict=True):
                new.append(_errors(each.pieces(trial), table))
                owners.append(_owners(here, chosen))
                weight = each.share / jnp.maximum(jnp.sum(old), jnp.finfo(old.dtype).tiny)
                gain = gain.at[owners[-1]].add(weight * (old - new[-1]), mode="drop")
            taken = real & (gain > 0)
            kept = [
                jnp.where(jnp.append(taken, False)[owner], after, before)
                for owner, after, before in zip(owners, new, errors, strict=True)
            ]
            return made(order, chosen, taken), kept, tried + jnp.sum(real, dtype=jnp.int32)

        order, _, tried = jax.lax.fori_loop(0, ROUNDS, swap, (order, [each[1] for each in moved], tried))
        return order, centroids, tried

    begin = start, [each.centroids for each in fields], jnp.zeros((), jnp.int32)
    order, _, tried = jax.lax.fori_loop(0, steps, step, begin)
    return order, tried


def _owners(blocks: Touched, chosen: Swaps) -> jax.Array:
    """Which of the chosen swaps touches each block, [count]; their number where none does."""
    n = chosen.one.size
    which = jnp.broadcast_to(jnp.arange(n, dtype=jnp.int32)[:, None], (n, blocks.of.shape[1]))
    owners = jnp.full(blocks.blocks, n, jnp.int32)
    for each in chosen:
        real = (each < len(blocks.of))[:, None]
        owners = owners.at[jnp.where(real, blocks.of[each], blocks.blocks)].set(which, mode="drop")
    return owners
