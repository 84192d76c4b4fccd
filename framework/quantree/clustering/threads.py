"""The cores of a CPU: side by side, and at their full width.

XLA runs one loop on one core, so a long one is cut into pieces. Whatever is summed up is cut at places that depend on
the number of points alone, so results don't depend on how many threads there are.
"""

import functools
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Generic, ParamSpec, TypeVar

import jax
from jax.core import Tracer

P = ParamSpec("P")
R = TypeVar("R")

WIDTH = {"xla_cpu_prefer_vector_width": 512}  # bits; XLA's own choice, 256, leaves half of an AVX-512 core idle


def cores() -> int:
    """As many threads as the variable `NPROC` says, or as the process has cores."""
    given = os.environ.get("NPROC", "")
    return int(given) if given.isdecimal() and int(given) else len(os.sched_getaffinity(0))


def on_host(*arrays: Any) -> bool:
    """Whether threads of the host can take these arrays: they are concrete and lie on one CPU device."""
    return jax.default_backend() == "cpu" and not any(
        isinstance(array, Tracer) or (isinstance(array, jax.Array) and len(array.devices()) > 1) for array in arrays
    )


class Wide(Generic[P, R]):
    """A jitted function that uses vectors of the CPU's full width, where it is not part of another one."""

    def __init__(self, function: Callable[P, R], **settings: Any) -> None:
        functools.update_wrapper(self, function)
        # JAX takes options for the compiler at the outermost jit only.
        self.inner: Any = jax.jit(function, **settings)
        self.outer: Any = jax.jit(function, compiler_options=WIDTH, **settings)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((args, kwargs)))
        return (self.inner if traced or jax.default_backend() != "cpu" else self.outer)(*args, **kwargs)


def wide_jit(**settings: Any) -> Callable[[Callable[P, R]], Wide[P, R]]:
    """Decorator like `jax.jit` with these settings; see `Wide`."""
    return lambda function: Wide(function, **settings)


@contextmanager
def side_by_side() -> Iterator[Callable[[Callable[[Any], R], Iterable[Any]], Iterator[R]]]:
    """A `map` in threads; results come in order."""
    with ThreadPoolExecutor(cores()) as pool:
        yield pool.map
