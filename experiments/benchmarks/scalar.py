"""Clustering of scalars: the fast path against scikit-learn, the exact optimum against kmeans1d, and how near the
entropy-constrained one comes to theory: `python -m experiments.benchmarks.scalar`.
"""

import argparse
import functools
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.benchmarks import command, peers
from experiments.benchmarks.case import Case, Work
from quantree import clustering
from quantree.coding import Coder, Symbols

FAST = ((1_000_000, 16), (1_000_000, 256))
EXACT = ((10_000, 16), (10_000, 256), (100_000, 16), (100_000, 256))
SMOKE = ((2000, 16),)
ITERATIONS = 50  # of scikit-learn
CODED = 1_000_000  # values
SMOKE_CODED = 200_000  # with fewer, the codebook and the coder's table count for more than 1 %
RATES = (
    ("normal", 2.08, 0.0798),
    ("laplace", 1.63, 0.118),
    ("laplace", 2.16, 0.0599),
    ("laplace", 2.67, 0.0298),
)
"""Source of variance 1, bits per value, and the squared error per value that entropy-coded scalars can reach."""

Found = tuple[np.ndarray, np.ndarray]
"""Centroids [k] and codes [n]."""


def cases(settings: argparse.Namespace) -> list[Callable[[], Case]]:
    """All cases of this command."""
    values = SMOKE_CODED if settings.smoke else CODED
    return [
        *(functools.partial(fast, *shape) for shape in (SMOKE if settings.smoke else FAST)),
        *(functools.partial(exact, *shape) for shape in (SMOKE if settings.smoke else EXACT)),
        *(functools.partial(coded, values, *row) for row in RATES),
    ]


def fast(n: int, k: int) -> Case:
    """The default against Lloyd's iterations from quantiles. Ours goes on until it has converged."""
    x = _values(n)
    start = np.quantile(x, (np.arange(k) + 0.5) / k).astype(np.float32)[:, None]
    cluster = peers.module("sklearn.cluster")

    def theirs() -> Found:
        fit = cluster.KMeans(k, init=start, n_init=1, max_iter=ITERATIONS, tol=0).fit(x[:, None])
        return fit.cluster_centers_[:, 0], fit.labels_

    return Case(
        f"scalar n={n} k={k}",
        f"scikit-learn lloyd x {ITERATIONS}",
        lambda: _found(clustering.kmeans_1d(x, k)),
        None if cluster is None else theirs,
        quality=functools.partial(_inertia, x),
        lower_is_equal=True,
        work=Work(flops=0.0, bytes=8.0 * n),
    )


def exact(n: int, k: int) -> Case:
    """The global optimum."""
    x = _values(n)
    package = peers.module("kmeans1d")

    def theirs() -> Found:
        fit = package.cluster(x, k)
        return np.asarray(fit.centroids), np.asarray(fit.clusters)

    return Case(
        f"exact scalar n={n} k={k}",
        "kmeans1d",
        lambda: _found(clustering.kmeans_1d(x, k, exact=True)),
        None if package is None else theirs,
        quality=functools.partial(_inertia, x),
    )


def coded(n: int, source: str, bits: float, error: float) -> Case:
    """Entropy-constrained, no peer. The loss: its bits, from real bytes, or its error over what can be reached,
    whichever is more.
    """
    x = getattr(np.random.default_rng(0), source)(size=n)
    x = ((x - x.mean()) / x.std()).astype(np.float32)

    def loss(found: Found) -> float:
        centroids, codes = found
        coder, symbols = Coder.named("ans")(), Symbols(codes, centroids.size)
        table = coder.table(symbols)
        size = len(table) + len(coder.encode(symbols, table)) + centroids.nbytes
        return max(8 * size / n / bits, _inertia(x, found) / n / error)

    return Case(
        f"entropy-constrained {source} n={n} bits={bits}",
        "",
        lambda: _found(clustering.entropy_constrained(x, bits=bits)),
        None,
        quality=loss,
    )


def _values(n: int) -> np.ndarray:
    return np.random.default_rng(n).standard_normal(n).astype(np.float32)


def _found(fit: Any) -> Found:
    jax.block_until_ready(fit)
    return np.asarray(fit.centroids), np.asarray(fit.codes)


def _inertia(x: np.ndarray, found: Found) -> float:
    centroids, codes = found
    return float(np.sum((x.astype(np.float64) - centroids[codes]) ** 2))


if __name__ == "__main__":
    sys.exit(command.run(__doc__ or "", cases))
