"""Products with a coded matrix against scipy.sparse and the dense product: `python -m experiments.benchmarks.products`.

A pruned and quantized matrix, and a batch of inputs. Each row says in its name in which form the product is computed
and how many bytes the peer's matrix takes for one of ours. With `--device gpu` the peer is the dense product on that
card; without a GPU it says so and measures nothing.
"""

import argparse
import functools
import itertools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse

from experiments.benchmarks import command
from experiments.benchmarks.case import Case
from quantree.products import CodedMatrix, coded_matmul, coded_matrix
from quantree.products.pack import LAYOUTS

SIDE = 4096
SYMBOLS = 32
DENSITIES = (0.05, 0.1)
BATCHES = (1, 32, 256)
SMOKE = {"side": 160, "densities": (0.1,), "batches": (4,)}
PEERS = ("scipy CSC", "dense")


def arguments() -> argparse.ArgumentParser:
    """What can be set."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--device", choices=("gpu", "cpu"), default="cpu")
    return parser


def cases(settings: argparse.Namespace) -> list[Callable[[], Case]]:
    """All cases of this command: each layout in the form that it takes by itself, against each peer."""
    side, densities, batches = SMOKE.values() if settings.smoke else (SIDE, DENSITIES, BATCHES)
    found = PEERS if settings.device == "cpu" else PEERS[1:]
    return [
        functools.partial(product, layout, side, density, batch, peer)
        for density, peer, layout, batch in itertools.product(densities, found, LAYOUTS, batches)
    ]


def product(layout: str, side: int, density: float, batch: int, peer: str) -> Case:
    """Inputs [batch, side] times weights [side, side] that are in place before."""
    symbols, centroids = weights(side, density)
    matrix = coded_matrix(symbols, centroids, zero=True, layout=layout)
    dense = np.concatenate([np.zeros(1, np.float32), centroids])[symbols]
    x = np.random.default_rng(1).standard_normal((batch, side), dtype=np.float32)
    exact = x.astype(np.float64) @ dense
    theirs, size = (_scipy if peer == "scipy CSC" else _dense)(x, dense)
    return Case(
        f"{layout} {matrix.form} n={side} density={density:g} batch={batch}, memory x {size / matrix.nbytes:.1f}",
        peer,
        _ours(x, matrix),
        theirs,
        # Losses are equal within 1 %, so products are within 0.001 %.
        quality=lambda found: 1 + 1000 * float(np.linalg.norm(found - exact) / np.linalg.norm(exact)),
    )


def weights(side: int, density: float) -> tuple[np.ndarray, np.ndarray]:
    """Symbols [side, side], 0 for a zero, all others equally often; their centroids."""
    rng = np.random.default_rng(0)
    kept = rng.random((side, side)) < density
    centroids = rng.standard_normal(SYMBOLS - 1, dtype=np.float32)
    return np.where(kept, rng.integers(1, SYMBOLS, (side, side)), 0), centroids


def _ours(x: np.ndarray, matrix: CodedMatrix) -> Callable[[], np.ndarray]:
    there = jax.device_put(x)
    return lambda: np.asarray(coded_matmul(there, matrix))


def _scipy(x: np.ndarray, dense: np.ndarray) -> tuple[Callable[[], Any], int]:
    """The product, on one thread as scipy has it, and the bytes of its matrix."""
    sparse = scipy.sparse.csc_array(dense)
    return lambda: x @ sparse, sparse.data.nbytes + sparse.indices.nbytes + sparse.indptr.nbytes


def _dense(x: np.ndarray, dense: np.ndarray) -> tuple[Callable[[], Any], int]:
    there, matrix, multiply = jax.device_put(x), jax.device_put(dense), jax.jit(jnp.matmul)
    return lambda: np.asarray(multiply(there, matrix)), dense.nbytes


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark on the device that was asked for."""
    settings, _ = arguments().parse_known_args(argv)
    if settings.device == "gpu" and jax.default_backend() != "gpu":
        print("no GPU that JAX can use: nothing was measured")
        return 0
    return command.run(__doc__ or "", cases, arguments(), argv=argv)


if __name__ == "__main__":
    sys.exit(main())
