"""k-means on a GPU against PyTorch, cuML and faiss on the same card: `python -m experiments.benchmarks.gpu`.

Needs JAX with CUDA; without a GPU it says so and measures nothing. `--smoke --device cpu` shows that it runs.
"""

import argparse
import functools
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from experiments.benchmarks import command, peers
from experiments.benchmarks.case import Case, Work
from experiments.benchmarks.clustering import ITERATIONS, inertia, lloyd_work, points
from experiments.benchmarks.torch_kmeans import torch_kmeans
from quantree import clustering

LARGE = (16_000_000, 8, 4096)
BATCH = (512, 2048, 4, 16)
SCALAR = (16_000_000, 256)
SMOKE = {"large": (2048, 8, 32), "batch": (3, 128, 4, 8), "scalar": (2048, 8)}
SAMPLE = 1_000_000  # points on which the host reckons the inertia of both programs
LIBRARIES = {"torch": "torch", "cuml": "cuml", "faiss-gpu": "faiss"}


def arguments() -> argparse.ArgumentParser:
    """What can be set."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    return parser


def cases(settings: argparse.Namespace) -> list[Callable[[], Case]]:
    """All cases of this command."""
    large, batch, scalar = SMOKE.values() if settings.smoke else (LARGE, BATCH, SCALAR)
    return [
        *(functools.partial(lloyd, *large, peer, settings.device) for peer in LIBRARIES),
        functools.partial(batched, *batch, settings.device),
        functools.partial(one_dimensional, *scalar, settings.device),
    ]


def lloyd(n: int, d: int, k: int, peer: str, device: str) -> Case:
    """Iterations of k-means from the same start."""
    x = points(n, d)
    start = x[:k]
    return Case(
        f"Lloyd x {ITERATIONS} n={n} d={d} k={k}",
        peer,
        _kmeans(x, start),
        _peer(peer, x, start, device),
        quality=lambda centroids: inertia(x[:SAMPLE], centroids),
        work=lloyd_work(n, d, k, ITERATIONS),
    )


def batched(b: int, n: int, d: int, k: int, device: str) -> Case:
    """Independent problems in one call, also of the peer."""
    x = points(b * n, d).reshape(b, n, d)
    start = x[:, :k]
    return Case(
        f"{b} problems, Lloyd x {ITERATIONS} n={n} d={d} k={k}",
        "torch",
        _kmeans(x, start),
        _peer("torch", x, start, device),
        quality=lambda centroids: sum(inertia(*each) for each in zip(x, centroids, strict=True)),
        work=lloyd_work(b * n, d, k, ITERATIONS),
    )


def one_dimensional(n: int, k: int, device: str) -> Case:
    """Scalars: ours by `kmeans_1d`, which goes on until it has converged; the peer starts from quantiles."""
    x = points(n, 1)
    on_device = jax.device_put(x[:, 0])
    start = np.quantile(x, (np.arange(k) + 0.5) / k).astype(np.float32)[:, None]
    return Case(
        f"scalar n={n} k={k}",
        "torch",
        lambda: np.asarray(clustering.kmeans_1d(on_device, k).centroids)[:, None],
        _peer("torch", x, start, device),
        quality=lambda centroids: inertia(x[:SAMPLE], centroids),
        lower_is_equal=True,
        work=Work(flops=0.0, bytes=8.0 * n),
    )


def _kmeans(x: np.ndarray, start: np.ndarray) -> Callable[[], np.ndarray]:
    on_device, begin, key = jax.device_put(x), jax.device_put(start), jax.random.key(0)

    def ours() -> np.ndarray:
        fit = clustering.kmeans(on_device, start.shape[-2], key=key, initial=begin, iterations=ITERATIONS, tolerance=0)
        return np.asarray(jax.block_until_ready(fit).centroids)

    return ours


def _peer(name: str, x: np.ndarray, start: np.ndarray, device: str) -> Callable[[], np.ndarray] | None:
    """The peer's k-means with the points already on the device, or None where it is not installed or can't use it."""
    library = peers.module(LIBRARIES[name])
    if library is None:
        return None
    if name == "torch":
        where = "cuda" if device == "gpu" else "cpu"
        x_there, start_there = (library.from_numpy(each.copy()).to(where) for each in (x, start))
        return lambda: torch_kmeans(x_there, start_there, ITERATIONS).cpu().numpy()
    k, d = start.shape
    if name == "cuml" and device == "gpu":
        x_there: Any = peers.module("cupy").asarray(x)
        settings = {"n_init": 1, "max_iter": ITERATIONS, "tol": 0.0, "output_type": "numpy"}
        return lambda: library.cluster.KMeans(k, init=start, **settings).fit(x_there).cluster_centers_
    if name == "faiss-gpu" and device == "gpu" and library.get_num_gpus():

        def faiss_kmeans() -> np.ndarray:
            fit = library.Kmeans(d, k, niter=ITERATIONS, max_points_per_centroid=len(x), gpu=True)
            fit.train(x, init_centroids=start)
            return fit.centroids

        return faiss_kmeans
    return None


def main(argv: Sequence[str] | None = None) -> int:
    """Measures on the chosen device -> exit status."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the card is shared with the peers
    asked, _ = arguments().parse_known_args(argv)
    if asked.device == "cpu":
        jax.config.update("jax_platforms", "cpu")
    elif jax.default_backend() != "gpu":
        print("no GPU that JAX can use: nothing was measured")
        return 0
    return command.run(__doc__ or "", cases, arguments(), argv=argv)


if __name__ == "__main__":
    sys.exit(main())
