"""Block regimes of Martinez et al. (CVPR 2021, arXiv 2010.15703): how each layer is cut, and what follows from it."""

import fnmatch
import functools
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

from experiments.papers.accounting.martinez import HALF, code_bits
from experiments.papers.accounting.rule import FLOAT
from experiments.papers.published.forms import Martinez2021, Quantized, Regime
from experiments.zoo import Network
from quantree.model import flatten

IMAGE, CLASSES = (224, 224, 3), 1000

Shapes = dict[str, tuple[int, ...]]


class Blocks(NamedTuple):
    """A layer as `codes` sub-vectors of `d` weights, which share `k` centroids."""

    codes: int
    d: int
    k: int


@dataclass(frozen=True)
class Bits:
    """A network as the paper counts it. rest: what is not quantized."""

    codes: int
    codebooks: int
    rest: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.codes + self.codebooks + self.rest


def regimes(paper: Martinez2021) -> Iterator[tuple[str, Quantized, str, Regime]]:
    """(name, network, size of the blocks, regime) of each file that the paper made."""
    for name, network in paper.networks.items():
        for size, regime in network.regimes.items():
            yield name, network, size, regime


def shapes(network: Quantized) -> Shapes:
    """Path -> shape of all parameters, in our names and axes. Nothing is computed."""
    whole = _whole(network.model)
    kept = {path: x for path, x in whole.items() if not any(fnmatch.fnmatchcase(path, p) for p in network.without)}
    return {**kept, **network.beside}


@functools.cache
def _whole(name: str) -> Shapes:
    leaves = flatten(Network.named(name)().abstract(IMAGE, CLASSES).params)
    return {path: leaf.shape for path, leaf in leaves.items()}


def cut(shapes: Shapes, network: Quantized, regime: Regime, strict: bool = False) -> dict[str, Blocks]:
    """The kernels that are quantized: path -> blocks.

    strict: a codebook has fewer centroids than a quarter of its codes, as in kill-the-bits, not just as many at most.
    """
    found = {}
    for path, shape in shapes.items():
        if not path.endswith("/kernel") or path in network.raw:
            continue
        *window, _, _ = shape
        dense, own = not window, regime.layers.get(path)
        usual = regime.dense if dense else regime.pointwise if prod(window) == 1 else regime.kernels * prod(window)
        d = own.d if own and own.d else usual
        most = own.k if own and own.k else regime.dense_k if dense else regime.k
        codes = prod(shape) // d
        found[path] = Blocks(codes, d, min(most, _clamp(codes, strict)))
    return found


def _clamp(codes: int, strict: bool) -> int:
    """The largest power of two that is at most codes / 4, or below that."""
    largest = codes // 4 - (strict and codes % 4 == 0)
    return 1 << max(0, largest.bit_length() - 1)


def count(shapes: Shapes, blocks: Mapping[str, Blocks]) -> Bits:
    """N log2 k + 16 k d for each kernel of N blocks, 32 bits for each number of the other leaves."""
    return Bits(
        codes=sum(code_bits(each.codes, each.k) for each in blocks.values()),
        codebooks=sum(HALF * each.k * each.d for each in blocks.values()),
        rest=FLOAT * sum(prod(shape) for path, shape in shapes.items() if path not in blocks),
    )


def recipe(blocks: Mapping[str, Blocks], iterations: int) -> list[dict[str, Any]]:
    """Stages that give a network these blocks: norms folded, Lloyd's k-means, codebooks of 16 bits."""
    alike = defaultdict(list)
    for path, each in blocks.items():
        alike[each.d, each.k].append(path)
    learner = {"kind": "kmeans", "init": "random", "iterations": iterations}
    quantize = [
        {
            "kind": "quantize",
            "match": paths,
            "blocking": {"kind": "sub_vectors", "d": d},
            "learner": {**learner, "k": k},
        }
        for (d, k), paths in alike.items()
    ]
    return [{"kind": "fold_statistics"}, *quantize, {"kind": "cast", "match": "codebooks/*"}]
