"""The cores of a CPU side by side: XLA runs one loop on one core, so a long one is cut into pieces.

Whatever is summed up is cut at places that depend on the number of points alone, so results don't depend on how many
threads there are.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import jax
from jax.core import Tracer


def cores() -> int:
    """As many threads as the variable `NPROC` says, or as the process has cores."""
    given = os.environ.get("NPROC", "")
    return int(given) if given.isdecimal() and int(given) else len(os.sched_getaffinity(0))


def worth_it(x: Any, points: int) -> bool:
    """Whether x is one problem [n, d] of so many points, and where threads of the host can take them."""
    many = not isinstance(x, Tracer) and x.ndim == 2 and x.shape[0] >= points
    return many and jax.default_backend() == "cpu" and len(x.devices()) == 1


@contextmanager
def side_by_side() -> Iterator[Callable[[Callable[[Any], Any], Iterable[Any]], list[Any]]]:
    """A `map` in threads."""
    with ThreadPoolExecutor(cores()) as pool:
        yield lambda function, places: list(pool.map(function, places))
