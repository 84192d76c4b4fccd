"""All layers of ResNet-50, compilation included, against a faiss loop: `python -m experiments.benchmarks.resnet50`.

The regime is that of small blocks in Martinez et al. ("Permute, Quantize, and Fine-tune", CVPR 2021): a vector is one
k x k kernel, or 4 weights of a 1 x 1 convolution or of the last layer; 256 centroids, 1024 for the last layer, fewer
where there are not four vectors for each; the first convolution is left alone. The weights are normal random numbers.
"""

import argparse
import atexit
import functools
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.benchmarks import command, peers
from experiments.benchmarks.case import Case, Work
from experiments.benchmarks.clustering import ITERATIONS, inertia, lloyd_work, points
from quantree import clustering

BLOCKS = (3, 4, 6, 3)  # residual blocks of each stage
MEMORY_LIMIT = 2_000_000_000  # bytes
SMOKE_LAYERS, SMOKE_SHRINK = 2, 4


class Layer(NamedTuple):
    """`n` vectors of length `d` that share `k` centroids."""

    n: int
    d: int
    k: int


def cases(settings: argparse.Namespace) -> list[Callable[[], Case]]:
    """All cases of this command."""
    return [functools.partial(network, settings.smoke, kept) for kept in (False, True)]


def network(smoke: bool, kept: bool) -> Case:
    """The whole network. Every run is a new process; `kept`: with the compiled programs of the first one."""
    work = [lloyd_work(*layer, ITERATIONS) for layer in layers(smoke)]
    return Case(
        f"ResNet-50, Lloyd x {ITERATIONS}, compilation cache {'kept' if kept else 'empty'}",
        "faiss",
        functools.partial(ours, smoke, _folder() if kept else None),
        None if peers.module("faiss") is None else functools.partial(theirs, smoke),
        work=Work(sum(each.flops for each in work), sum(each.bytes for each in work)),
        memory_limit=MEMORY_LIMIT,
        clock=in_new_process,
    )


def in_new_process(program: Callable[[], Any]) -> Any:
    """What `program` returns in a process that has run nothing yet; it brings its own time along."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(program).result()


def ours(smoke: bool, cache: str | None) -> tuple[float, float]:
    """(seconds, inertia) of all layers by `clustering.kmeans`; cache: folder of compiled programs, None: a new one."""
    # As sweeps have it; see `experiments.sweep`.
    jax.config.update("jax_compilation_cache_dir", _folder() if cache is None else cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    problems, key = list(_problems(smoke)), jax.random.key(0)
    started = time.perf_counter()
    found = []
    for x, start in problems:
        fit = clustering.kmeans(x, len(start), key=key, initial=start, iterations=ITERATIONS, tolerance=0)
        found.append(np.asarray(jax.block_until_ready(fit).centroids))
    seconds = time.perf_counter() - started
    return seconds, _loss(problems, found)


def theirs(smoke: bool) -> tuple[float, float]:
    """(seconds, inertia) of all layers by faiss."""
    problems = list(_problems(smoke))
    started = time.perf_counter()
    found = [peers.faiss_kmeans(x, start, ITERATIONS) for x, start in problems]
    seconds = time.perf_counter() - started
    return seconds, _loss(problems, found)


def layers(smoke: bool = False) -> list[Layer]:
    """The 52 convolutions after the first one and the last layer, in order; for `smoke` the first few, narrower."""
    shapes = list(_shapes())[: SMOKE_LAYERS if smoke else None]
    shrink = SMOKE_SHRINK if smoke else 1
    return [_layer(inputs // shrink, outputs // shrink, size, k) for inputs, outputs, size, k in shapes]


def _shapes() -> Iterator[tuple[int, int, int, int]]:
    """(inputs, outputs, kernel size, most centroids) of each layer: He et al. (CVPR 2016), table 1, 50 layers."""
    inputs = 64
    for stage, blocks in enumerate(BLOCKS):
        width = 64 << stage
        for block in range(blocks):
            yield inputs, width, 1, 256
            yield width, width, 3, 256
            yield width, 4 * width, 1, 256
            if block == 0:
                yield inputs, 4 * width, 1, 256  # the shortcut, where the shape changes
            inputs = 4 * width
    yield inputs, 1000, 1, 1024


def _layer(inputs: int, outputs: int, size: int, most: int) -> Layer:
    d = 4 if size == 1 else size**2
    n = inputs * outputs * size**2 // d
    return Layer(n, d, min(most, 1 << ((n // 4).bit_length() - 1)))


def _problems(smoke: bool) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Points [n, d] of each layer, and k of them to start from."""
    for place, (n, d, k) in enumerate(layers(smoke)):
        x = points(n, d)
        yield x, x[np.random.default_rng(place).permutation(n)[:k]]


def _loss(problems: list[tuple[np.ndarray, np.ndarray]], found: list[np.ndarray]) -> float:
    return sum(inertia(x, centroids) for (x, _), centroids in zip(problems, found, strict=True))


def _folder() -> str:
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


if __name__ == "__main__":
    sys.exit(command.run(__doc__ or "", cases))
