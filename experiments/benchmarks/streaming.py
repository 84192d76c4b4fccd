"""k-means of more points than should be in memory at once: `python -m experiments.benchmarks.streaming`.

The points lie in a file that is mapped into memory and read piece by piece. There is no peer: what is shown is that it
stays under its limit of memory, and how near to the roofline.
"""

import argparse
import functools
import sys
import tempfile
from collections.abc import Callable

import jax
import numpy as np

from experiments.benchmarks import command
from experiments.benchmarks.case import Case
from experiments.benchmarks.clustering import inertia, lloyd_work

SHAPE = (20_000_000, 8, 4096)
SMOKE_SHAPE = (20_000, 8, 64)
CHUNK = 1 << 18  # points that are drawn at once
SAMPLE = 100_000  # points on which the inertia is reckoned
MEMORY_LIMIT = 4_000_000_000  # bytes
ROUNDS = 1  # a run takes minutes


def arguments() -> argparse.ArgumentParser:
    """What can be set."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--iterations", type=int, default=1, help="passes over the points that move centroids")
    return parser


def cases(settings: argparse.Namespace) -> list[Callable[[], Case]]:
    """All cases of this command."""
    return [functools.partial(streamed, *(SMOKE_SHAPE if settings.smoke else SHAPE), settings.iterations)]


def streamed(n: int, d: int, k: int, iterations: int) -> Case:
    """Lloyd iterations over points in a file."""
    x = points_in_file(n, d)
    start, key = np.array(x[:k]), jax.random.key(0)

    def ours() -> np.ndarray:
        from quantree.clustering import kmeans_streamed

        fit = kmeans_streamed(x, k, key=key, initial=start, iterations=iterations)
        return np.asarray(jax.block_until_ready(fit).centroids)

    return Case(
        f"streamed, Lloyd x {iterations} n={n} d={d} k={k}",
        "",
        ours,
        None,
        quality=lambda centroids: inertia(np.array(x[:SAMPLE]), centroids),
        work=lloyd_work(n, d, k, iterations),
        memory_limit=MEMORY_LIMIT,
    )


def points_in_file(n: int, d: int) -> np.ndarray:
    """Normal points [n, d] in a temporary file, which goes when the array does."""
    with tempfile.TemporaryFile() as file:
        x = np.memmap(file, np.float32, "w+", shape=(n, d))
    draw = np.random.default_rng(0)
    for first in range(0, n, CHUNK):
        part = x[first : first + CHUNK]
        part[:] = draw.standard_normal(part.shape, dtype=np.float32)
    return x


if __name__ == "__main__":
    sys.exit(command.run(__doc__ or "", cases, arguments(), rounds=ROUNDS))
