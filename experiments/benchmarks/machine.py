"""What the figures were measured on, and what this machine can do at best."""

import importlib.metadata
import platform
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp

from experiments.benchmarks.case import Work, stopwatch
from quantree.clustering.threads import cores

ATTEMPTS = 5
PRODUCT = {"cpu": 3072, "gpu": 8192, "tpu": 8192}  # rows and columns of the matrices that are multiplied
COPY = {"cpu": 1 << 26, "gpu": 1 << 28, "tpu": 1 << 28}  # numbers that are copied, far more than a cache holds
SMALL_PRODUCT, SMALL_COPY = 256, 1 << 16


def description() -> dict[str, str]:
    """Processor, cores, JAX, device, and the versions of the peers that are installed."""
    device = jax.devices()[0]
    found = {
        "processor": f"{_processor()}, {cores()} cores",
        "device": f"{jax.device_count()} x {device.device_kind}",
        "python": platform.python_version(),
        "jax": jax.__version__,
    }
    for name in ("faiss-cpu", "scikit-learn", "ott-jax", "ckmeans", "kmeans1d", "torch", "cuml-cu12", "cuml-cu13"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def best_rates(small: bool = False) -> Work:
    """Floating-point operations and bytes per second, the best of a few large products and copies in float32.

    The product is as precise as that of the engine (no TF32). The copy adds 1, which XLA does on all cores of a CPU,
    where a plain copy takes one.
    """
    backend = jax.default_backend()
    n = SMALL_PRODUCT if small else PRODUCT[backend]
    count = SMALL_COPY if small else COPY[backend]
    matrix, numbers = jnp.ones((n, n), jnp.float32), jnp.ones((count,), jnp.float32)
    product = jax.jit(lambda a: jnp.matmul(a, a, precision=jax.lax.Precision.HIGHEST))
    copy = jax.jit(lambda a: a + 1)
    return Work(
        flops=2 * n**3 / _fastest(lambda: jax.block_until_ready(product(matrix))),
        bytes=2 * numbers.nbytes / _fastest(lambda: jax.block_until_ready(copy(numbers))),
    )


def roofline(work: Work, rates: Work, seconds: float) -> float:
    """Share of the time that the scarcer of arithmetic and memory alone would take."""
    return max(work.flops / rates.flops, work.bytes / rates.bytes) / seconds


def _fastest(program: Callable[[], object]) -> float:
    program()
    return min(stopwatch(program)[0] for _ in range(ATTEMPTS))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
