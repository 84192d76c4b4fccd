"""Clusterings that `test_sharded.py` does on one device, and this program on several devices or in several processes.

Usage: python -m tests.clustering.spread RESULT [PORT PROCESS PROCESSES]

Writes one .npz per clustering into the folder RESULT. The devices of all processes form one mesh of two axes.
"""

import sys

import jax

if __name__ == "__main__" and len(sys.argv) > 2:
    # Before quantree is imported, which computes something and so settles which devices there are.
    port, process, processes = map(int, sys.argv[2:])
    jax.distributed.initialize(
        f"localhost:{port}", processes, process, initialization_timeout=60, shutdown_timeout_seconds=30
    )

from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from quantree.clustering import KMeans, annealed, assign, kmeans
from quantree.clustering.meshes import WHOLE, automatic, place
from quantree.errors import LeafError

N, D, K = 1003, 3, 12  # no number of devices divides so many points
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, D)).astype(np.float32)
WEIGHTS = RNG.uniform(0.1, 3, N).astype(np.float32)
MASK = RNG.random(N) < 0.7
LOST = np.concatenate([X[: K - 4], np.full((4, D), 99, np.float32)])  # four of these centroids get no points
ZERO = np.zeros((1, D), np.float32)

CASES: dict[str, Callable[[Mesh | None], KMeans]] = {
    "start": lambda mesh: kmeans(X, K, key=jax.random.key(7), initial=X[:K], mesh=mesh),
    "lost": lambda mesh: kmeans(X, K, key=jax.random.key(7), initial=LOST, mesh=mesh),
    "all": lambda mesh: kmeans(X, K, key=jax.random.key(7), weights=WEIGHTS, mask=MASK, pinned=ZERO, mesh=mesh),
    "batch": lambda mesh: kmeans(X[:999].reshape(3, 333, D), 5, key=jax.random.key(7), init="linear", mesh=mesh),
    "restarts": lambda mesh: kmeans(X, K, key=jax.random.key(7), init="random", restarts=3, mesh=mesh),
    "annealed": lambda mesh: annealed(X, K, key=jax.random.key(7), steps=10, weights=WEIGHTS, mesh=mesh),
    "bfloat16": lambda mesh: kmeans(jnp.asarray(X, jnp.bfloat16), K, key=jax.random.key(7), initial=X[:K], mesh=mesh),
}


def everywhere(array: np.ndarray, mesh: Mesh) -> jax.Array:
    """`array` of which each device of the mesh holds a part, and no process more than its own."""
    sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    return jax.make_array_from_callback(array.shape, sharding, lambda part: array[part])


def already(mesh: Mesh | None) -> KMeans:
    """k-means of points that are spread before it sees them; their number fits."""
    x, weights, mask = X[:1000], WEIGHTS[:1000], MASK[:1000]
    if mesh is None:
        return kmeans(x, K, key=jax.random.key(7), weights=weights, mask=mask)
    spread = [everywhere(array, mesh) for array in (x, weights, mask)]
    return kmeans(spread[0], K, key=jax.random.key(7), weights=spread[1], mask=spread[2])


def main(folder: Path) -> None:
    """The program."""
    mesh = jax.make_mesh((2, jax.device_count() // 2), ("rows", "columns"))
    alone = jax.process_count() == 1  # several processes need longer, and their programs are no others
    cases = CASES if alone else {name: CASES[name] for name in ("all", "lost")}
    for name, case in {**cases, "already": already}.items():
        found = case(mesh)
        assert all(leaf.is_fully_replicated for leaf in found._replace(codes=found.centroids))
        np.savez(folder / name, **jax.tree.map(whole, found)._asdict())
    if not alone:
        try:
            place(jnp.full((2,), jax.process_index()), automatic(mesh), WHOLE)
        except LeafError:
            pass
        else:
            raise AssertionError("nobody saw that the processes differ")
    x = everywhere(X[:1000], mesh)
    np.testing.assert_array_equal(whole(assign(x, X[:K])), assign(X[:1000], X[:K]))
    for bad in (np.full_like(X[:1000], np.nan), X[:1000]):
        weights = everywhere(np.where(np.arange(1000) == 999, np.float32(-1), 1), mesh)
        try:
            kmeans(everywhere(bad, mesh), K, key=jax.random.key(7), weights=weights)
        except LeafError:
            continue
        raise AssertionError("neither NaN nor a negative weight was seen")


def whole(array: jax.Array) -> np.ndarray:
    """All of an array, whatever part of it this process has."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(array, tiled=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
