"""Groupings that need nothing but the shapes of the leaves."""

from collections.abc import Mapping, Sequence

from quantree.encodings import Encoding
from quantree.quantizers.base import Grouping
from quantree.registry import register


@register("tensor")
class PerTensor(Grouping):
    """Every leaf has a codebook of its own."""

    def groups(self, paths: Sequence[str], leaves: Mapping[str, Encoding]) -> dict[str, list[str]]:
        return {path: [path] for path in paths}


@register("kind")
class PerKind(Grouping):
    """One codebook for all convolution kernels, one for all dense kernels, one for all vectors ("unified", Marino et
    al.).
    """

    def groups(self, paths: Sequence[str], leaves: Mapping[str, Encoding]) -> dict[str, list[str]]:
        kinds: dict[str, list[str]] = {}
        for path in paths:
            axes = len(leaves[path].shape)
            kinds.setdefault("vector" if axes < 2 else "dense" if axes == 2 else "conv", []).append(path)
        return kinds


@register("net")
class WholeNet(Grouping):
    """One codebook for everything."""

    def groups(self, paths: Sequence[str], leaves: Mapping[str, Encoding]) -> dict[str, list[str]]:
        return {"net": list(paths)}
