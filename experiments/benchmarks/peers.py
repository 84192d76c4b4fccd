"""Other people's k-means, each brought to one form: points [n, d] and a start [k, d] -> centroids [k, d].

A peer that is not installed is None where its module would be.
"""

import functools
import importlib
import importlib.util
import os
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from quantree.clustering.threads import cores

# OpenMP's threads spin for a while after each job, which steals a core from whoever comes next. Read when a library
# that brings OpenMP is loaded; faiss itself is not slower by it.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

KMeans = Callable[[np.ndarray, np.ndarray, int], np.ndarray]


def module(name: str) -> Any:
    """The module, with as many threads as ours has, or None."""
    if importlib.util.find_spec(name.partition(".")[0]) is None:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a peer is built on is not ours to mend
        found = importlib.import_module(name)
    if name == "faiss":
        found.omp_set_num_threads(cores())
    return found


def faiss_kmeans(x: np.ndarray, start: np.ndarray, iterations: int) -> np.ndarray:
    """faiss.Kmeans, training alone."""
    k, d = start.shape
    # All points, and no complaint where there are few of them.
    fit = module("faiss").Kmeans(d, k, niter=iterations, max_points_per_centroid=len(x), min_points_per_centroid=1)
    fit.train(x, init_centroids=start)
    return fit.centroids


def sklearn_kmeans(x: np.ndarray, start: np.ndarray, iterations: int, algorithm: str = "lloyd") -> np.ndarray:
    """sklearn.cluster.KMeans; "elkan" prunes distances exactly."""
    cluster = module("sklearn.cluster")
    fit = cluster.KMeans(len(start), init=start, n_init=1, max_iter=iterations, tol=0, algorithm=algorithm)
    return fit.fit(x).cluster_centers_


def ott_kmeans(x: np.ndarray, start: np.ndarray, iterations: int) -> np.ndarray:
    """ott.tools.k_means, compiled; it holds n x k distances."""
    return np.asarray(_ott(x, start, iterations))


@functools.partial(jax.jit, static_argnums=2)
def _ott(x: jax.Array, start: jax.Array, iterations: int) -> jax.Array:
    def begin(*_: Any) -> jax.Array:
        return start

    fit = module("ott.tools.k_means").k_means
    return fit(
        x, len(start), init=begin, n_init=1, tol=0, min_iterations=iterations, max_iterations=iterations
    ).centroids


KMEANS: dict[str, tuple[str, KMeans]] = {
    "faiss": ("faiss", faiss_kmeans),
    "scikit-learn lloyd": ("sklearn", sklearn_kmeans),
    "scikit-learn elkan": ("sklearn", functools.partial(sklearn_kmeans, algorithm="elkan")),
    "ott-jax": ("ott", ott_kmeans),
}


def kmeans(name: str) -> KMeans | None:
    """The k-means of this name in `KMEANS`, or None if its library is not installed."""
    library, program = KMEANS[name]
    return None if module(library) is None else program
