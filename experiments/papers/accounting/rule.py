"""What a paper's way of counting is."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from experiments.papers.accounting.kernels import Kernel, is_kernel, kernels
from quantree.encodings import Compressed
from quantree.errors import ConfigError
from quantree.registry import Plugin

FLOAT = 32  # bits of a weight in the papers, compressed or not
Part = Literal["whole", "dense", "conv"]


@dataclass(frozen=True)
class Count:
    """Bits as a paper counts them: of the uncompressed weights that it looks at, and of what it stores for them."""

    dense: int
    stored: int

    @property
    def ratio(self) -> float:
        """Uncompressed over compressed: larger is smaller. The column `paper_ratio`."""
        return self.dense / self.stored

    @property
    def psi(self) -> float:
        """Compressed over uncompressed: the share that is left."""
        return self.stored / self.dense


class PaperRule(Plugin, family="paper_rule"):
    """Counts the size of a compressed model as one paper does, beside the file and never in its place.

    Only kernels are counted (`is_kernel`) unless the rule says otherwise, at 32 bits a weight before compression,
    whatever their dtype here.
    """

    part: Part = Field(
        default="whole",
        description="kernels in both sums: all, those of dense layers, those of convolutions",
    )

    def counts(self, path: str, axes: int) -> bool:
        """Whether a leaf with so many axes is in the sums."""
        return is_kernel(path, axes) and self.part in ("whole", "dense" if axes == 2 else "conv")

    def check(self, leaves: Mapping[str, int]) -> None:
        """`ConfigError` if among these leaves (path -> number of axes) there is no kernel to count."""
        if not any(self.counts(path, axes) for path, axes in leaves.items()):
            raise ConfigError(f"{self.name}: in part {self.part!r} the network has no kernel to count")

    def count(self, compressed: Compressed) -> Count:
        """Counts. `ConfigError` if the model has no kernel of this part."""
        self.check({path: len(leaf.shape) for path, leaf in compressed.leaves.items()})
        found = kernels(compressed, self.counts)
        # A kernel without a value but zero may cost nothing by formula; a ratio must stay finite.
        return Count(FLOAT * sum(kernel.values.size for kernel in found), max(1, self.stored(found)))

    @abstractmethod
    def stored(self, kernels: list[Kernel]) -> int:
        """Bits that the paper stores for these kernels."""
