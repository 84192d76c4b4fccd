"""Clustering against faiss-cpu and scikit-learn: `python -m experiments.benchmarks.clustering`."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import faiss
import jax
import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.cluster import KMeans

from quantree import clustering

ROUNDS = 5


@dataclass(frozen=True)
class Case:
    """One job done by two programs; each returns its inertia."""

    name: str
    peer: str
    ours: Callable[[], float]
    theirs: Callable[[], float]

    def run(self) -> tuple[float, float, float]:
        """Peer's time over ours (median of alternating runs after one to compile), and both inertias."""
        results = self.ours(), self.theirs()
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(ROUNDS):
            for program, taken in zip((self.ours, self.theirs), times, strict=True):
                started = time.perf_counter()
                program()
                taken.append(time.perf_counter() - started)
        return statistics.median(times[1]) / statistics.median(times[0]), *results


def assignment(n: int, d: int, k: int) -> Case:
    """Codes of the nearest of k centroids."""
    x, centroids = _points(n, d), _points(k, d)
    on_device = jax.device_put(x), jax.device_put(centroids)
    index: Any = faiss.IndexFlatL2(d)
    index.add(centroids)

    def inertia(codes: np.ndarray) -> float:
        return float(((x - centroids[codes]) ** 2).sum())

    return Case(
        f"assign n={n} d={d} k={k}",
        "faiss",
        lambda: inertia(np.asarray(clustering.assign(*on_device))),
        lambda: inertia(index.search(x, 1)[1][:, 0]),
    )


def lloyd(n: int, d: int, k: int, iterations: int = 25) -> Case:
    """Iterations of k-means from the same start."""
    x = _points(n, d)
    start = x[np.random.default_rng(1).permutation(n)[:k]]
    on_device, key = jax.device_put(x), jax.random.key(0)

    def ours() -> float:
        return float(
            clustering.kmeans(on_device, k, key=key, initial=start, iterations=iterations, tolerance=0).inertia
        )

    def theirs() -> float:
        fit: Any = faiss.Kmeans(d, k, niter=iterations, max_points_per_centroid=n)
        fit.train(x, init_centroids=start)
        return float(fit.index.search(x, 1)[0].sum())

    return Case(f"Lloyd x {iterations} n={n} d={d} k={k}", "faiss", ours, theirs)


def scalar(n: int, k: int) -> Case:
    """Scalar k-means; the peer runs 50 Lloyd iterations from quantiles."""
    x = _points(n, 1)
    start = np.quantile(x, (np.arange(k) + 0.5) / k).astype(np.float32)[:, None]
    settings: dict[str, Any] = {"init": start, "n_init": 1, "max_iter": 50, "tol": 0}
    peer: Any = KMeans(k, **settings)
    return Case(
        f"scalar n={n} k={k}",
        "scikit-learn",
        lambda: float(clustering.kmeans_1d(x[:, 0], k).inertia),
        lambda: float(peer.fit(x).inertia_),
    )


def _points(n: int, d: int) -> np.ndarray:
    return np.random.default_rng(n + d).standard_normal((n, d)).astype(np.float32)


def main() -> None:
    """Prints the table."""
    cases = [
        assignment(262_144, 4, 256),
        assignment(262_144, 8, 256),
        assignment(65_536, 9, 256),
        lloyd(65_536, 4, 256),
        scalar(1_000_000, 16),
    ]
    table = Table("case", "peer", "peer's time / ours", "our inertia / peer's")
    for case in cases:
        ratio, ours, theirs = case.run()
        table.add_row(case.name, case.peer, f"{ratio:.2f}", f"{ours / theirs:.4f}")
    Console().print(table)


if __name__ == "__main__":
    main()
