"""MNIST (LeCun, Cortes, Burges 1998): handwritten digits."""

from pathlib import Path
from typing import Any, ClassVar

from experiments.data.idx import CONTENTS, read_pairs
from experiments.data.source import Images, Split
from quantree.registry import register


@register("mnist")
class Mnist(Images):
    """Inputs uint8 [n, 28, 28, 1], white on black."""

    version = "3.0.1"
    title = "handwritten digits, 28 x 28 grey"
    sizes: ClassVar = {"train": 60_000, "test": 10_000}
    shape = (28, 28, 1)
    classes = tuple("0123456789")
    raw = CONTENTS
    official = True

    def builder(self) -> type[Any]:
        """See `Source.builder`."""
        import tensorflow_datasets as tfds

        return tfds.builder_cls(self.name)

    def read(self, raw: Path | None) -> dict[str, Split]:
        """See `Images.read`."""
        assert raw is not None
        return read_pairs(raw, self.name, self.shape, self.sizes)
