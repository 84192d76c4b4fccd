"""CIFAR-10 (Krizhevsky 2009): photographs of ten kinds of things."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from experiments.data.cifar import find, read_batches
from experiments.data.source import Example, Images, Split
from quantree.registry import register


@register("cifar10")
class Cifar10(Images):
    """Inputs uint8 [n, 32, 32, 3], red, green, blue."""

    version = "3.0.2"
    title = "photographs, 32 x 32 colour"
    sizes: ClassVar = {"train": 50_000, "test": 10_000}
    shape = (32, 32, 3)
    classes = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    raw = "{data_batch_1..5,test_batch}.bin, the binary version"
    official = True

    folder: ClassVar[str] = "cifar-10-batches-bin"
    files: ClassVar[dict[str, tuple[str, ...]]] = {
        "train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
        "test": ("test_batch.bin",),
    }

    @property
    def names(self) -> dict[str, tuple[str, ...]]:
        """The labels of an image, in the order of its bytes -> the names of their values."""
        return {"label": self.classes}

    def builder(self) -> type[Any]:
        """See `Source.builder`. TFDS reads the names of the labels from its download; here they are known."""
        import tensorflow_datasets as tfds
        from tensorflow_datasets.core.registered import skip_registration

        official, names = tfds.builder_cls(self.name), self.names
        with skip_registration():

            class Builder(official):
                __module__ = official.__module__

                def _info(self) -> Any:
                    info: Any = official._info(self)
                    for label, values in names.items():
                        info.features[label].names = list(values)
                    return info

        return Builder

    def read(self, raw: Path | None) -> dict[str, Split]:
        """See `Images.read`."""
        return {split: (images, labels[:, -1]) for split, (images, labels) in self._read(raw).items()}

    def examples(self, raw: Path | None) -> dict[str, Sequence[Example]]:
        """See `Source.examples`."""
        return {split: _Labelled(self, split, *arrays) for split, arrays in self._read(raw).items()}

    def _read(self, raw: Path | None) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        assert raw is not None
        folder = find(raw, self.folder, self.files["test"][0])
        return {
            split: read_batches(folder, files, len(self.names), self.sizes[split])
            for split, files in self.files.items()
        }


class _Labelled(Sequence[Example]):
    def __init__(self, source: Cifar10, split: str, images: np.ndarray, labels: np.ndarray) -> None:
        self.source, self.split, self.labels = source, split, labels
        self.pictures = source.encoded(images, labels[:, -1])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Any) -> Any:
        labels = {name: int(label) for name, label in zip(self.source.names, self.labels[index], strict=True)}
        return {**self.pictures[index], **labels, "id": f"{self.split}_{index:05d}"}
