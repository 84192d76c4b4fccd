"""Assignment, Lloyd iterations and batches of problems against faiss, scikit-learn and ott-jax:
`python -m experiments.benchmarks.clustering`.
"""

import argparse
import functools
import sys
from collections.abc import Callable

import jax
import numpy as np

from experiments.benchmarks import command, peers
from experiments.benchmarks.case import Case, Work
from quantree import clustering

SHAPES = ((262_144, 4, 256), (262_144, 8, 256), (65_536, 9, 256), (262_144, 16, 1024))
SMALL = ((8192, 4, 256), (32_768, 8, 64))  # for ott-jax, which holds n x k numbers
BATCH = (512, 2048, 4, 16)
SMOKE_SHAPES = ((512, 4, 16),)
SMOKE_BATCH = (3, 128, 4, 8)
ITERATIONS = 25
AT_ONCE = 1 << 22  # distances that the reckoning of an inertia holds


def cases(settings: argparse.Namespace) -> list[Callable[[], Case]]:
    """All cases of this command."""
    shapes = SMOKE_SHAPES if settings.smoke else SHAPES
    small = SMOKE_SHAPES if settings.smoke else SMALL
    batch = SMOKE_BATCH if settings.smoke else BATCH
    return [
        *(functools.partial(assignment, *shape) for shape in shapes),
        *(functools.partial(lloyd, *shape, peer="faiss") for shape in shapes),
        *(
            functools.partial(lloyd, *shape, peer=peer)
            for shape in shapes
            for peer in ("scikit-learn lloyd", "scikit-learn elkan")
        ),
        *(functools.partial(lloyd, *shape, peer="ott-jax") for shape in small),
        *(functools.partial(batched, *batch, peer=peer) for peer in ("faiss", "scikit-learn lloyd")),
    ]


def assignment(n: int, d: int, k: int) -> Case:
    """Codes of the nearest of k centroids."""
    x, centroids = points(n, d), points(k, d)
    on_device = jax.device_put(x), jax.device_put(centroids)
    faiss = peers.module("faiss")
    index = None if faiss is None else faiss.IndexFlatL2(d)
    if index is not None:
        index.add(centroids)

    return Case(
        f"assign n={n} d={d} k={k}",
        "faiss",
        lambda: np.asarray(clustering.assign(*on_device)),
        None if index is None else lambda: index.search(x, 1)[1][:, 0],
        quality=lambda codes: float(np.sum((x - centroids[codes]) ** 2, dtype=np.float64)),
        work=Work(flops=2.0 * n * k * d, bytes=4.0 * n * (d + 1)),
    )


def lloyd(n: int, d: int, k: int, peer: str) -> Case:
    """Iterations of k-means from the same start."""
    x = points(n, d)
    start = x[np.random.default_rng(1).permutation(n)[:k]]
    on_device, key = jax.device_put(x), jax.random.key(0)
    program = peers.kmeans(peer)

    def ours() -> np.ndarray:
        fit = clustering.kmeans(on_device, k, key=key, initial=start, iterations=ITERATIONS, tolerance=0)
        return np.asarray(jax.block_until_ready(fit).centroids)

    return Case(
        f"Lloyd x {ITERATIONS} n={n} d={d} k={k}",
        peer,
        ours,
        None if program is None else lambda: program(x, start, ITERATIONS),
        quality=lambda centroids: inertia(x, centroids),
        work=lloyd_work(n, d, k, ITERATIONS),
    )


def batched(b: int, n: int, d: int, k: int, peer: str) -> Case:
    """Independent problems: ours in one call, the peer in a loop."""
    x = points(b * n, d).reshape(b, n, d)
    picks = np.random.default_rng(1).permuted(np.tile(np.arange(n), (b, 1)), axis=1)[:, :k]
    start = np.take_along_axis(x, picks[:, :, None], axis=1)
    on_device, key = jax.device_put(x), jax.random.key(0)
    program = peers.kmeans(peer)

    def ours() -> np.ndarray:
        fit = clustering.kmeans(on_device, k, key=key, initial=start, iterations=ITERATIONS, tolerance=0)
        return np.asarray(jax.block_until_ready(fit).centroids)

    return Case(
        f"{b} problems, Lloyd x {ITERATIONS} n={n} d={d} k={k}",
        peer,
        ours,
        None if program is None else lambda: [program(*each, ITERATIONS) for each in zip(x, start, strict=True)],
        quality=lambda centroids: sum(inertia(*each) for each in zip(x, centroids, strict=True)),
        work=lloyd_work(b * n, d, k, ITERATIONS),
    )


def lloyd_work(n: int, d: int, k: int, iterations: int) -> Work:
    """Every distance once per iteration; points read and codes written once per iteration."""
    return Work(flops=2.0 * n * k * d * iterations, bytes=4.0 * n * (d + 1) * iterations)


def inertia(x: np.ndarray, centroids: np.ndarray) -> float:
    """Sum of squared distances to the nearest centroid, by NumPy, of points [n, d] and centroids [k, d]."""
    squares = np.sum(centroids**2, axis=1)
    step = max(1, AT_ONCE // len(centroids))
    total = 0.0
    for block in (x[first : first + step] for first in range(0, len(x), step)):
        codes = np.argmin(squares - 2 * block @ centroids.T, axis=1)
        total += float(np.sum((block - centroids[codes]) ** 2, dtype=np.float64))
    return total


def points(n: int, d: int) -> np.ndarray:
    """Normal points [n, d], the same in every process."""
    return np.random.default_rng(n + d).standard_normal((n, d), dtype=np.float32)


if __name__ == "__main__":
    sys.exit(command.run(__doc__ or "", cases))
