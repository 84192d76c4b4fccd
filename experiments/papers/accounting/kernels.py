"""The part of a compressed model that papers count: the kernels of its layers, as matrices."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from quantree.encodings import Coded, Compressed


@dataclass(frozen=True)
class Kernel:
    """One kernel as the file stands for it.

    values: float32, of the leaf's shape. form: `raw`, as it was; `pruned`, otherwise as it was; `coded`, of few values.
    codebook: name of the codebook of a coded kernel; kernels that share one have the same name here. table: its shape,
    [segments, k, d]. codes: how many codes stand for the kernel. zeros: whether some weights were pruned away.
    """

    path: str
    values: np.ndarray
    form: Literal["raw", "pruned", "coded"]
    codebook: str | None = None
    table: tuple[int, ...] = ()
    codes: int = 0
    zeros: bool = False

    @property
    def dense(self) -> bool:
        """Whether it belongs to a dense layer: [inputs, outputs]."""
        return self.values.ndim == 2

    @property
    def matrix(self) -> np.ndarray:
        """[n, m]: a row for each input (of a convolution: position in the window and channel), a column per output."""
        return self.values.reshape(-1, self.values.shape[-1])

    @property
    def kept(self) -> int:
        """How many weights are not zero."""
        return int(np.count_nonzero(self.values))


def is_kernel(path: str, axes: int) -> bool:
    """True for `fc1/kernel` and the like: neither biases, nor what normalises, nor embeddings."""
    return axes >= 2 and path.rpartition("/")[2] == "kernel"


def kernels(compressed: Compressed, counts: Callable[[str, int], bool] = is_kernel) -> list[Kernel]:
    """The kernels of a model, in its order; `counts(path, axes)` picks among its leaves."""
    found = []
    for path, leaf in compressed.leaves.items():
        if counts(path, len(leaf.shape)):
            values = np.asarray(leaf.decode(compressed.codebooks), np.float32)
            book = next(iter(leaf.uses()), None)
            zeros = leaf.zeros() is not None
            if book is None:
                found.append(Kernel(path, values, "pruned" if zeros else "raw", zeros=zeros))
                continue
            table = compressed.codebooks[book].table().shape
            codes = leaf.codes.size if isinstance(leaf, Coded) else -(-values.size // table[2])
            found.append(Kernel(path, values, "coded", book, table, codes, zeros))
    return found


def by_codebook(kernels: list[Kernel]) -> list[list[Kernel]]:
    """Coded kernels, those together that share a codebook."""
    groups: dict[str | None, list[Kernel]] = {}
    for kernel in kernels:
        groups.setdefault(kernel.codebook, []).append(kernel)
    return list(groups.values())


def levels(arrays: list[np.ndarray]) -> np.ndarray:
    """The distinct values of several arrays, ascending."""
    return np.unique(np.concatenate([np.unique(array) for array in arrays]))


def counts_of(array: np.ndarray, known: np.ndarray) -> np.ndarray:
    """How often each of the `known` values (ascending) occurs in an array that holds no others: int64 [k]."""
    return np.bincount(np.searchsorted(known, array.reshape(-1)), minlength=known.size)
